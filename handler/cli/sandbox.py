"""`breakglass chat --sandbox`: finds out whether this machine can isolate claude, before claude is downloaded."""

import argparse
import asyncio
import os
import shutil

from ..chat.program import ask_probe
from ..chat.turn import find_missing
from .account import PR_SET_DUMPABLE, become, give_up_privileges, look_up, name_this_user, prctl
from .output import DONE, FAILED, complain, say

_NO_CLAUDE = "/nonexistent/claude"  # the probe of the sandbox does not run it


def try_sandbox(arguments: argparse.Namespace) -> int:
    """Create the sandboxes of a turn as the handler does, say what is missing, and return the exit code."""
    if os.geteuid() == 0:
        become(look_up(arguments.user))
    prctl(PR_SET_DUMPABLE, 0)
    name_this_user()
    give_up_privileges()
    answer = find_missing({shutil.which("ssh") or "/usr/bin/ssh": "openssh-client"}) or asyncio.run(_ask())
    if answer.get("fault"):
        complain(f"claude can't be isolated here, so there is no chat: {answer['fault']}", str(answer.get("fix", "")))
        return FAILED
    say("claude can be isolated on this machine")
    return DONE


async def _ask() -> dict[str, object]:
    try:
        return dict(await ask_probe("", _NO_CLAUDE))
    except (OSError, TimeoutError, ValueError) as lost:
        why = str(lost) or "it gave no answer"
        return {"fault": f"the program of a turn can't be started: {why}", "fix": "install Breakglass outside /root"}
