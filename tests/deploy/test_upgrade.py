"""`breakglass host upgrade`, through a real ssh to a real sshd, on which the printed recipe was run."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from breakglass.agents.bundle import bundle
from breakglass.agents.pve.words import VERSION

from ..support.installing import ROOT, Door, Installed, new_key

pytestmark = [pytest.mark.all, pytest.mark.real("sshd", "mounts", "root")]
OLD = "#!/bin/sh\necho 0.1.0\n"


class Operator:
    """A person whose own ssh logs in to the host as root."""

    def __init__(self, host: Installed, door: Door, directory: Path) -> None:
        self.agent, self.directory = host.sbin / "breakglass-pve", directory
        private, public = new_key()
        (host.root / ".ssh/authorized_keys").write_text(f"{public}\n")
        identity, program = directory / "identity", directory / "bin/ssh"
        identity.touch(0o600)
        identity.write_text(private)
        program.parent.mkdir()
        options = f"-F none -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -i {identity}"
        program.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -q {options} "$@"\n')
        program.chmod(0o755)
        self.address = f"root@127.0.0.1:{door.port}"
        text = host.config.read_text().replace("breakglass@127.0.0.1", f"breakglass@127.0.0.1:{door.port}")
        self.config = directory / "breakglass.toml"
        self.config.touch(0o600)
        self.config.write_text(text)

    def upgrade(self, *words: str) -> "subprocess.CompletedProcess[str]":
        own = {"BREAKGLASS_CONFIG": str(self.config), "PATH": f"{self.directory}/bin:{os.environ['PATH']}"}
        argv = [sys.executable, "-m", "breakglass", "host", "upgrade", *words]
        return subprocess.run(argv, env=os.environ | own, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def host(directory: Path) -> Iterator[Installed]:
    with closing(Installed(directory)) as host:
        yield host


@pytest.fixture(scope="module")
def door(host: Installed) -> Iterator[Door]:
    with closing(Door(host, "-o", "PermitRootLogin=yes")) as door:
        yield door


@pytest.fixture
def operator(host: Installed, door: Door, tmp_path: Path) -> Iterator[Operator]:
    """A person with their own key, before a host on which a test changes the agent and root's keys alone."""
    yield Operator(host, door, tmp_path)
    host.restore()


def test_the_new_agent_takes_the_place_of_the_old_one(operator: Operator) -> None:
    """It needs no secret on the operator's machine. A host without an address is named, and holds up no other."""
    text = re.sub(r'_file = "[^"]*"', '_file = "/nonexistent"', operator.config.read_text())
    operator.config.write_text(f'[hosts.pve0]\nssh = "192.0.2.1"\n{text.replace("[sessions]", "[s]")}')
    operator.config.chmod(0o644)
    operator.agent.write_text(OLD)
    ran = operator.upgrade("pve1")
    assert (ran.returncode, ran.stdout.splitlines()[0], ran.stderr) == (0, f"pve1: 0.1.0 -> {VERSION}", "")
    status = operator.agent.stat()
    assert (operator.agent.read_text(), status.st_mode & 0o7777, status.st_uid) == (bundle(), 0o755, 0)
    assert [path.name for path in operator.agent.parent.glob("breakglass*")] == ["breakglass-pve"]
    ran = operator.upgrade("--all", "--json")
    upgraded, failed = json.loads(ran.stdout)["hosts"]
    assert (ran.returncode, ran.stdout.count("\n")) == (1, 1)
    assert upgraded == {"host": "pve1", "before": VERSION, "after": VERSION, "error": None}
    assert (failed["host"], failed["after"], "is not an address" in failed["error"]) == ("pve0", None, True)


def test_the_sessions_of_the_old_agent_end_and_its_jobs_go_on(host: Installed, operator: Operator) -> None:
    """A job is known by its input, which is /dev/null."""
    operator.agent.write_text("#!/usr/bin/python3 -IS\nimport time\nprint('up', flush=True)\ntime.sleep(1000)\n")
    line = host.inside("/usr/local/sbin/breakglass-pve", "serve", "--vms", "102")
    session, job = (
        subprocess.Popen(line, stdin=its, stdout=subprocess.PIPE, text=True)
        for its in (subprocess.PIPE, subprocess.DEVNULL)
    )
    try:
        for process in (session, job):
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
        operator.agent.write_text(OLD)  # which says its version
        assert operator.upgrade().returncode == 0
        assert session.wait(60) == -signal.SIGTERM
        assert job.poll() is None
    finally:
        for process in (session, job):
            process.kill()
            process.communicate()


def test_a_damaged_copy_is_not_installed(operator: Operator) -> None:
    """A connection that loses part of the file leaves the old agent in its place."""
    operator.agent.write_text(OLD)
    program = operator.directory / "bin/ssh"
    program.write_text(program.read_text().replace("exec /usr", "head -c 5000 | exec /usr"))
    ran = operator.upgrade("pve1")
    assert (ran.returncode, operator.agent.read_text()) == (1, OLD)
    assert "the copy is damaged" in ran.stderr
    assert "pve1: the host could not install the host agent; the old one is still in place" in ran.stderr
