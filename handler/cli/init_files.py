"""Writes new files into a directory: all of them or none, and never over one that exists.

The files are written into a directory beside their places, and linked into place, because link(2) fails if the file
exists, whereas rename(2) would replace it. After a crash, the staging directory remains. The next run finds it, and
says what to remove.
"""

import os
import shlex
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from ..base.new_files import sync, write_new
from .output import FAILED, CommandError, reason

STAGING = ".breakglass-init"


def refuse_existing(directory: Path, names: list[str]) -> None:
    """Raise CommandError if one of the files exists, or if an earlier run did not finish."""
    staging = directory / STAGING
    if os.path.lexists(staging):
        raise CommandError(*_describe_unfinished(directory, staging))
    found = [str(directory / name) for name in names if os.path.lexists(directory / name)]
    if found:
        hint = "name another directory, because the keys in these files may be in use"
        raise CommandError(f"nothing was written, because these files exist: {', '.join(found)}", hint)


def _describe_unfinished(directory: Path, staging: Path) -> tuple[str, str]:
    """Describe what an earlier run left behind, and what to do about it."""
    names = [str(path.relative_to(staging)) for path in sorted(staging.rglob("*")) if path.is_file()]
    placed = [name for name in names if _is_same(staging / name, directory / name)]
    message = f"nothing was written: an earlier init of {directory} did not finish, or is still running"
    is_whole = bool(names) and placed == names
    leftovers = [str(staging), *(str(directory / name) for name in placed if not is_whole)]
    then = "breakglass check, because all files are in place" if is_whole else "init again"
    return message, f"if no init is running, remove its leftovers: rm -r -- {shlex.join(leftovers)}; then run {then}"


def _is_same(path: Path, other: Path) -> bool:
    try:
        return os.path.samestat(path.lstat(), other.lstat())
    except OSError:
        return False


def write_files(directory: Path, files: Mapping[str, str], group: int | None, verify: Callable[[], None]) -> None:
    """Write files into a directory, creating it if needed, and call `verify`. On an error, no file remains.

    If `group` is given, its members may read the files.
    """
    refuse_existing(directory, list(files))
    made: list[Path] = []
    try:
        try:
            _check_above(directory)
            for place in sorted({directory, *((directory / name).parent for name in files)}):
                _make_directory(place, group, made)
                _check_directory(place)
            _stage(directory, files, group, made)
            for name in files:
                os.link(directory / STAGING / name, directory / name)
            for place in {(directory / name).parent for name in files}:
                sync(place)
            verify()
        except OSError as error:
            path = error.filename2 or error.filename or directory
            what = f"can't write {path}: {reason(error)}; the new files were removed"
            raise CommandError(what, "name another directory: breakglass init DIR", FAILED) from None
    except BaseException:
        _remove(directory, list(files), made)
        raise
    shutil.rmtree(directory / STAGING)


def _make_directory(directory: Path, group: int | None, made: list[Path]) -> None:
    """Create a directory and its parents. Other users may enter the parents, as they may enter /etc."""
    if directory.is_dir():
        return
    _make_parents(directory.parent, 0o755 if group is not None else 0o700, made)
    directory.mkdir(0o700)
    made.append(directory)
    if group is not None:
        os.chown(directory, -1, group)
        directory.chmod(0o750)


def _make_parents(directory: Path, mode: int, made: list[Path]) -> None:
    if not directory.exists():
        _make_parents(directory.parent, mode, made)
        directory.mkdir(mode)
        made.append(directory)


def _check_above(directory: Path) -> None:
    """Raise CommandError if another user could replace a directory. sshd checks its key files in this way.

    In a directory such as /tmp, that user can't replace what belongs to another user.
    """
    for above in (*directory.parents, *Path(os.path.realpath(directory)).parents):
        try:
            status = above.stat()
        except FileNotFoundError:
            continue
        problem = ""
        if status.st_uid not in (0, os.geteuid()):
            problem = f"{above} belongs to another user"
        elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX:
            problem = f"other users may write in {above}"
        if problem:
            hint = f"name a directory somewhere else, because that user could replace {directory}"
            raise CommandError(f"nothing was written: {problem}", hint)


def _check_directory(directory: Path) -> None:
    """Raise CommandError if another user could replace files in a directory."""
    status = directory.stat()
    shown = shlex.quote(str(directory))
    if status.st_uid not in (0, os.geteuid()):
        raise CommandError(f"nothing was written: {directory} belongs to another user", f"chown {os.geteuid()} {shown}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CommandError(f"nothing was written: other users can write in {directory}", f"chmod go-w {shown}")


def _stage(directory: Path, files: Mapping[str, str], group: int | None, made: list[Path]) -> None:
    staging = directory / STAGING
    staging.mkdir(0o700)
    made.append(staging)
    for name, text in files.items():
        (staging / name).parent.mkdir(0o700, exist_ok=True)
        write_new(staging / name, text, -1, *((-1, 0o600) if group is None else (group, 0o640)))


def _remove(directory: Path, names: list[str], made: list[Path]) -> None:
    """Remove the linked files, last one first, and the directories that this run created.

    Files that another run staged are left alone.
    """
    is_staged = directory / STAGING in made
    for name in reversed(names):
        if is_staged and _is_same(directory / STAGING / name, directory / name):
            (directory / name).unlink()
    for path in reversed(made):
        try:
            if path.name == STAGING:
                shutil.rmtree(path)
            else:
                path.rmdir()
        except OSError:  # the directory still has other files, which the next run names
            pass
