"""The tests' own machinery: leftovers of a run, the order of tests, reserved ports, servers that don't start."""

import os
import select
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from ..conftest import running_world
from ..support import leftovers, selection
from ..support.ports import reserve_port
from ..support.rows import each_row
from ..support.sshd import descendants, wait_listening
from ..support.stages import until

SLEEP = [sys.executable, "-c", "input()"]


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    return directory


# --- leftovers of a run ---


def test_a_process_that_is_left_is_named_and_ended(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment shows which run it belongs to and which test started it."""
    monkeypatch.setattr(leftovers, "GRACE_SECONDS", 0.2)
    environment = os.environ | {"TMPDIR": str(run_directory)}
    with subprocess.Popen(SLEEP, env=environment, stdin=subprocess.PIPE) as process:
        until(lambda: leftovers.processes_of(run_directory) == [process.pid], "the new program's words in /proc")
        [left] = leftovers.end(run_directory)
        assert process.wait(60) == -signal.SIGKILL
    assert left.startswith(f"process {process.pid}: {sys.executable} -c input()")
    assert "test_support.py::test_a_process_that_is_left_is_named_and_ended" in left
    assert not run_directory.exists()


@pytest.mark.parametrize("by", ["words", "place"])
def test_a_process_with_an_empty_environment_is_found(run_directory: Path, by: str) -> None:
    """Its command line or its working directory shows which run it belongs to."""
    words = [*SLEEP, f"{run_directory}/file"] if by == "words" else SLEEP
    place = run_directory if by == "place" else None
    with subprocess.Popen(words, env={}, cwd=place, stdin=subprocess.PIPE) as process:
        until(lambda: leftovers.processes_of(run_directory) == [process.pid], "the new program's words in /proc")


def test_a_process_that_ends_by_itself_is_no_leftover(run_directory: Path) -> None:
    """If a process is just ending at the end of the run, the run waits for it for a moment."""
    environment = os.environ | {"TMPDIR": str(run_directory)}
    process = subprocess.Popen(SLEEP, env=environment, stdin=subprocess.PIPE)
    with process:  # /proc has its words a moment after its start
        until(lambda: leftovers.processes_of(run_directory) == [process.pid], "the new program's words in /proc")
        assert process.stdin is not None
        process.stdin.close()
        assert leftovers.end(run_directory) == []


# --- fixtures whose set-up fails ---


def fail_behind_a_host(directory: Path, pids: list[int]) -> None:
    with running_world(directory) as world:
        pids += [world.pid or 0]
        raise RuntimeError("planted")


def test_a_host_ends_when_the_set_up_behind_it_fails(short_dir: Path) -> None:
    """Its VM ends, whatever exception was raised."""
    pids: list[int] = []
    with pytest.raises(RuntimeError, match="planted"):
        fail_behind_a_host(short_dir / "w", pids)
    assert pids[0]
    assert leftovers.processes_of(short_dir) == []


def test_a_server_that_ends_at_once_fails_with_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(["sh", "-c", "echo no such directive >&2; exit 3"], stderr=out)
    with pytest.raises(AssertionError, match=r"ended with 3\nno such directive"):
        wait_listening(reserve_port(), process, log)


def test_a_server_that_never_listens_is_ended_with_its_children() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 1000 & echo up; wait"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        [child] = descendants(process.pid)
        ended = os.pidfd_open(child)
        with pytest.raises(AssertionError, match="did not listen within"):
            wait_listening(reserve_port(), process, seconds=0.1)
        assert process.returncode == -signal.SIGKILL
        assert select.select([ended], [], [], 60)[0] == [ended]
        os.close(ended)


# --- ports ---


def test_a_reserved_port_is_taken_by_a_server_alone() -> None:
    """The port refuses connections until a server listens on it, and again after the server has ended."""
    port = reserve_port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        with socket.create_server(("127.0.0.1", port)):
            socket.create_connection(("127.0.0.1", port)).close()


# --- the order of tests ---


@dataclass(frozen=True)
class FakeTest:
    path: Path
    name: int


def shuffled(seed: str) -> list[FakeTest]:
    tests = [FakeTest(Path(file), name) for file in "abcdefgh" for name in range(9)]
    selection.shuffle(cast(Any, tests), seed)
    return tests


def test_a_shuffled_run_keeps_the_tests_of_a_file_together() -> None:
    """The seed decides the order of the files and of the tests in each."""
    tests = shuffled("1")
    files = [test.path for test in tests][::9]
    assert tests == shuffled("1") != shuffled("2")
    assert sorted(files) != files
    assert [test.path for test in tests] == [file for file in files for _ in range(9)]
    assert {test.name for test in tests[:9]} == set(range(9))
    assert [test.name for test in tests[:9]] != sorted(range(9))


# --- signals ---


@each_row("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGTERM])
def test_children_of_the_tests_do_not_ignore_signals(number: signal.Signals) -> None:
    """If a script starts the run in the background, SIGINT and SIGQUIT are ignored at first."""
    code = f"import signal; print(signal.getsignal({int(number)}) == signal.SIG_IGN)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
    assert signal.getsignal(number) is not signal.SIG_IGN
