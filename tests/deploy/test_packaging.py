"""What is handed out: the wheel, the lock files and ./dev."""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from breakglass.agents.pve.words import VERSION

from ..support.locks import read_pins
from ..support.wheelhouse import wheelhouse

ROOT = Path(__file__).parent.parent.parent
FOLDERS = {
    "handler": "breakglass",
    "agents": "breakglass/agents",
    "static_site": "breakglass/static_site",
}
LOCKS = ("requirements.txt", "requirements-dev.txt")


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without the checkout on its import path."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        command, cwd=cwd, env={**inherited, **environment}, capture_output=True, text=True, check=False, timeout=120
    )


def sources() -> set[str]:
    """Return the name of each file that the packages are made of."""
    files = ((inside, ROOT / folder, path) for folder, inside in FOLDERS.items() for path in (ROOT / folder).rglob("*"))
    return {
        f"{inside}/{path.relative_to(top)}"
        for inside, top, path in files
        if path.is_file() and path.suffix != ".pyc" and not path.name.startswith(".")
    }


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The wheel of this checkout, which the run's tests share."""
    [path] = wheelhouse().glob("breakglass-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment that has the wheel, and what the wheel depends on from here."""
    place = tmp_path_factory.mktemp("elsewhere")
    venv = place / "venv"
    assert run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=place).returncode == 0
    put = run(
        *(sys.executable, "-m", "pip", "--python", venv, "install"),
        *("--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", wheel),
        cwd=place,
    )
    assert put.returncode == 0, put.stdout + put.stderr
    # The .pth files in the directory that a .pth names are not read: a checkout linked from there stays out of the way.
    [packages] = venv.glob("lib/python*/site-packages")
    (packages / "here.pth").write_bytes(os.fsencode(sysconfig.get_path("purelib")) + b"\n")
    return venv / "bin"


@pytest.mark.all
def test_the_wheel_holds_every_file_of_its_packages(wheel: Path) -> None:
    """Every file of the handler, the agents and the page is in the wheel, and nothing else but its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {"breakglass/static_site/index.html", "breakglass/agents/bundle.py", "breakglass/demo/run.py"} <= names
    assert {"breakglass/cli/recipe.sh", "breakglass/alerts/templates/alertmanager.yml"} <= names
    assert names == sources()


@pytest.mark.all
def test_the_wheel_imports_from_its_own_place(installed: Path, tmp_path: Path) -> None:
    """The handler of an installed wheel serves the page that came with the wheel."""
    code = "from breakglass import agents; from breakglass.web import app; "
    code += "print(app.__file__, agents.__file__, app.PAGE / 'index.html', sep='\\n')"
    told = run(installed / "python", "-c", code, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    for path in map(Path, told.stdout.splitlines()):
        assert path.is_relative_to(installed.parent)
        assert path.is_file()


@pytest.mark.all
def test_the_command_of_the_wheel_runs(installed: Path, tmp_path: Path) -> None:
    """`breakglass` runs from any directory and lists its commands; so does `python -m breakglass`."""
    for command in ([installed / "breakglass"], [installed / "python", "-m", "breakglass"]):
        told = run(*command, "--help", cwd=tmp_path)
        assert told.returncode == 0, told.stderr
        assert "serve" in told.stdout
        assert run(*command, "--version", cwd=tmp_path).stdout == f"breakglass {VERSION}\n"


@pytest.mark.all
def test_the_wheel_writes_the_host_agent(installed: Path, tmp_path: Path) -> None:
    """`breakglass host bundle FILE` of an installed wheel writes an executable agent, the same as the checkout's."""
    told = run(installed / "breakglass", "host", "bundle", "breakglass-pve", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    agent = tmp_path / "breakglass-pve"
    assert os.access(agent, os.X_OK)
    here = run(sys.executable, "-m", "breakglass", "host", "bundle", cwd=ROOT)
    assert agent.read_text(encoding="utf-8") == here.stdout


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_hashes_every_pin_and_names_no_host(lock: str) -> None:
    """A lock file names no host to install from."""
    assert read_pins(lock)
    assert not re.search(r"://|index-url|find-links|trusted-host|@", (ROOT / lock).read_text(encoding="utf-8"))


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_files_hold_what_the_project_depends_on(lock: str) -> None:
    """Each dependency is locked at a version that pyproject.toml allows, the same in both files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = list(project["project"]["dependencies"])
    if lock == "requirements-dev.txt":
        wanted += project["dependency-groups"]["dev"] + project["build-system"]["requires"]
    locked = read_pins(lock)
    for requirement in map(Requirement, wanted):
        version = locked.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not in {lock}: ./dev lock"
        assert requirement.specifier.contains(version), f"{requirement} is {version} in {lock}: ./dev lock"
    assert locked.items() >= read_pins("requirements.txt").items()


@pytest.mark.all
def test_the_quick_tests_are_the_quick_ones() -> None:
    """`./dev test --quick` takes no test that is marked slow, nor one that is for `--all`."""
    shown = run(ROOT / "dev", "test", "--quick", cwd=ROOT, PYTEST_ADDOPTS="--collect-only")
    assert shown.returncode == 0, shown.stdout[-2000:] + shown.stderr
    assert "test_packages_import_only_from_lower_floors" in shown.stdout
    for other in ("test_each_failure_of_proxmox_ends_as_it_must", "test_the_wheel_holds_every_file_of_its_packages"):
        assert other not in shown.stdout


def test_dev_help_lists_every_command() -> None:
    """`./dev help` lists each command; another word is refused with the same list."""
    told = run(ROOT / "dev", "help", cwd=ROOT)
    assert told.returncode == 0
    assert re.findall(r"^\./dev (\w+)", told.stdout, re.MULTILINE) == ["demo", *["test"] * 4, "lint", "bench", "lock"]
    refused = run(ROOT / "dev", "reboot", cwd=ROOT)
    assert refused.returncode == 2
    assert refused.stderr == f'dev: no such command: "reboot"\n{told.stdout}'
