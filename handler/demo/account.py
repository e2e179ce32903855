"""The user of the demo's handler. If root starts the demo, the handler runs under an unused user id.

That user may not be able to enter the directory of this checkout and its virtual environment, which is often below
/root. In that case, the handler runs from a copy. The tests use the same copy for the handlers that they start.
"""

import functools
import grp
import os
import pwd
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import TypedDict

PACKAGE = Path(__file__).resolve().parents[1]  # resolved, because ./dev puts a link to the package into .venv
_BESIDE = ("agents", "docs", "static_site")  # beside the package in a checkout; an installed package contains them
_IDS = range(61184, 65520)  # systemd gives these to services without an account, so no file is owned by one of them
_NOT_RUN = ("claude-agent-sdk", "pip")


class Rights(TypedDict, total=False):
    """The arguments of `subprocess.Popen` that give a program the handler's user."""

    user: int
    group: int
    extra_groups: tuple[int, ...]


@functools.cache
def find_uid() -> int:
    """Return a user id without account, group and process. If root did not start this, return the own id."""
    return os.geteuid() or next(uid for uid in _IDS if _is_free(uid))


def _is_free(uid: int) -> bool:
    for find in (pwd.getpwuid, grp.getgrgid, lambda uid: os.getpriority(os.PRIO_USER, uid)):
        try:
            find(uid)
        except (KeyError, ProcessLookupError):
            continue
        return False
    return True


def as_handler(uid: int) -> Rights:
    """Return how root starts a program as a user and the group of the same number. Empty if not root."""
    return {"user": uid, "group": uid, "extra_groups": ()} if os.geteuid() == 0 else {}


def give_to_handler(directory: Path) -> None:
    """Create a directory that only the handler's user can use."""
    directory.mkdir(0o700)
    os.chown(directory, find_uid(), -1)


def open_to_handler(directory: Path, *files: Path) -> None:
    """Let the handler's user enter a directory, and read these files in it."""
    if os.geteuid() == 0:
        for path, mode in ((directory, 0o710), *((file, 0o640) for file in files)):
            os.chown(path, 0, find_uid())
            path.chmod(mode)


def find_installation(directory: Path) -> list[str]:
    """Return the start of a command line for this package, with files that the handler's user can read.

    It names this Python and the package by path, or copies of them in `directory`. It does not use `-m`, because Python
    would search the current directory first, and because a bare checkout is not installed. Raises RuntimeError if the
    user can't use any Python.
    """
    open_to_handler(directory)
    python = Path(sys.executable)
    package = PACKAGE if can_use(PACKAGE / "__init__.py", "-r") else copy_package(directory / "code")
    if not can_use(python, "-x"):
        python = copy_environment(directory / "python", package)
    if not can_use(python, "-x"):
        where = python.resolve().parent
        raise RuntimeError(
            f"The handler must not be root, and no other user can run the Python in {where}: start the "
            "demo as an ordinary user."
        )
    return [str(python), str(package)]


def copy_package(place: Path) -> Path:
    """Copy the package, and the folders beside it in a checkout, readable for every user. Return the copy."""
    beside = [PACKAGE.with_name(name) for name in _BESIDE] if PACKAGE.name == "handler" else []
    for folder in (PACKAGE, *(path for path in beside if path.exists())):
        shutil.copytree(folder, place / folder.name)
    _open_to_all(place)
    return place / PACKAGE.name


def copy_environment(place: Path, package: Path) -> Path:
    """Create a virtual environment with this package and copies of its dependencies. Return its Python."""
    venv.create(place, symlinks=True)
    [packages] = place.glob("lib/python*/site-packages")
    (packages / "breakglass").symlink_to(package)
    for found in _list_distributions():
        for file in found.files or ():
            if file.parts[0] not in ("..", "breakglass") and Path(str(file.locate())).is_file():
                target = packages / file
                target.parent.mkdir(parents=True, exist_ok=True)
                # copy2 keeps the modification time, which the compiled file beside the copy records
                shutil.copy2(str(file.locate()), target)
    _open_to_all(packages)
    return place / "bin/python"


def _list_distributions() -> Iterator[Distribution]:
    """Yield the handler's dependencies: those in the lock file of a checkout, otherwise all installed ones."""
    lock = PACKAGE.with_name("requirements.txt")
    if not lock.exists():
        yield from (each for each in distributions() if each.name not in _NOT_RUN)
        return
    for name in re.findall(r"^([a-z0-9-]+)==", lock.read_text(encoding="utf-8"), re.MULTILINE):
        try:
            yield distribution(name)
        except PackageNotFoundError:  # this Python does not need the package
            continue


def _open_to_all(place: Path) -> None:
    """Let every user read a tree, because a strict umask may have restricted the original files."""
    for path in (place, *place.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))


def find_program(program: Path, directory: Path) -> Path:
    """Return a program that the handler's user can run: the original, or a link or copy in `directory`."""
    if can_use(program, "-x"):
        return program
    place = directory / program.name
    link_or_copy(program, place)
    return place


def link_or_copy(program: Path, place: Path) -> None:
    """Create a hard link to a file, or a copy on another file system."""
    try:
        # resolved, because a hard link to a symbolic link would still lead to the old place
        os.link(program.resolve(), place)
    except OSError:
        shutil.copy(program, place)


def can_use(path: Path, what: str, uid: int | None = None) -> bool:
    """Tell whether the handler's user, or another one, may read (-r) or run (-x) a file."""
    tried = ["/usr/bin/test", what, str(path)]
    return subprocess.run(tried, check=False, **as_handler(uid or find_uid())).returncode == 0
