"""What is handed out: the wheel and the lock files."""

import json
import os
import re
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

from ..support.locks import read_pins
from ..support.rows import each_row
from ..support.service import Service, let_in
from ..support.sshd import Sshd
from ..support.wheelhouse import PYTHONS, wheelhouse

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


@pytest.mark.all
def test_the_wheel_holds_every_file_of_its_packages(wheel: Path) -> None:
    """Every file of the handler, the agents, the documents and the page is in the wheel, and no other package."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    shared = {name.partition(".data/data/")[2] for name in names if ".data/data/" in name}
    assert {"share/man/man1/breakglass.1", "share/bash-completion/completions/breakglass.bash"} <= shared
    assert {"breakglass/static_site/index.html", "breakglass/docs/runbook.md", "breakglass/py.typed"} <= names
    assert {name for name in names if ".data/" not in name} == sources()


def other_python() -> Path:
    """Return Debian's Python if it is another one than this, or else this one."""
    return next((Path(f"/usr/bin/python{each}") for each in PYTHONS if is_other(each)), Path(sys.executable))


def is_other(version: str) -> bool:
    return not sys.version.startswith(f"{version}.") and Path(f"/usr/bin/python{version}").exists()


@pytest.mark.all
@pytest.mark.real("sshd")
def test_the_wheel_answers_a_signed_status(wheel: Path, sshd: Sshd, tmp_path: Path) -> None:
    """With the locked packages, an installed wheel's `breakglass call` is answered by its handler, with its page."""
    venv = tmp_path / "venv"
    assert run(other_python(), "-m", "venv", "--without-pip", venv, cwd=ROOT).returncode == 0
    pip = (sys.executable, "-m", "pip", "--python", venv, "install", "--quiet", "--no-index", "--no-compile")
    for what in (("--require-hashes", "-r", ROOT / "requirements.txt"), ("--no-deps", "breakglass")):
        ran = run(*pip, "--find-links", wheel.parent, *what, cwd=venv)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    let_in(venv / "bin")

    class Installed(Service):
        python = venv / "bin/python"

    with Installed(tmp_path, **sshd.access) as service:
        service.answering()
        url = {"BREAKGLASS_URL": f"http://127.0.0.1:{service.port}", "BREAKGLASS_SECRET": service.secrets["operator"]}
        ran = run(venv / "bin/breakglass", "call", "status", "--json", cwd=tmp_path, **url)
        assert (ran.returncode, json.loads(ran.stdout)["outcome"]) == (0, "done"), ran.stderr
        assert b"<title>" in service.send("GET", "/").body
        assert service.health()["version"] == VERSION


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


def test_chats_program_is_found_beside_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without chat.command and without a claude in PATH, it is the one in the wheel of claude-agent-sdk."""
    program = tmp_path / "claude_agent_sdk/_bundled/claude"
    program.parent.mkdir(parents=True)
    program.touch()
    (tmp_path / "claude_agent_sdk/__init__.py").touch()
    monkeypatch.delitem(sys.modules, "claude_agent_sdk", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    settings = ChatSettings("/nowhere", ModelApi("ANTHROPIC_API_KEY", "none"))
    assert find_program(settings) == str(program)
    assert find_program(replace(settings, command="other")) == "/nonexistent/other"
