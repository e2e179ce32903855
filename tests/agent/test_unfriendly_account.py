"""An account that differs from the recipe's, over a real sshd: start-up files and odd locales."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from breakglass.demo.proxmox.world import World

from ..support.agent import Session, agent_processes, answer_of
from ..support.sshd import Sshd
from ..support.stages import writer_of

pytestmark = [pytest.mark.real("qemu", "sshd"), pytest.mark.slow]


@contextmanager
def account(world: World, shell: str) -> Iterator[tuple[Sshd, Path]]:
    """Run a server whose account has this shell, and start-up files that wait for a line from a FIFO. Yield both."""
    home, never = world.directory / "home", world.directory / "home/never"
    (home / ".ssh").mkdir(parents=True)
    os.mkfifo(never)
    for name in (".bashrc", ".profile", ".bash_profile", ".ssh/rc"):
        (home / name).write_text(f"read -r line < {never}\n")
    server = Sshd(world, account=f"breakglass:x:0:0:breakglass:{home}:{shell}\n")
    try:
        yield server, never
    finally:
        server.stop()


def test_start_up_files_that_hang(world: World) -> None:
    """With /bin/sh, as the recipe has it, none of them is read, neither for an exec nor for a session."""
    with account(world, "/bin/sh") as (server, _):
        command = [*server.client(server.power_key), "status"]
        ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        assert (ran.returncode, answer_of(ran).trailer["state"]) == (0, "running")
        with Session(world, [*server.client(server.power_key), "session"]) as session:
            assert session.ask("status")["state"] == "running"


def test_a_hanging_bashrc(world: World) -> None:
    """With bash, a verb begins only when its .bashrc has ended, so the recipe uses /bin/sh."""
    with account(world, "/bin/bash") as (server, never):
        command = [*server.client(server.power_key), "status"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as ssh:
            held = writer_of(never)  # its reader is bash
            begun = agent_processes(world)
            os.close(held)
            output = ssh.communicate(timeout=120)[0]
        assert (begun, output.split(":")[0]) == ([], "running")
