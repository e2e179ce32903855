"""What the demo does where root starts it: its handler then becomes another user, who reads its files through a group.

That user may be unable to enter the directory of this checkout and of its virtual environment, which is often below
/root. Then the handler runs from a copy. The tests use the same copy for the handlers that they start.
"""

import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

UID = 65534  # of the account that owns nothing, on every Linux
PACKAGE = Path(__file__).resolve().parents[1]  # resolved, because ./dev has a link to it in .venv
_BESIDE = ("agents", "docs", "static_site")  # in a checkout; an installed package has them inside


def write_server_table() -> str:
    """Return the table [server] of the demo's configuration, nothing for a user who is not root."""
    return f'\n[server]\nuser = "{pwd.getpwuid(UID).pw_name}"\n' if os.geteuid() == 0 else ""


def open_to_handler(directory: Path, *files: Path) -> None:
    """Let the handler's user enter a directory, and read these files in it."""
    if os.geteuid() == 0:
        for path, mode in ((directory, 0o710), *((file, 0o640) for file in files)):
            os.chown(path, 0, pwd.getpwuid(UID).pw_gid)
            path.chmod(mode)


def find_installation(directory: Path) -> list[str]:
    """Return the beginning of a command line that runs this package as the handler's user can read it.

    It names this Python and the package by its path, or copies of them in `directory`. With `-m`, Python would look
    into the current directory first, and a bare checkout is not installed.
    """
    python = Path(sys.executable)
    package = PACKAGE if can_use(PACKAGE / "__init__.py", "-r") else copy_package(directory / "code")
    if not can_use(python, "-x"):
        python = copy_environment(directory / "python", package)
    return [str(python), str(package)]


def copy_package(place: Path) -> Path:
    """Copy the package, and what stands beside it in a checkout, for every user to read. Return the package."""
    beside = [PACKAGE.with_name(name) for name in _BESIDE] if PACKAGE.name == "handler" else []
    for folder in (PACKAGE, *(path for path in beside if path.exists())):
        shutil.copytree(folder, place / folder.name)
    for path in (place, *place.rglob("*")):  # a strict umask may have closed the original
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
    return place / PACKAGE.name


def copy_environment(place: Path, package: Path) -> Path:
    """Make a virtual environment with this package, which finds all others where they are. Return its Python.

    The handler's user may be unable to read those, so a handler loads them while it is root.
    """
    venv.create(place, symlinks=True)
    [packages] = place.glob("lib/python*/site-packages")
    (packages / "breakglass").symlink_to(package)
    (packages / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return place / "bin/python"


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


def can_use(path: Path, what: str, uid: int = UID) -> bool:
    """Tell whether a user that root becomes may read (-r) or run (-x) a file; another user becomes no one else."""
    if os.geteuid() != 0:
        return True
    group = pwd.getpwuid(uid).pw_gid
    tried = ["/usr/bin/test", what, str(path)]
    return subprocess.run(tried, user=uid, group=group, extra_groups=(), check=False).returncode == 0
