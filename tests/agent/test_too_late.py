"""A host agent that hangs at its start, over a real sshd, or is stopped. A request that is read late acts no more."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from breakglass.agents.pve.host.paths import boottime
from breakglass.agents.pve.host.process import process_start, process_ticks
from breakglass.demo.proxmox.world import World

from ..support.agent import Answer, Session, agent_processes, answer_of, constants_set, journal_of, received
from ..support.qemu import Witness
from ..support.rows import each_row
from ..support.signals import signal_process
from ..support.sshd import Sshd
from ..support.stages import await_agents, until, writer_of

pytestmark = [pytest.mark.real("qemu", "sshd"), pytest.mark.slow, pytest.mark.shared("world", "sshd")]

# The disk hangs while the agent starts, because it reads a FIFO. Then the host's clock is `later` seconds ahead.
HANGS = """
import time
try:
    open({gate!r}).read()
except FileNotFoundError:
    pass
clock = time.clock_gettime
replace(boottime=lambda: clock(time.CLOCK_BOOTTIME) + float(open({later!r}).read()))
"""
MINUTES = "3000"  # tests compare the first two digits, because a busy machine adds seconds


class Disk:
    """The disk that holds the host agent."""

    def __init__(self, directory: Path) -> None:
        self.gate, self.later = directory / "gate", directory / "later"
        self.set_ahead("0")

    def set_ahead(self, seconds: str) -> None:
        """Put the host's clock ahead by this. An agent that reads it at the same time finds a whole number."""
        draft = self.later.with_suffix(".new")
        draft.write_text(seconds)
        draft.rename(self.later)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Hold the next process of the agent as it starts, until the block has ended."""
        os.mkfifo(self.gate)
        try:
            yield
            held = writer_of(self.gate)
        finally:
            self.gate.unlink()
        os.close(held)


@pytest.fixture
def disk(world: World, tmp_path: Path) -> Iterator[Disk]:
    await_agents(world)  # the journal of an earlier test; this test waits for its own agent and its lines
    disk = Disk(tmp_path)
    with constants_set(world, HANGS.format(gate=str(disk.gate), later=str(disk.later))):
        yield disk


def begin(sshd: Sshd, line: str) -> "subprocess.Popen[str]":
    command = [*sshd.client(sshd.power_key), line]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end(ssh: "subprocess.Popen[str]") -> Answer:
    with ssh:
        stdout, stderr = ssh.communicate(timeout=120)
    return answer_of(subprocess.CompletedProcess(ssh.args, ssh.returncode, stdout, stderr))


def naps(pid: int) -> int:
    """Return how often a process has slept. An idle session wakes to check its input."""
    found = re.search(r"^voluntary_ctxt_switches:\s*(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def test_an_exec_that_wakes_minutes_later_changes_nothing(sshd: Sshd, disk: Disk) -> None:
    """A power verb says that nothing was done, why, and what to do. A read and a known id are answered as always.

    If its handler has given up, the journal has the request's end. The same id can still act.
    """
    assert end(begin(sshd, "reset id=acted-before-1")).code == 0
    await_agents(sshd.world)
    with journal_of(sshd.world) as journal, Witness(sshd.world) as qemu:
        with disk.hanging():
            ssh = begin(sshd, "reset id=wakes-late-1")
            until(lambda: agent_processes(sshd.world), "a process of the agent")
            ssh.kill()
            end(ssh)
            requests = [begin(sshd, line) for line in ("cycle id=waits-long-1", "status", "reset id=acted-before-1")]
            disk.set_ahead(MINUTES)
        refused, status, known = map(end, requests)
        verdict = refused.trailer["verdict"]
        assert (refused.code, verdict["code"], verdict["advice"]) == (12, "too-late", "status")
        assert "waited 30" in verdict["sentence"]
        assert (status.code, status.trailer["last"] == "waits-long-1") == (0, False)
        assert (known.code, known.trailer["attached"]) == (0, True)
        await_agents(sshd.world)
        assert sum("too late, after 30" in line for line in received(journal)) == 2
        assert not qemu.seen("RESET")
        disk.set_ahead("0")
        with disk.hanging():
            ssh = begin(sshd, "reset id=wakes-late-1")
            disk.set_ahead("5")  # a busy host needs some seconds, and the handler still waits then
        answer = end(ssh)
        assert (answer.code, answer.trailer["attached"]) == (0, False)
        assert qemu.seen("RESET")


def test_a_session_that_wakes_minutes_later_changes_nothing(sshd: Sshd, disk: Disk) -> None:
    """Power verbs that waited are refused, reads are answered, and later requests act."""
    with Session(sshd.world, [*sshd.client(sshd.power_key), "session"]) as session:
        with disk.hanging():
            tags = session.send_all(["reset id=late-session-1", "status"])
            disk.set_ahead(MINUTES)
        refused, status = (session.result(tag, 60) for tag in tags)
        assert (refused["exit_code"], refused["verdict"]["code"]) == (12, "too-late")
        assert (status["outcome"], status["state"]) == ("done", "running")
        assert session.ask("reset id=late-session-2")["outcome"] == "done"


def test_a_session_that_was_stopped_for_minutes_changes_nothing(world: World, disk: Disk) -> None:
    """A resident process can't know when a line came, but it came after the last check that found the input empty.

    However long ago it began, it acts if it has checked its input a moment ago.
    """
    with constants_set(world, WAKE_SECONDS=0.05), Session(world) as session:
        session.ask("status")
        signal_process(session.process.pid, signal.SIGSTOP)
        tag = session.send("reset id=stopped-sess-1")
        disk.set_ahead(MINUTES)
        signal_process(session.process.pid, signal.SIGCONT)
        assert session.result(tag)["verdict"]["code"] == "too-late"
        disk.set_ahead("300000")
        before = naps(session.process.pid)
        until(lambda: naps(session.process.pid) > before + 2, "a look at the input")
        assert session.ask("reset id=days-old-001")["outcome"] == "done"


@each_row("last", [":", "exec"])
def test_the_shell_that_sshd_started_counts(last: str) -> None:
    """Debian's /bin/sh forks to run a command. If the shell has waited for a disk, its agent counts as old too."""
    program = "from breakglass.agents.pve.host.process import process_start; print(process_start())"
    runs = f"{sys.executable} -c '{program}'"
    script = f"read -r go; {runs}; :" if last == ":" else f"read -r go; exec {runs}"
    with subprocess.Popen(
        ["/bin/sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as shell:
        began = process_ticks(shell.pid) / os.sysconf("SC_CLK_TCK")
        until(lambda: boottime() > began + 0.1, "a later tick of the clock")
        output, _ = shell.communicate("go\n", timeout=120)
    assert float(output) == began
    assert process_start() == process_ticks(os.getpid()) / os.sysconf("SC_CLK_TCK")  # a test is no shell of sshd
