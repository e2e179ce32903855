"""What the demo does where root starts it: its handler runs under a user id that no one has, and reads its files by it.

That user may be unable to enter the directory of this checkout and of its virtual environment, which is often below
/root. Then the handler runs from a copy. The tests use the same copy for the handlers that they start.
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

PACKAGE = Path(__file__).resolve().parents[1]  # resolved, because ./dev has a link to it in .venv
_BESIDE = ("agents", "docs", "static_site")  # in a checkout; an installed package has them inside
_IDS = range(61184, 65520)  # systemd gives them to services that have no account: none of these owns a file
_NOT_RUN = ("claude-agent-sdk", "pip")


class Rights(TypedDict, total=False):
    """The arguments of `subprocess.Popen` that give a program the handler's user."""

    user: int
    group: int
    extra_groups: tuple[int, ...]


@functools.cache
def find_uid() -> int:
    """Return a user id without an account, a group and a process; this user's own where root has not started this."""
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
    """Return how root starts a program as a user, with the group of the same number; nothing for another user."""
    return {"user": uid, "group": uid, "extra_groups": ()} if os.geteuid() == 0 else {}


def give_to_handler(directory: Path) -> None:
    """Make a directory that the handler's user alone can use."""
    directory.mkdir(0o700)
    os.chown(directory, find_uid(), -1)


def open_to_handler(directory: Path, *files: Path) -> None:
    """Let the handler's user enter a directory, and read these files in it."""
    if os.geteuid() == 0:
        for path, mode in ((directory, 0o710), *((file, 0o640) for file in files)):
            os.chown(path, 0, find_uid())
            path.chmod(mode)


def find_installation(directory: Path) -> list[str]:
    """Return the beginning of a command line that runs this package as the handler's user can read it.

    It names this Python and the package by its path, or copies of them in `directory`. With `-m`, Python would look
    into the current directory first, and a bare checkout is not installed. Raises RuntimeError without such a Python.
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
    """Copy the package, and what stands beside it in a checkout, for every user to read. Return the package."""
    beside = [PACKAGE.with_name(name) for name in _BESIDE] if PACKAGE.name == "handler" else []
    for folder in (PACKAGE, *(path for path in beside if path.exists())):
        shutil.copytree(folder, place / folder.name)
    _open_to_all(place)
    return place / PACKAGE.name


def copy_environment(place: Path, package: Path) -> Path:
    """Make a virtual environment with this package, and with copies of what it imports. Return its Python."""
    venv.create(place, symlinks=True)
    [packages] = place.glob("lib/python*/site-packages")
    (packages / "breakglass").symlink_to(package)
    for found in _list_distributions():
        for file in found.files or ():
            if file.parts[0] not in ("..", "breakglass") and Path(str(file.locate())).is_file():
                target = packages / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(file.locate()), target)  # with its time, which the compiled file beside it names
    _open_to_all(packages)
    return place / "bin/python"


def _list_distributions() -> Iterator[Distribution]:
    """Yield what the handler imports: in a checkout what the lock file names, else all that is installed here."""
    lock = PACKAGE.with_name("requirements.txt")
    if not lock.exists():
        yield from (each for each in distributions() if each.name not in _NOT_RUN)
        return
    for name in re.findall(r"^([a-z0-9-]+)==", lock.read_text(encoding="utf-8"), re.MULTILINE):
        try:
            yield distribution(name)
        except PackageNotFoundError:  # not for this Python
            continue


def _open_to_all(place: Path) -> None:
    """Let every user read a tree, because a strict umask may have closed what it was copied from."""
    for path in (place, *place.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))


def find_program(program: Path, directory: Path) -> Path:
    """Return a program where the handler's user can run it: where it is, or a link or copy in `directory`."""
    if can_use(program, "-x"):
        return program
    place = directory / program.name
    link_or_copy(program, place)
    return place


def link_or_copy(program: Path, place: Path) -> None:
    """Make another name of a file, or on another file system a copy."""
    try:
        os.link(program.resolve(), place)  # a link to a link would lead to where it was
    except OSError:
        shutil.copy(program, place)


def can_use(path: Path, what: str, uid: int | None = None) -> bool:
    """Tell whether the handler's user, or another one, may read (-r) or run (-x) a file."""
    tried = ["/usr/bin/test", what, str(path)]
    return subprocess.run(tried, check=False, **as_handler(uid or find_uid())).returncode == 0
