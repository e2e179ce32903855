"""A turn's runner on file systems that hang: its limits keep their time. A script stands in for claude."""

import asyncio
import contextlib
import io
import json
import os
import resource
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from breakglass.base import audit
from breakglass.base.isolated import isolated_command
from breakglass.base.threads import DaemonThreads, run_in_thread
from breakglass.claude.command import listen_for_commands
from breakglass.claude.logwriter import LogWriter
from breakglass.claude.runner import CANCEL, STOP
from breakglass.claude.runner_job import RunnerJob
from breakglass.claude.sandbox import client_text
from breakglass.claude.standby import LAST_SECONDS
from breakglass.claude.start import start_runner

from ..support.hung import unserved_fuse
from ..support.naps import nap, wait_for_process, wait_until_gone
from ..support.selection import sampled
from ..support.stages import until

pytestmark = pytest.mark.slow

END_SECONDS = 10 * LAST_SECONDS

Running = tuple["subprocess.Popen[bytes]", socket.socket]


@pytest.fixture
def job(tmp_path: Path) -> RunnerJob:
    """A turn whose claude never ends by itself."""
    return RunnerJob(("/bin/sh", "-c", f"while true; do {nap(41)}; done"), {}, "/", "hello", "devvm")


@contextlib.contextmanager
def running_turn(job: RunnerJob, log: int, directory: Path, listener: socket.socket | None = None) -> Iterator[Running]:
    """Run a job until the end of the block; its claude has started, and may have reached a limit."""
    began, shell = directory / "began", job.argv[:-1]
    job = job._replace(argv=(*shell, f"touch {began}; {job.argv[-1]}"))
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT)
    control, theirs = socket.socketpair()
    with theirs:
        process = start_runner(job._replace(log=log, lock=lock, control=theirs.fileno()), listener)
    os.close(lock)
    try:
        until(lambda: began.exists() or process.poll() is not None, "the start of claude, or the runner's end")
        # On a busy machine a limit of 1 s may come before the first command.
        assert began.exists() or 1.0 in (job.turn_seconds, job.silence_seconds)
        yield process, control
    finally:
        control.close()
        process.wait(END_SECONDS)


@contextlib.contextmanager
def full_pipe() -> Iterator[tuple[int, io.FileIO]]:
    """A descriptor that every write blocks on, as on a file system that hangs, and what it fails without."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, bytes(65536))
    os.set_blocking(write, True)
    try:
        with open(read, "rb", 0) as reader:
            yield write, reader
    finally:
        os.close(write)


def test_a_handler_that_changes_its_socket_holds_no_turn_up(job: RunnerJob, tmp_path: Path) -> None:
    """It has the runner's end too. With these options a read waits for 16 bytes; one byte stops the turn."""
    log, lock = (os.open(tmp_path / name, os.O_RDWR | os.O_APPEND | os.O_CREAT) for name in ("log", "lock"))
    control, theirs = socket.socketpair()
    with control, theirs:
        process = start_runner(job._replace(log=log, lock=lock, control=theirs.fileno()))
        os.close(log)
        os.close(lock)
        wait_for_process(nap(41))
        os.set_blocking(theirs.fileno(), True)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 16)
        control.send(STOP)
        try:
            process.wait(END_SECONDS)
        finally:
            control.close()  # which ends a read
            process.wait(END_SECONDS)
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert events[-2]["code"] == "shutting-down"


@pytest.mark.parametrize("target", ["/proc/self/status", "/no/such/file"])
def test_the_end_of_a_turn_does_not_say_where_a_link_leads(tmp_path: Path, target: str) -> None:
    """The runner may be root: whether a file exists that only root can look for is not to be seen by a cancellation."""
    (tmp_path / "cancel").symlink_to(target)
    writer = LogWriter(-1, str(tmp_path / "cancel"), lambda: None)
    writer.start()
    writer.write([{"type": "text"}])  # which fails; the look for the file comes after it
    writer.close(END_SECONDS)
    assert writer.is_cancelled


TEXT = json.dumps({"type": "assistant", "message": {"id": "m", "content": [{"type": "text", "text": "hello"}]}})


def test_a_disk_that_was_full_leaves_whole_lines(tmp_path: Path) -> None:
    """A line that a full disk cuts is completed once there is space: no event is lost, and none is torn."""
    events: list[dict[str, object]] = [{"type": "text", "n": n, "text": "x" * 100} for n in (1, 2, 3)]
    log = os.open(tmp_path / "log", os.O_RDWR | os.O_APPEND | os.O_CREAT)
    writer = LogWriter(log, str(tmp_path / "cancel"), lambda: None)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        writer.write(events[:2])
        writer.start()
        until(lambda: writer.has_failed, "the write that fails")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    writer.write(events[2:])
    writer.close(END_SECONDS)
    os.close(log)
    assert [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()] == events


