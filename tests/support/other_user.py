"""Runs the `breakglass` command as another user, who may not be able to start the tests' own Python."""

import os
import subprocess
import sys
from collections.abc import Sequence

_CODE = """\
import os, sys
from breakglass.config.ssh_library import asyncssh
from breakglass.cli.starting import load_server_modules
from breakglass.cli.commands import run
load_server_modules()
os.setgroups({groups})
os.setgid({gid})
os.setuid({uid})
sys.exit(run())
"""


def run_as(
    uid: int, gid: int, *words: str, groups: Sequence[int] = (), **more: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command as a user with this group and these further groups. The process loads its modules as root."""
    argv = [sys.executable, "-c", _CODE.format(uid=uid, gid=gid, groups=list(groups)), *words]
    return subprocess.run(argv, env=os.environ | more, cwd="/", capture_output=True, text=True, timeout=100)
