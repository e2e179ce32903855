"""A host whose sshd answers but whose host agent doesn't: the answer says so at once, and a reading verb ends early."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.forked import run_command
from ..support.scripted import Scripted
from ..support.service import Service, with_constants
from ..support.sshd import Sshd
from ..support.stages import until

pytestmark = pytest.mark.real("sshd")

ENDS, HANGS = "raise SystemExit(1)\n", "import sys; sys.stdin.read()\n"
LIMITS = (
    "proxmox.run.TRYING_SECONDS = 0.1",
    "proxmox.run.silent_seconds = lambda deadline: 1.5",
    "proxmox.link.FIRST_SECONDS = 0.5",
    "proxmox.host.RETRY_SECONDS = 0.5",
    "proxmox.patience.BACKOFF = (0.05,)",
    # the default of a parameter, which is 25 s for each of two tries
    "proxmox.channel.ALIVE_SECONDS = 0.5; breakglass.proxmox.channel.Channel.ask.__defaults__ = (0.5,)",
)
UNREACHED, UNKNOWN = ("unreached", "agent-silent", False), ("unknown", "answer-lost", None)


@pytest.fixture
def service(short_dir: Path, scripted_sshd: Sshd) -> Iterator[Service]:
    """A handler with short limits that has never heard the host agent."""
    sshd, program = scripted_sshd, with_constants(*LIMITS)
    sshd.world.agent.write_text(ENDS)
    service = Service(short_dir, port=sshd.port, key=sshd.power_key, host_key=[sshd.host_key], program=program)
    try:
        yield service
    finally:
        service.stop()
        Scripted(sshd.world)


def test_a_host_agent_without_a_word(service: Service, scripted_sshd: Sshd) -> None:
    """A verb that reads is unreached. A verb of power was written, so its outcome stays unknown.

    Until then, a stream and `call` say what is tried.
    """
    for agent, verbs in ((ENDS, {"forensics": UNREACHED}), (HANGS, {"status": UNREACHED, "reset": UNKNOWN})):
        scripted_sshd.world.agent.write_text(agent)
        until(lambda: service.health()["vms"][0]["proxmox"] == "agent-silent", "a silent host agent")
        for verb, expected in verbs.items():
            *lines, answer = service.pve(verb, stream=True).lines
            tried = next(str(line["trying"]) for line in lines if "trying" in line)
            assert (tried[:25], tried[-8:]) == ("pve1: agent-silent since ", "; trying")
            assert (answer["outcome"], answer["verdict"]["code"], answer["reached"]) == expected, (agent, verb)
    here = {"BREAKGLASS_URL": f"http://127.0.0.1:{service.port}", "BREAKGLASS_SECRET": service.secrets["operator"]}
    ran = run_command("call", "status", **here)
    assert (ran.returncode, ran.stderr.count("pve1: agent-silent since ")) == (3, 1)
