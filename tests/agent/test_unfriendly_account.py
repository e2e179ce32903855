"""An account that differs from the recipe's, over a real sshd: start-up files and odd locales."""

import base64
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


def test_a_noisy_bashrc(world: World, home: Path) -> None:
    """With bash, which the recipe does not use, noise comes before the answer, but the answer is still understood."""
    (home / ".bashrc").write_text("echo '#breakglass {\"exit_code\": 0}'; echo noise; echo noise >&2\n")
    server = Sshd(world, account=f"breakglass:x:0:0:breakglass:{home}:/bin/bash\n")
    try:
        answer = answered(server, "reset")
        assert "noise" in answer.stdout.splitlines()
        assert (answer.code, answer.trailer["state"]) == (0, "running")
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


@pytest.mark.all
def test_odd_locales(world: World) -> None:
    """Debian's sshd lets a client set locales. The agent works as usual, and runs its commands in the locale C."""
    (world.bin / "df").write_text('#!/bin/sh\necho "words in $LC_ALL"\n')
    (world.bin / "df").chmod(0o755)
    why = "hängt; 終 \u202e"
    note = base64.urlsafe_b64encode(why.encode()).decode().rstrip("=")
    server = Sshd(world, "PerSourcePenalties no\nAcceptEnv LANG LC_*")
    odd = "SetEnv=LANG=xx_YY.nonsense LC_ALL=tr_TR.ISO-8859-9 LC_CTYPE=zh_CN.GB18030 LC_MESSAGES=../../etc/passwd"
    try:
        answer = answered(server, f"cycle id=odd-locale-1 note={note}", "-o", odd)
        assert (answer.code, answer.trailer["state"]) == (0, "running")
        capture = answered(server, "forensics id=odd-locale-0", "-o", odd)
        assert "words in C" in capture.stdout.splitlines()
        assert answered(server, "history", "-o", odd).trailer["jobs"][1]["why"] == why
    finally:
        server.stop()
