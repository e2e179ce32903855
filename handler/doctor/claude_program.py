"""The look at claude's program: it is there, it runs, and it knows the options that a turn gives it."""

import os
import re
import shutil
from collections.abc import Mapping

from ..base.findings import Finding
from ..chat.command import list_flags
from ..config.model import ChatSettings
from .visit import CHAT, about

TESTED = "2.1.331"
_VERSION = re.compile(r"([0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6})[^\n]{0,40}")
_MOST = 1 << 20  # characters of what the program says
_INSTALL = f"install it where every user may run it: npm install -g @anthropic-ai/claude-code@{TESTED}"

found_ok, _, found_error = about(CHAT)


def judge_claude(settings: ChatSettings, answer: Mapping[str, object]) -> Finding:
    """Return whether a turn could start claude, by the answer of a probe that has looked at it."""
    program = shutil.which(settings.command)
    if program is None:
        return _judge_missing(settings.command)
    version, options, failed = (str(answer.get(name, ""))[:_MOST] for name in ("version", "options", "failed"))
    match = _VERSION.fullmatch(version)
    if match is None:
        what = f"{program} does not say which version of claude it is" + (f": {failed[-200:]}." if failed else ".")
        return found_error("claude-failed", what, _INSTALL)
    missing = [flag for flag in list_flags() if not re.search(rf"{flag}(?![\w-])", options)]
    if missing:
        what = f"{program} is claude {match[1]}, which does not know {', '.join(missing)}: each turn would fail."
        return found_error("claude-version", what, _INSTALL)
    return found_ok("claude-installed", f"{program} is claude {match[1]}, and knows the options of a turn.")


def _judge_missing(command: str) -> Finding:
    """Return why a command can't be found: there is none, or this user may not run it."""
    folders = [""] if "/" in command else os.get_exec_path()
    there = [path for folder in folders if os.path.lexists(path := os.path.join(folder, command))]
    if there and not os.path.exists(there[0]):
        what = f"{there[0]} is a link to a program that does not exist."
        return found_error("claude-missing", what, _INSTALL)
    if there and os.path.isdir(there[0]):
        return found_error("claude-missing", f"{there[0]} is a directory.", f"name the program in it: {_set(command)}")
    if there:
        what = f"{there[0]} can't be run by the handler's user."
        return found_error("claude-not-executable", what, f"chmod 755 {there[0]}")
    what = f'chat.command is "{command}", and there is no such program, so each turn would fail.'
    return found_error("claude-missing", what, _set(command) if "/" in command else _INSTALL)


def _set(command: str) -> str:
    return f"correct chat.command, which is {command}"
