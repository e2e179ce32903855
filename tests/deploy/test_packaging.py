"""What is handed out: the wheel, the lock files and ./dev."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from breakglass.agents.pve.words import VERSION
from breakglass.chat.program import find_program
from breakglass.config.model import ChatSettings
from breakglass.config.model_api import ModelApi
from breakglass.doctor.chat import TESTED

from ..support.documents import commands
from ..support.locks import read_pins
from ..support.rows import each_row
from ..support.service import Service
from ..support.sshd import Sshd
from ..support.wheelhouse import PYTHONS, claude_wheel, wheelhouse

ROOT = Path(__file__).parent.parent.parent
FOLDERS = {
    "handler": "breakglass",
    "agents": "breakglass/agents",
    "docs": "breakglass/docs",
    "static_site": "breakglass/static_site",
}
LOCKS = ("requirements.txt", "requirements-dev.txt")


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without the checkout on its import path."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        command, cwd=cwd, env={**inherited, **environment}, capture_output=True, text=True, check=False, timeout=300
    )


def pip(venv: Path, *words: str | Path) -> None:
    """Run this environment's pip for another one, which needs none."""
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input", "--root-user-action=ignore")
    ran = run(sys.executable, "-m", "pip", "--python", venv, words[0], *quiet, *words[1:], cwd=venv)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def sources() -> set[str]:
    """Return the name of each file that the packages are made of."""
    files = ((inside, ROOT / folder, path) for folder, inside in FOLDERS.items() for path in (ROOT / folder).rglob("*"))
    return {
        f"{inside}/{path.relative_to(top)}"
        for inside, top, path in files
        if path.is_file() and path.suffix != ".pyc" and not path.name.startswith(".") and not is_picture_of_docs(path)
    }


def is_picture_of_docs(path: Path) -> bool:
    """Tell whether a file is a picture of a document, which a terminal can't show; the page's are in the wheel."""
    return path.suffix in (".png", ".webp") and path.is_relative_to(ROOT / "docs")


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The wheel of this checkout, which the run's tests share."""
    [path] = wheelhouse().glob("breakglass-*.whl")
    return path


def python_version(python: Path) -> str:
    """Return the version of a Python, as `3.11`; an empty text if there is none."""
    if not python.exists():
        return ""
    return run(python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])", cwd=Path("/")).stdout.strip()


def another_python() -> Path:
    """Return a declared Python of another version than this one, Debian's own if that is one; skip without one."""
    found = [f"/usr/bin/{name}" for name in ("python3", *(f"python{version}" for version in PYTHONS))]
    found += [path for version in PYTHONS if (path := shutil.which(f"python{version}"))]
    others = set(PYTHONS) - {python_version(Path(sys.executable))}
    python = next((path for path in map(Path, found) if python_version(path) in others), None)
    return python or pytest.skip(f"no other Python than {sys.executable} is installed")


@pytest.fixture(scope="module", params=["this Python", "another Python"])
def installed(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a new environment with the wheel and the locked packages, for one of two Pythons."""
    python = another_python() if request.param == "another Python" else Path(sys.executable)
    venv = tmp_path_factory.mktemp("elsewhere") / "venv"
    assert run(python, "-m", "venv", "--without-pip", venv, cwd=ROOT).returncode == 0
    offline = ("--no-index", "--find-links", wheel.parent, "--no-compile")
    pip(venv, "install", *offline, "--require-hashes", "-r", ROOT / "requirements.txt")
    pip(venv, "install", *offline, "--no-deps", "breakglass")
    for above in venv.parents:  # the handler's user reads the program there
        if not above.stat().st_mode & 0o001:
            above.chmod(above.stat().st_mode | 0o011)
    return venv / "bin"


@pytest.mark.all
def test_the_wheel_holds_every_file_of_its_packages(wheel: Path) -> None:
    """Every file of the handler, the agents, the documents and the page is in the wheel, and no other package."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    shared = {name.partition(".data/data/")[2] for name in names if ".data/data/" in name}
    assert {"share/man/man1/breakglass.1", "share/bash-completion/completions/breakglass.bash"} <= shared
    assert {"breakglass/static_site/index.html", "breakglass/agents/bundle.py", "breakglass/demo/run.py"} <= names
    assert {"breakglass/cli/recipe.sh", "breakglass/alerts/templates/alertmanager.yml"} <= names
    assert {"breakglass/docs/runbook.md", "breakglass/agents/breakglass.md", "breakglass/py.typed"} <= names
    assert {name for name in names if ".data/" not in name} == sources()


class InstalledService(Service):
    """A handler that runs from an installed wheel."""

    def __init__(self, python: Path, directory: Path, sshd: Sshd) -> None:
        self.python = python
        super().__init__(directory, port=sshd.port, key=sshd.power_key, host_key=[sshd.host_key])


@pytest.mark.all
@pytest.mark.real("sshd")
def test_the_wheel_answers_a_signed_status(installed: Path, sshd: Sshd, tmp_path: Path) -> None:
    """`breakglass call status` of an installed wheel is answered by the handler of the same wheel, with its page."""
    service = InstalledService(installed / "python", tmp_path, sshd)
    try:
        service.answering()
        ran = run(
            *(installed / "breakglass", "call", "status", "--json"),
            cwd=tmp_path,
            BREAKGLASS_URL=f"http://127.0.0.1:{service.port}",
            BREAKGLASS_SECRET=service.secrets["operator"],
        )
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout)["outcome"] == "done"
        assert b"<title>" in service.send("GET", "/").body
        assert service.health()["version"] == VERSION
    finally:
        service.stop()


@each_row("lock", LOCKS)
def test_the_lock_files_hold_what_the_project_depends_on(lock: str) -> None:
    """Each dependency is locked, with hashes and from no host, at a version that pyproject.toml allows."""
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
    assert not re.search(r"://|index-url|find-links|trusted-host|@", (ROOT / lock).read_text(encoding="utf-8"))


def test_the_newest_entry_of_the_changelog_is_this_version() -> None:
    """The version is raised together with its entry."""
    entries = re.findall(r"(?m)^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", VERSION)
    assert entries[0] == VERSION


@pytest.mark.all
@pytest.mark.real("claude")
def test_chats_program_installs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line works in a new environment. Its program is found without chat.command, and npm's has its version."""
    [install] = commands("docs/install.md", "8. Chat")
    packages, sandbox, line = install.splitlines()
    assert packages == "apt-get install -y bubblewrap"
    as_nobody = [sys.executable, "-m", *sandbox.split(), *(("--user", "65534") if os.geteuid() == 0 else ())]
    assert subprocess.run(as_nobody, check=True, capture_output=True).stdout.startswith(b"claude can be isolated")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    line = line.replace("/opt/breakglass", f"{tmp_path}/venv").replace("/usr/src/breakglass", str(ROOT))
    source = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(claude_wheel()), "PIP_NO_CACHE_DIR": "1"}
    subprocess.run(line.split(), check=True, env=os.environ | source, stdout=subprocess.DEVNULL)
    [site] = (tmp_path / "venv").glob("lib/python3*/site-packages")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PATH", "/nowhere")
    settings = ChatSettings("/nowhere", ModelApi("ANTHROPIC_API_KEY", "none"))
    program = find_program(settings)
    assert program == str(site / "claude_agent_sdk/_bundled/claude")
    assert find_program(replace(settings, command="other")) == "/nonexistent/other"
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"{TESTED} ")
    text = (ROOT / "docs/install.md").read_text("utf-8")
    assert f"`npm install -g @anthropic-ai/claude-code@{TESTED}`" in text
