"""A host whose sshd answers but whose host agent doesn't: the answer says so at once, and a reading verb ends early."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from breakglass.demo.proxmox.world import World

from ..support.service import Service, with_constants
from ..support.sshd import Sshd
from .test_reload import proxmox, wait_until

pytestmark = [pytest.mark.real("sshd"), pytest.mark.shared("world", "sshd")]

ENDS, HANGS = "raise SystemExit(1)\n", "import sys; sys.stdin.read()\n"
LIMITS = (
    "proxmox.run.TRYING_SECONDS = 0.2",
    "proxmox.run.silent_seconds = lambda deadline: 4.0",
    "proxmox.link.FIRST_SECONDS = 2.0",
    "proxmox.host.RETRY_SECONDS = 1.0",
    # the default of a parameter, which is 25 s for each of two tries
    "proxmox.channel.FIRST_SECONDS = 2.0; breakglass.proxmox.channel.Channel.ask.__defaults__ = (2.0,)",
)


@pytest.fixture
def service(short_dir: Path, sshd: Sshd, world: World) -> Iterator[Service]:
    agent = world.agent.read_text()
    program = with_constants(*LIMITS)
    service = Service(short_dir, port=sshd.port, key=sshd.power_key, host_key=[sshd.host_key], program=program)
    try:
        service.answering()
        yield service
    finally:
        service.stop()
        world.agent.write_text(agent)


@pytest.mark.parametrize(
    ("agent", "verb", "expected"),
    [
        (ENDS, "status", ("unreached", "agent-silent", False)),
        (HANGS, "status", ("unreached", "agent-silent", False)),
        (ENDS, "forensics", ("unreached", "agent-silent", False)),
        (HANGS, "reset", ("unknown", "answer-lost", None)),
    ],
)
def test_a_host_agent_without_a_word(service: Service, sshd: Sshd, agent: str, verb: str, expected: object) -> None:
    """A verb that reads is unreached. A verb of power was written, so its outcome stays unknown."""
    sshd.world.agent.write_text(agent)
    sshd.drop_connections()
    wait_until(lambda: proxmox(service)["devvm"] == "agent-silent")
    lines = service.pve(verb, vm="devvm", stream=True).lines
    tried = [str(line["trying"]) for line in lines if "trying" in line]
    assert tried[0].startswith("pve1: agent-silent since ")
    assert tried[0].endswith("; trying")
    answer = lines[-1]
    assert (answer["outcome"], answer["verdict"]["code"], answer["reached"]) == expected


def test_call_prints_what_it_tries(service: Service, sshd: Sshd) -> None:
    """The line comes before the answer, with the time of this machine. The exit code is that of unreached."""
    sshd.world.agent.write_text(ENDS)
    sshd.drop_connections()
    wait_until(lambda: proxmox(service)["devvm"] == "agent-silent")
    here = {"BREAKGLASS_URL": f"http://127.0.0.1:{service.port}", "BREAKGLASS_SECRET": service.secrets["operator"]}
    argv = [sys.executable, "-m", "breakglass", "call", "status", "--vm", "devvm"]
    ran = subprocess.run(argv, env=os.environ | here, capture_output=True, text=True, timeout=100)
    first = ran.stderr.splitlines()[0]
    assert (ran.returncode, first[:25], first[-8:]) == (3, "pve1: agent-silent since ", "; trying")
    assert (len(first.split()[3]), ran.stderr.count("trying")) == (len("02:41;"), 1)
    assert "said nothing" in ran.stderr
