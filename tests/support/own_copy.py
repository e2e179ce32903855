"""Makes a copy for other users, if root runs the tests in a checkout that they can't enter, such as one below /root.

The handlers of the tests become another user, who must read the package and run the interpreter. `./dev` runs the
tests with the copy's interpreter, and then removes the copy.
"""

import pwd
import shutil
import sys
import sysconfig
from pathlib import Path

from breakglass.demo.account import PACKAGE, can_use, copy_environment, copy_package, link_or_copy

from . import claude
from .locks import ROOT
from .service import ACCOUNT


def main(directory: Path) -> None:
    """Print the copy's directory of programs to run the tests with, or nothing if no copy is needed."""
    uid = pwd.getpwnam(ACCOUNT or "root").pw_uid
    if can_use(PACKAGE / "__init__.py", "-r", uid) and can_use(Path(sys.executable), "-x", uid):
        return
    directory.chmod(0o711)
    package = copy_package(directory / "code")
    shutil.copytree(ROOT / "tests", directory / "code/tests", ignore=shutil.ignore_patterns("__pycache__"))
    python = copy_environment(directory / "python", package)
    [packages] = directory.glob("python/lib/python*/site-packages")
    (packages / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")  # of the tests, which root runs
    if program := claude.find():
        _copy_claude(program, packages / "claude_agent_sdk")
    _copy_programs(Path(sys.prefix), python.parents[1])
    print(python.parent)


def _copy_claude(program: Path, package: Path) -> None:
    """Put the program of claude into the directory in which tests/support/claude.py finds it."""
    place = package / program.parent.name
    place.mkdir(parents=True)
    (package / "__init__.py").touch()
    link_or_copy(program, place / program.name)


def _copy_programs(venv: Path, copy: Path) -> None:
    """Copy the command, which names its Python, and link the other programs and the checkers of the page."""
    command = copy / "bin/breakglass"
    command.write_text((venv / "bin/breakglass").read_text().replace(str(venv), str(copy)))
    command.chmod(0o755)
    for entry in (*venv.iterdir(), *(venv / "bin").iterdir()):
        place = copy / entry.relative_to(venv)
        if not place.exists():
            place.symlink_to(entry)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
