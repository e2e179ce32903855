"""Removes directory trees that claude's user may have filled.

Root walks no tree of another user: a child process with that user's rights does, for a few seconds. So a tree that is
deep, or that changes meanwhile, costs only itself. What is left is removed another time.
"""

import contextlib
import os
import stat
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

SECONDS = 3.0
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
_REMOVE = ("rm", "-rf", "--one-file-system", "--")
_OPEN = ("chmod", "-R", "u+rwx", "--")  # it follows no link below the directory


def remove_tree(path: Path) -> None:
    """Remove a directory of ours or of another user, and what it contains. Raises OSError when something is left.

    Another user's directories are found at the top and one level below. Only the owner of the directory that contains
    `path` may change that one.
    """
    try:
        _remove_tree(path, time.monotonic() + SECONDS)
    except FileNotFoundError:
        if os.path.lexists(path):  # it is not that another handler was first
            raise


def _remove_tree(path: Path, until: float) -> None:
    foreign = [path] if _is_foreign(path) else [each for each in path.iterdir() if _is_foreign(each)]
    if not foreign:
        _remove(path, None, until)
        return
    if foreign != [path]:  # ours first: the keys are there
        ours = [str(each) for each in path.iterdir() if each not in foreign]
        _run([*_REMOVE, *ours], None, until)
    for each in foreign:
        _remove(each, each.lstat(), until)
    if foreign != [path]:
        path.rmdir()


def _is_foreign(path: Path) -> bool:
    """Tell whether a path is a directory of another user."""
    status = path.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid != os.geteuid()


def _remove(path: Path, owner: os.stat_result | None, until: float) -> None:
    """Remove a directory with the rights of its owner, or with ours. Raises OSError when something is left.

    The owner may not remove the directory itself, because the one that contains it is ours.
    """
    _run([*_REMOVE, str(path)], owner, until)
    if not _is_gone(path):  # there are directories in it that their owner can't enter
        _run([*_OPEN, str(path)], owner, until)
        _run([*_REMOVE, str(path)], owner, until)
        _remove_empty(path)


def _is_gone(path: Path) -> bool:
    try:
        _remove_empty(path)
    except OSError:
        return False
    return True


def _remove_empty(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.rmdir()


def _run(argv: Sequence[str], owner: os.stat_result | None, until: float) -> None:
    """Run a program with the rights of `owner`, and kill it when its time is over. Its result is looked at on the disk.

    A process that hangs in the kernel is left behind.
    """
    uid, gid, groups = (None, None, None) if owner is None else (owner.st_uid, owner.st_gid, ())
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        argv,
        stdin=quiet,
        stdout=quiet,
        stderr=quiet,
        env=_ENVIRONMENT,
        cwd="/",
        user=uid,
        group=gid,
        extra_groups=groups,
    )
    try:
        process.wait(max(until - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
