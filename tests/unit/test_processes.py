"""Children with a deadline, processes that are recorded, and the end of a `qm`: the host agent's, on real processes."""

import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from breakglass.agents.pve.host import qm
from breakglass.agents.pve.host.bounded import CommandResult, Question, ask_or_none, kill_with_commands, run
from breakglass.agents.pve.host.paths import Host
from breakglass.agents.pve.host.process import open_verified, read_process, spawn_detached, write_process
from breakglass.agents.pve.host.pve_tasks import Holder, flock_holders

from ..support.rows import each_row

WORD = "é" * 40_000  # more than a pipe holds


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    """Fail if a descriptor is left."""
    before = os.listdir("/proc/self/fd")
    yield
    assert len(os.listdir("/proc/self/fd")) == len(before)


@each_row(
    ("script", "result"),
    [
        ("echo out; echo err >&2; exit 3", CommandResult(3, "out\n", "err\n")),
        (f"echo {WORD}; echo err >&2", CommandResult(0, f"{WORD}\n", "err\n")),
        ("exec >&- 2>&-; exec sleep 0.02", CommandResult(0, "", "")),
        ("sleep 60 & echo $! >daemon", CommandResult(0, "", "")),
        ("kill -9 $$", CommandResult(-9, "", "")),
    ],
)
def test_a_command_is_over_when_it_has_ended(script: str, result: CommandResult, tmp_path: Path) -> None:
    """All its output counts. A process that it leaves, with the pipes open, delays nothing."""
    started: list[int] = []
    assert run(["sh", "-c", f"cd {tmp_path}; {script}"], 30.0, started.append) == result
    assert len(started) == 1
    if (daemon := tmp_path / "daemon").exists():
        os.kill(int(daemon.read_text()), 9)


def test_a_command_without_a_program_has_the_shells_code() -> None:
    ran = run(["/no/such program"], 30.0)
    assert (ran.code, ran.stdout) == (127, "")
    assert (ran.stderr.split(":")[0], "No such file" in ran.stderr) == ("/no/such program", True)


def test_a_late_command_is_killed_with_its_group(tmp_path: Path) -> None:
    """What it has printed counts."""
    file = tmp_path / "pids"
    os.mkfifo(tmp_path / "never")
    ran = run(["sh", "-c", f"sleep 60 & echo $! $$ >{file}; echo said; read x <{tmp_path}/never"], 1.0)
    assert ran == CommandResult(None, "said\n", "")
    for pid in map(int, file.read_text().split()):
        await_end(pid)


def await_end(pid: int) -> None:
    """Return once a process has ended; it may be a child that is not reaped."""
    pidfd = open_verified(pid, lambda: True)
    if pidfd is not None:
        with os.fdopen(pidfd) as end, suppress(ProcessLookupError):
            assert select.select([end], [], [], 30.0)[0]
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def test_a_question_is_answered_or_ended(tmp_path: Path) -> None:
    """A child that fails or is late gives no answer. A late one is killed, with the commands that it runs if asked."""
    assert ask_or_none(lambda: ["x"], 30.0) == ["x"]
    assert ask_or_none(lambda: 1 / 0, 30.0) is None
    file = tmp_path / "pids"
    never = f"echo $$ >{file}; exec sleep 60"

    def wait() -> None:
        write_process(str(tmp_path / "child"), os.getpid())
        run(["sh", "-c", never], 60.0)

    late = Question(wait, 0.0)
    while not (file.exists() and file.read_text().endswith("\n")):
        assert late.is_over()
    child = read_process(str(tmp_path / "child"))
    assert child
    kill_with_commands(child)
    for pid in (int(file.read_text()), child):
        await_end(pid)
    late.close()
    assert read_process(str(tmp_path / "child")) == 0


def test_a_process_is_recorded_by_its_start(tmp_path: Path) -> None:
    """A later process with the number is another one, and no record is no process."""
    file = tmp_path / "command"
    write_process(str(file), os.getpid())
    assert read_process(str(file)) == os.getpid()
    pid, ticks = map(int, file.read_text().split())
    for other in (f"{pid} {ticks + 1}", f"{pid} 0", "", "x y"):
        file.write_text(other)
        assert read_process(str(file)) == 0
    assert read_process(str(tmp_path / "none")) == 0


def test_a_detached_process_reports_its_error_in_the_log(tmp_path: Path) -> None:
    """It is no child of the caller, and inherits none of its descriptors."""
    reader, writer = os.pipe()
    parent, log = os.getpid(), tmp_path / "log"

    def body() -> None:
        assert os.getsid(0) not in (os.getsid(parent), os.getpid())
        with suppress(OSError):
            os.write(writer, b"x")
        raise ValueError("why")

    def note(line: str) -> None:
        with log.open("a") as file:
            file.write(f"{line} {os.getpid() != parent}\n")

    spawn_detached(note, "job=1", body)
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)
    until = time.monotonic() + 30.0
    while not log.exists() or not log.read_text().endswith("\n"):
        assert time.monotonic() < until
    assert log.read_text() == "job=1: ValueError: why True\n"


@each_row(("gently", "said"), [(True, "ended\n"), (False, "")])
def test_a_qm_gets_time_to_end_only_if_it_is_ended_gently(gently: bool, said: str, tmp_path: Path) -> None:
    """`qm` passes SIGTERM on to its worker, so a start leaves nothing half done, and a stop would end QEMU."""
    file, ready = tmp_path / "said", tmp_path / "ready"
    file.touch()
    script = f"trap 'sleep 0.01; echo ended >>{file}; exit' TERM; echo >{ready}; while :; do sleep 0.01; done"
    with subprocess.Popen(["sh", "-c", script], start_new_session=True) as process:
        while not ready.exists():
            assert process.poll() is None
        assert qm.end_qm(process.pid, gently) == []
    assert file.read_text() == said


# --- the holders of a VM's lock file ---

UPID = "task UPID:pve1:00000001:00000007:6743E000:{}:102:root@pam:"


@each_row(
    ("command", "kind"),
    [
        ("/usr/bin/perl -T /usr/sbin/qm stop 102", "stop"),
        ("qm reboot 102 --timeout 60", "shutdown"),
        (UPID.format("qmstart"), "start"),
        (UPID.format("qmshutdown"), "shutdown"),
        (UPID.format("vzdump"), ""),
        ("qm cleanup 102 0 1", "cleanup"),
        ("flock lock-102.conf", ""),
        ("", ""),
    ],
)
def test_a_holder_is_known_by_its_command(command: str, kind: str) -> None:
    assert Holder(7, command).kind == kind


def test_only_a_process_that_has_the_lock_holds_it(tmp_path: Path) -> None:
    """One that waits for it, or holds the lock of another file, does not."""
    file = tmp_path / "var/lock/qemu-server/lock-102.conf"
    file.parent.mkdir(parents=True)
    file.touch()
    (tmp_path / "proc").mkdir()
    at = file.stat()
    name = f"{os.major(at.st_dev):02x}:{os.minor(at.st_dev):02x}:{at.st_ino}"
    lines = [f"1: FLOCK  ADVISORY  WRITE 71 {name} 0 EOF", f"1: -> FLOCK  ADVISORY  WRITE 72 {name} 0 EOF"]
    lines.append(f"2: FLOCK  ADVISORY  WRITE 73 {name}1 0 EOF")
    (tmp_path / "proc/locks").write_text("\n".join(lines))
    assert [(each.pid, str(each)) for each in flock_holders(Host(102, str(tmp_path)))] == [(71, "71 (no name)")]