@pytest.mark.parametrize("limit", sampled(["turn_seconds", "silence_seconds", "cancel", "shutdown"], "turn_seconds"))
def test_a_log_that_hangs_stops_no_limit(job: RunnerJob, tmp_path: Path, limit: str) -> None:
    """The runner can't write an event, and ends claude all the same."""
    script = f"echo '{TEXT}'; {job.argv[-1]}"
    job = job._replace(argv=("/bin/sh", "-c", script))
    if limit.endswith("_seconds"):
        job = job._replace(**{limit: 1.0})  # type: ignore[arg-type]
    with full_pipe() as (log, reader), running_turn(job, log, tmp_path) as (_, control):
        if limit == "cancel":
            control.send(CANCEL)
        elif limit == "shutdown":
            control.send(STOP)
        wait_until_gone(nap(41), END_SECONDS)
        reader.close()  # the write fails, so that the runner need not wait for it


@pytest.mark.all
@pytest.mark.real("fuse")
def test_a_directory_that_hangs_stops_no_limit(job: RunnerJob, tmp_path: Path) -> None:
    """The look for the file `cancel` does not return, and the turn ends when its time is over."""
    (tmp_path / "hangs").mkdir()
    log = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    job = job._replace(cancel=str(tmp_path / "hangs/cancel"), turn_seconds=1.0)
    with contextlib.ExitStack() as hangs:
        hangs.enter_context(unserved_fuse(tmp_path / "hangs"))
        with running_turn(job, log, tmp_path):
            wait_until_gone(nap(41), END_SECONDS)
            hangs.close()  # the look returns, and the runner can write how the turn ended
    os.close(log)
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [event.get("code") for event in events] == ["turn-timeout", None]


@pytest.mark.real("fuse", "sshd")
def test_an_ssh_that_hangs_stops_no_limit(job: RunnerJob, short_dir: Path) -> None:
    """With its configuration on a file system that hangs, a cancellation still ends the turn, and ssh with it."""
    (short_dir / "hangs").mkdir()
    (short_dir / "bin").mkdir()
    client, config = short_dir / "bin/pve", str(short_dir / "hangs/config")
    client.write_text(client_text())
    client.chmod(0o755)
    log = os.open(short_dir / "log", os.O_RDWR | os.O_CREAT)
    script = f"{client} status & exec {nap(41)}"  # which ends at the first SIGINT
    job = job._replace(argv=("/bin/sh", "-c", script), commands=("pve",), verbs=("status",), ssh_config=config)
    listener = listen_for_commands(short_dir)
    with unserved_fuse(short_dir / "hangs"), running_turn(job, log, short_dir, listener) as (process, control):
        wait_for_process(f"ssh -F {config}")
        control.send(CANCEL)
        process.wait(END_SECONDS)
        wait_until_gone(f"ssh -F {config}", 0)
    events = [json.loads(line) for line in (short_dir / "log").read_bytes().splitlines()]
    assert [event.get("code") for event in events] == ["cancelled", None]
    os.close(log)
    listener.close()


# --- its start ---


def test_the_runner_imports_little() -> None:
    """A turn waits for these imports: `dataclasses` alone brings `inspect`, and `secrets` OpenSSL."""
    *python, code = isolated_command("claude.runner")
    listed = code.replace("sys.exit(main())", "print(*sys.modules)")
    loaded = set(subprocess.run([*python, listed], env={}, capture_output=True, text=True, check=True).stdout.split())
    assert {"json", "breakglass.claude.runner", "breakglass.claude.processes"} <= loaded
    assert loaded & {"asyncio", "dataclasses", "datetime", "hashlib", "inspect", "secrets", "socket"} == set()


# --- threads ---


async def test_a_thread_outlives_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that raises something unexpected ends no thread: the log notes it, and the only one serves the next."""
    noted: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(audit, "note", lambda event, **facts: noted.append((event, facts)))
    threads = DaemonThreads("test", 1)

    def fail() -> None:
        raise ValueError("a defect")

    threads.run_later(fail)
    assert await threads.run(lambda: 7, seconds=60) == 7
    assert noted == [("background-call-failed", {"thread": "test", "error": "ValueError('a defect')"})]


async def test_a_call_has_its_time() -> None:
    """Both ways to run a call in a thread give up; what comes too late is handed over."""
    released, late = threading.Event(), asyncio.Event()
    with pytest.raises(TimeoutError):
        await run_in_thread(released.wait, 0.1)
    threads = DaemonThreads("test", 2)
    with pytest.raises(TimeoutError):
        await threads.run(released.wait, seconds=0.1, on_late=lambda _: late.set())
    assert await threads.run(lambda: 7, seconds=60) == 7
    released.set()
    async with asyncio.timeout(60):
        await late.wait()
