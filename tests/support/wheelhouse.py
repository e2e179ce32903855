"""A directory with our wheel and every locked wheel, from which an installation needs no network.

pip install --no-index --find-links WHEELHOUSE --require-hashes -r requirements.txt
pip install --no-index --find-links WHEELHOUSE --no-deps breakglass
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from breakglass.agents.pve.words import VERSION

from .leftovers import shared_directory
from .locks import ROOT

PYTHONS = ("3.11", "3.12", "3.13", "3.14")  # the versions that pyproject.toml declares
FOLDERS = ("handler", "agents", "docs", "static_site")
_BESIDE = ("pyproject.toml", "README.md", "LICENSE")
_PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")


def wheelhouse() -> Path:
    """Return a directory with our wheel and the wheels of requirements.txt for each Python of PYTHONS.

    The first caller of a run makes the directory, and the others wait. The locked wheels stay for later runs on this
    machine, in a directory whose name is the lock file's hash.
    """
    made = Path(tempfile.gettempdir()) / "wheelhouse"  # the run's directory, which the run removes
    with (shared_directory() / f"breakglass-tests-wheels-{os.geteuid()}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            work = Path(tempfile.mkdtemp(prefix="wheelhouse-"))
            shutil.copytree(_locked_wheels(), work / "wheels")
            shutil.copy(build_wheel(work / "source"), work / "wheels")
            (work / "wheels").chmod(0o755)
            (work / "wheels").rename(made)
            shutil.rmtree(work)
    return made


def build_wheel(directory: Path, version: str = VERSION) -> Path:
    """Build the wheel from a copy of this checkout, because setuptools leaves a `build` directory behind."""
    copy_sources(directory)
    words = directory / "agents/pve/words.py"
    words.write_text(words.read_text().replace(f'VERSION = "{VERSION}"', f'VERSION = "{version}"'))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    _run(*(sys.executable, "-m", "build", "--wheel", "--no-isolation"), cwd=directory, environment=environment)
    [path] = (directory / "dist").glob("*.whl")
    return path


def copy_sources(directory: Path) -> None:
    """Copy the wheel's source files into a new directory."""
    directory.mkdir()
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, directory / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in _BESIDE:
        shutil.copy(ROOT / name, directory)


def _locked_wheels() -> Path:
    """Return the directory of the wheels of requirements.txt, for each Python of PYTHONS."""
    return _keep("requirements.txt", *(("--python-version", python) for python in PYTHONS))


def trixie_wheels() -> Path:
    """Return the directory of the wheels of requirements.txt for Debian 13 on amd64, whatever machine this is."""
    platforms = [
        f"manylinux_2_{minor}_x86_64" for minor in range(41, 16, -1)
    ]  # glibc 2.41 takes each, the newest first
    options = [word for name in (*platforms, "manylinux2014_x86_64", "any") for word in ("--platform", name)]
    return _keep("requirements.txt", ("--python-version", "3.13", "--implementation", "cp", *options))


def claude_wheel() -> Path:
    """Return the directory of the wheel of claude, which is large."""
    return _keep("requirements-claude.txt", ())


def _keep(lock: str, *choices: Sequence[str]) -> Path:
    """Return the directory of a lock file's wheels. If no run has downloaded them yet, download and check them."""
    text = (ROOT / lock).read_text("utf-8")
    key = hashlib.sha256(f"{text}{choices}{sys.version_info[:2]}".encode()).hexdigest()[:16]
    kept = shared_directory() / f"breakglass-tests-wheels-{os.geteuid()}-{key}"
    with kept.with_name(f"{kept.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not kept.exists():
            work = Path(tempfile.mkdtemp(prefix=f"{kept.name}.", dir=kept.parent))
            for choice in choices:
                _download(text, choice, work)
            work.chmod(0o755)
            work.rename(kept)
    return kept


def _download(lock: str, choice: Sequence[str], directory: Path) -> None:
    """Download the wheels of a lock file's text. pip's options in `choice` can name another Python."""
    whole = directory / "requirements.txt"
    # without them, because pip evaluates markers for this Python and not for --python-version
    whole.write_text(re.sub(r" ; [^\n\\]*", " ", lock) if choice else lock)
    command = (*_PIP, "download", "--no-deps", "--require-hashes", "--only-binary=:all:", *choice)
    _run(*command, "--dest", directory, "-r", whole)
    whole.unlink()


def _run(*command: str | Path, cwd: Path = ROOT, environment: dict[str, str] | None = None) -> None:
    ran = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, f"{' '.join(map(str, command))}\n{ran.stdout}{ran.stderr}"
