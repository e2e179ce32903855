"""Runs the `breakglass` command by forks of a process that has loaded it, so a run does not cost a start of Python."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import prefork
from .service import as_handler

SECONDS = 150.0  # each command ends within 30 s, or on a busy machine within the limits of the tests
_OWN = ("bugreport", "chat", "demo", "doctor", "drill", "serve", "sign")  # with input, a server or signals
_PRELOADED = """
from breakglass.agents.bundle import bundle_digest
from breakglass.config.ssh_library import asyncssh
from breakglass.cli import commands, doctor
from breakglass.cli.starting import load_server_modules
from breakglass.doctor.walk import walk
walk.__defaults__ = (100.0,)
load_server_modules()
bundle_digest()
"""
_RUN = """
import ctypes, importlib, json, os, sys
from breakglass.cli import commands, doctor
words, places, mounts, user, constants = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
for number, mount in enumerate(mounts):
    first = number or (libc.unshare(0x20000), libc.mount(None, b"/", None, 0x44000, None))  # private, recursive
    source, target, kind, data = (text.encode() for text in mount)
    flags = 1 if data == b"ro" else 0 if kind else 4096  # bound without a kind
    if libc.mount(source, target, kind, flags, data if flags != 1 else None) != 0:
        sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")
for path, value in constants.items():
    module, _, constant = path.rpartition(".")
    owner = importlib.import_module(f"breakglass.{module}")
    getattr(owner, constant)  # or it has another name now
    setattr(owner, constant, value)
async def nothing(visit, found):
    for finding in ():
        yield finding
if places is not None:
    doctor.LOOKS = tuple(look for look in doctor.LOOKS if look[0] in places)
    doctor.prove = doctor.prove if "proof" in places else nothing
if user:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
sys.argv = ["breakglass", *words]
try:
    code = commands.run()
except SystemExit as end:  # argparse's
    code = end.code
sys.stdout.flush()
os._exit(code)  # the end of a Python that has loaded all takes longer than doctor
"""

Mount = tuple[str, str, str, str]  # source, target, kind and data, such as "ro"; without a kind, a bind mount


def fork_command(
    words: Sequence[str],
    environment: Mapping[str, str],
    out: Path,
    err: Path,
    *,
    places: Sequence[str] | None = None,
    mounts: Sequence[Mount] = (),
    user: int = 0,
    constants: Mapping[str, object] | None = None,
) -> int:
    """Run a command in / with its output in two files; return its exit code.

    `places` are doctor's checks to run, or None for all. `mounts` and `constants` (such as "cli.ping.SECONDS") hold for
    this run only. If root runs the tests, `user` starts the command.
    """
    for path in filter(Path.is_file, (out, err)):
        path.unlink()
    command = [sys.executable, "-c", _RUN, json.dumps([words, places, mounts, user, dict(constants or {})])]
    process = prefork.start(command, environment, Path("/"), out, err, None, _PRELOADED)
    try:
        return process.wait(SECONDS)
    finally:
        process.kill()


def run_command(*words: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in / with more variables, and in its own Python if the command needs one."""
    if not words or words[0] in _OWN or any(name.startswith("PYTHON") for name in more):
        command, rights = [sys.executable, "-m", "breakglass", *words], as_handler() if "serve" in words else {}
        return subprocess.run(
            command, env=os.environ | more, cwd="/", capture_output=True, text=True, timeout=100, **rights
        )
    with tempfile.TemporaryDirectory() as place:
        out, err = Path(place, "out"), Path(place, "err")
        code = fork_command(words, os.environ | more, out, err)
        return subprocess.CompletedProcess(words, code, out.read_text("utf-8"), err.read_text("utf-8"))
