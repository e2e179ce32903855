"""The look at claude's program: it is there, it runs, and it knows the options that a turn gives it."""

import asyncio
import os
import re
import shutil
import subprocess
from functools import partial

from ..base.findings import Finding
from ..base.threads import run_in_thread
from ..claude.command import list_flags
from ..claude.sandbox import look_arguments
from ..config.model import ChatSettings
from .visit import CHAT, about

SECONDS = 10.0
TESTED = "2.1.331"
_VERSION = re.compile(r"([0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6})[^\n]{0,40}")
_INSTALL = f"install it where every user may run it: npm install -g @anthropic-ai/claude-code@{TESTED}"

found_ok, _, found_error = about(CHAT)


async def look_at_claude(settings: ChatSettings, can_wall: bool) -> list[Finding]:
    """Return whether a turn could start claude. Behind a wall, it has no network and can write nothing."""
    command = settings.command
    program, real = await run_in_thread(partial(_find_program, command), SECONDS)
    if not program:
        return [_judge_missing(command)]
    before = look_arguments(real) if can_wall else []
    try:
        runs = (run_in_thread(partial(_run, [*before, real, word]), SECONDS) for word in ("--version", "--help"))
        (version, failed), (options, _) = await asyncio.gather(*runs)
    except (OSError, subprocess.SubprocessError) as error_:
        why = "it does not end" if isinstance(error_, TimeoutError | subprocess.TimeoutExpired) else str(error_)
        return [found_error("claude-failed", f"{program} can't be run: {why[:200]}.", _INSTALL)]
    match = _VERSION.fullmatch(version.strip())
    if match is None:
        what = f"{program} does not say which version of claude it is" + (f": {failed}." if failed else ".")
        return [found_error("claude-failed", what, f"see what it says: {program} --version; {_INSTALL}")]
    missing = [flag for flag in list_flags() if not re.search(rf"{flag}(?![\w-])", options)]
    if missing:
        what = f"{program} is claude {match[1]}, which does not know {', '.join(missing)}: each turn would fail."
        return [found_error("claude-version", what, f"{_INSTALL}; {TESTED} was tested")]
    return [found_ok("claude-installed", f"{program} is claude {match[1]}, and knows the options of a turn.")]


def _find_program(command: str) -> tuple[str, str]:
    """Return the program that a turn would start, and where it is without links; empty texts without one."""
    program = shutil.which(command) or ""
    return program, os.path.realpath(program) if program else ""


def _judge_missing(command: str) -> Finding:
    """Return why a command can't be found: there is none, or this user may not run it."""
    folders = [""] if "/" in command else os.get_exec_path()
    there = [path for folder in folders if os.path.lexists(path := os.path.join(folder, command))]
    if there and not os.path.exists(there[0]):
        what = f"{there[0]} is a link to a program that is not there."
        return found_error("claude-missing", what, _INSTALL)
    if there and os.path.isdir(there[0]):
        return found_error("claude-missing", f"{there[0]} is a directory.", f"name the program in it: {_set(command)}")
    if there:
        what = f"{there[0]} can't be run by the handler's user."
        fix = f"chmod 755 {there[0]}, and let others enter the directories above it: namei -l {there[0]}"
        return found_error("claude-not-executable", what, fix)
    what = f'chat.command is "{command}", and there is no such program, so each turn would fail.'
    return found_error("claude-missing", what, _set(command) if "/" in command else _INSTALL)


def _set(command: str) -> str:
    return f"correct chat.command, which is {command}"


def _run(argv: list[str]) -> tuple[str, str]:
    """Return what a program prints, and the last thing that it says of a failure."""
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent", "DISABLE_AUTOUPDATER": "1"}
    ran = subprocess.run(
        argv,
        env=env,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=SECONDS - 1,
        text=True,
        errors="replace",
        check=False,
    )
    stderr = " ".join(ran.stderr.split())[-200:]
    return ran.stdout, f"it ended with exit {ran.returncode}, and said {stderr!r}" if ran.returncode else ""
