"""What the demo does where root starts it: its handler then becomes another user, who reads its files through a group.

That user may not be able to enter the directory of this checkout, which is often below /root.
"""

import os
import pwd
import shutil
import subprocess
from pathlib import Path

UID = 65534  # of the account that owns nothing, on every Linux
_PACKAGE = Path(__file__).parents[1]
_BESIDE = ("agents", "static_site")  # in a checkout; an installed package has them inside


def write_server_table() -> str:
    """Return the table [server] of the demo's configuration, nothing for a user who is not root."""
    return f'\n[server]\nuser = "{pwd.getpwuid(UID).pw_name}"\n' if os.geteuid() == 0 else ""


def open_to_handler(directory: Path, *files: Path) -> None:
    """Let the handler's user enter a directory, and read these files in it."""
    if os.geteuid() == 0:
        for path, mode in ((directory, 0o710), *((file, 0o640) for file in files)):
            os.chown(path, 0, pwd.getpwuid(UID).pw_gid)
            path.chmod(mode)


def find_package(directory: Path) -> Path:
    """Return this package where the handler's user can read it: where it is, or a copy in `directory`."""
    if _can(_PACKAGE / "__init__.py", "-r"):
        return _PACKAGE
    folders = [_PACKAGE, *(_PACKAGE.with_name(name) for name in _BESIDE if _PACKAGE.name == "handler")]
    for folder in folders:
        shutil.copytree(folder, directory / "code" / folder.name)
    return directory / "code" / _PACKAGE.name


def find_program(program: Path, directory: Path) -> Path:
    """Return a program where the handler's user can run it: where it is, or a link or copy in `directory`."""
    if _can(program, "-x"):
        return program
    place = directory / program.name
    try:
        os.link(program, place)
    except OSError:  # on another file system
        shutil.copy(program, place)
    return place


def _can(path: Path, what: str) -> bool:
    """Tell whether the handler's user may read (-r) or run (-x) a file."""
    if os.geteuid() != 0:
        return True
    group = pwd.getpwuid(UID).pw_gid
    tried = ["/usr/bin/test", what, str(path)]
    return subprocess.run(tried, user=UID, group=group, extra_groups=(), check=False).returncode == 0
