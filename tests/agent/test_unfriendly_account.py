"""An account that differs from the recipe's, over a real sshd: start-up files and odd locales."""

import os
import subprocess
from pathlib import Path

import pytest

from breakglass.demo.proxmox.world import World

from ..support.agent import Answer, Session, agent_processes, answer_of
from ..support.sshd import Sshd
from ..support.stages import writer_of

pytestmark = [pytest.mark.real("qemu", "sshd"), pytest.mark.slow]


def answered(sshd: Sshd, line: str, *options: str) -> Answer:
    command = [*sshd.client(sshd.power_key, *options), line]
    return answer_of(subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120))


@pytest.fixture
def home(world: World) -> Path:
    path = world.directory / "home"
    path.mkdir()
    return path


def test_start_up_files_that_hang(world: World, home: Path) -> None:
    """With /bin/sh, as the recipe has it, none of them is read, neither for an exec nor for a session."""
    os.mkfifo(home / "never")
    (home / ".ssh").mkdir()
    for name in (".bashrc", ".profile", ".bash_profile", ".ssh/rc"):
        (home / name).write_text(f"echo noise; read -r line < {home}/never\n")
    server = Sshd(world, account=f"breakglass:x:0:0:breakglass:{home}:/bin/sh\n")
    try:
        answer = answered(server, "status")
        assert (answer.code, answer.stdout.splitlines()[0].split(":")[0]) == (0, "running")
        with Session(world, [*server.client(server.power_key), "session"]) as session:
            assert session.ask("status")["state"] == "running"
    finally:
        server.stop()


def test_a_hanging_bashrc(world: World, home: Path) -> None:
    """With bash, a verb begins only when its .bashrc has ended, so the recipe uses /bin/sh."""
    fifo = home / "never"
    os.mkfifo(fifo)
    (home / ".bashrc").write_text(f"read -r line < {fifo}\n")
    server = Sshd(world, account=f"breakglass:x:0:0:breakglass:{home}:/bin/bash\n")
    command = [*server.client(server.power_key), "status"]
    try:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as ssh:
            held = writer_of(fifo)  # its reader is bash
            begun = agent_processes(world)
            os.close(held)
            output = ssh.communicate(timeout=120)[0]
        assert (begun, output.split(":")[0]) == ([], "running")
    finally:
        server.stop()
