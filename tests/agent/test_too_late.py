"""A host agent that hangs as it starts, over a real sshd, or is stopped: what it reads late changes no power."""

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

from ..support.agent import Answer, Session, agent_processes, answer_of, constants_set, journal_of
from ..support.qemu import Witness
from ..support.signals import signal_process
from ..support.sshd import Sshd
from ..support.stages import await_agents, until, writer_of

pytestmark = [pytest.mark.real("qemu", "sshd"), pytest.mark.slow, pytest.mark.shared("world", "sshd")]

# The disk hangs while the agent starts. It reads a FIFO. `later` is by how many seconds the host's clock is ahead then.
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
        """Have the host's clock ahead by so much; an agent that reads it meanwhile finds a whole number."""
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
    await_agents(world)  # of an earlier test; this test waits for its own, and for what that logs
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
    """Return how often a process has slept. An idle session wakes to look at its input."""
    found = re.search(r"^voluntary_ctxt_switches:\s*(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def test_an_exec_that_wakes_minutes_later_changes_nothing(sshd: Sshd, disk: Disk) -> None:
    """Its handler has given up and gone; the journal says what became of it, and the same id can still act."""
    with journal_of(sshd.world) as journal, Witness(sshd.world) as qemu:
        with disk.hanging():
            ssh = begin(sshd, "reset id=wakes-late-1")
            until(lambda: agent_processes(sshd.world), "a process of the agent")
            ssh.kill()
            end(ssh)
            disk.set_ahead(MINUTES)
        journal.settimeout(60)
        assert "refused (too late, after 30" in journal.recv(1000).decode()
        until(lambda: not agent_processes(sshd.world), "the end of that process")
        assert not qemu.seen("RESET")
        assert (
            end(begin(sshd, "reset id=another-one-1")).trailer["verdict"]["code"] == "too-late"
        )  # a clock ahead by as much
        disk.set_ahead("0")
        answer = end(begin(sshd, "reset id=wakes-late-1"))
        assert (answer.code, answer.trailer["attached"]) == (0, False)
        assert qemu.seen("RESET")


def test_an_exec_says_that_it_was_too_late(sshd: Sshd, disk: Disk) -> None:
    """A client that waited is told that nothing was done, for how long, and what to do; a read is still answered."""
    with disk.hanging():
        power, read = begin(sshd, "cycle id=waits-long-1"), begin(sshd, "status")
        disk.set_ahead(MINUTES)
    refused, status = end(power), end(read)
    verdict = refused.trailer["verdict"]
    assert (refused.code, refused.trailer["outcome"], verdict["advice"]) == (12, "refused", "status")
    assert verdict["sentence"].startswith("nothing was done: this cycle may have waited 30")
    assert verdict["sentence"].endswith(" s until the host agent could read it; look at the status, then send it again")
    assert (status.code, status.trailer["last"] == "waits-long-1") == (0, False)


def test_a_slow_start_is_not_too_late(sshd: Sshd, disk: Disk) -> None:
    """Some seconds are what a busy host needs, so the handler still waits."""
    with disk.hanging():
        ssh = begin(sshd, "reset id=slow-start-1")
        disk.set_ahead("5")
    assert end(ssh).code == 0


def test_a_late_exec_follows_the_job_of_its_id(sshd: Sshd, disk: Disk) -> None:
    """The handler has sent the line again, and that one has acted, and the first one reports the same."""
    assert end(begin(sshd, "reset id=acted-before-1")).code == 0
    with disk.hanging():
        ssh = begin(sshd, "reset id=acted-before-1")
        disk.set_ahead(MINUTES)
    answer = end(ssh)
    assert (answer.code, answer.trailer["attached"]) == (0, True)


def test_a_session_that_wakes_minutes_later_changes_nothing(sshd: Sshd, disk: Disk) -> None:
    """What waited for it is refused, reads are answered, and what comes from then on acts."""
    with Session(sshd.world, [*sshd.client(sshd.power_key), "session"]) as session:
        with disk.hanging():
            tags = session.send_all(["reset id=late-session-1", "status"])
            disk.set_ahead(MINUTES)
        refused, status = (session.result(tag, 60) for tag in tags)
        assert (refused["exit_code"], refused["verdict"]["code"]) == (12, "too-late")
        assert (status["outcome"], status["state"]) == ("done", "running")
        assert session.ask("reset id=late-session-2")["outcome"] == "done"


def test_a_session_that_was_stopped_for_minutes_changes_nothing(world: World, disk: Disk) -> None:
    """A resident process of any age can't tell when a line came; its last look at an empty input bounds that."""
    with Session(world) as session:
        session.ask("status")
        signal_process(session.process.pid, signal.SIGSTOP)
        tag = session.send("reset id=stopped-sess-1")
        disk.set_ahead(MINUTES)
        signal_process(session.process.pid, signal.SIGCONT)
        assert session.result(tag)["verdict"]["code"] == "too-late"
        assert session.ask("reset id=stopped-sess-2")["outcome"] == "done"


def test_a_session_of_any_age_acts(world: World, disk: Disk) -> None:
    """Its process began days ago, and it looked at its input a moment ago."""
    with constants_set(world, WAKE_SECONDS=0.05), Session(world) as session:
        session.ask("status")
        disk.set_ahead("300000")
        before = naps(session.process.pid)
        until(lambda: naps(session.process.pid) > before + 2, "a look at the input")
        assert session.ask("reset id=days-old-001")["outcome"] == "done"


@pytest.mark.parametrize("last", [":", "exec"])
def test_the_shell_that_sshd_started_counts(last: str) -> None:
    """Debian's /bin/sh forks to run a command, so a disk on which it has waited itself makes its agent old too."""
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


def test_a_parent_that_is_no_shell_of_sshd_does_not_count() -> None:
    """A process that a person's shell, or a test, has started is as old as itself."""
    assert process_start() == process_ticks(os.getpid()) / os.sysconf("SC_CLK_TCK")
