"""Runs the `breakglass` command without a new Python each time, because a process that has loaded it forks."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from .doctor import DoctorProcess
from .service import as_handler

_OWN = ("bugreport", "chat", "demo", "doctor", "drill", "serve", "sign")  # with input, a server or signals
_processes: list[DoctorProcess] = []


def run_command(*words: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in / with more variables, and in its own Python if the command needs one."""
    if not words or words[0] in _OWN or any(name.startswith("PYTHON") for name in more):
        command, rights = [sys.executable, "-m", "breakglass", *words], as_handler() if "serve" in words else {}
        return subprocess.run(
            command, env=os.environ | more, cwd="/", capture_output=True, text=True, timeout=100, **rights
        )
    if not _processes:
        _processes.append(DoctorProcess())
    with tempfile.TemporaryDirectory() as place:
        out, err = Path(place, "out"), Path(place, "err")
        code = _processes[0].run(words, os.environ | more, out, err, None)
        return subprocess.CompletedProcess(words, code, out.read_text("utf-8"), err.read_text("utf-8"))


def end() -> None:
    """End the process, if a run has started it."""
    while _processes:
        _processes.pop().close()
