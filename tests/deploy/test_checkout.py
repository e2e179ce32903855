"""A checkout that nothing installed. The Procfile's line runs there with the packages of requirements.txt alone."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from breakglass.agents.pve.words import VERSION
from breakglass.cli.docs_text import render

from ..support.forked import run_command
from ..support.locks import ROOT, copy_distribution, read_pins
from ..support.ports import reserve_port
from ..support.service import Service, as_handler, let_in
from ..support.sshd import wait_listening

pytestmark = pytest.mark.all  # each needs its own environment


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the handler is started from."""
    place = tmp_path_factory.mktemp("checkout")
    for folder in ("handler", "agents", "docs", "static_site"):
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Procfile", place)
    place.chmod(0o755)  # the handler's user imports what is there
    let_in(place)
    return place


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of a shell whose `python` has exactly the packages of requirements.txt."""
    venv = tmp_path_factory.mktemp("runtime") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=120)
    let_in(venv)
    [packages] = venv.glob("lib/python*/site-packages")
    for name, version in read_pins("requirements.txt").items():
        copy_distribution(name, version, packages)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**inherited, "PATH": f"{venv}/bin:/usr/bin:/bin"}


class ProcfileService(Service):
    """A handler that a platform starts: with the line of the Procfile, in the checkout."""

    def __init__(self, checkout: Path, environment: dict[str, str], directory: Path) -> None:
        self.checkout, self.environment = checkout, environment
        [line] = (checkout / "Procfile").read_text().splitlines()
        self.line = line.removeprefix("web: ").replace("0.0.0.0", "127.0.0.1")  # nothing here listens to the network
        key = asyncssh.generate_private_key("ssh-ed25519")
        super().__init__(
            directory,
            port=reserve_port(),
            key=key.export_private_key().decode(),
            host_key=key.export_public_key().decode().strip(),
        )

    def start(self) -> None:
        """Run the line in a shell and return once the handler listens."""
        environment = {**self.environment, "BREAKGLASS_CONFIG": str(self.config), "PORT": str(self.port)}
        command = ["/bin/sh", "-c", f"exec env {self.line}"]
        with self.audit_file.open("ab") as log:
            streams: dict[str, Any] = {"stdout": log, "stderr": log}
            self.process = subprocess.Popen(command, env=environment, cwd=self.checkout, **streams, **as_handler())
        wait_listening(self.port, self.process, self.audit_file)


@pytest.fixture
def service(checkout: Path, environment: dict[str, str], tmp_path: Path) -> Iterator[ProcfileService]:
    service = ProcfileService(checkout, environment, tmp_path)
    try:
        yield service
    finally:
        service.stop()


def test_the_procfile_starts_the_handler(service: ProcfileService) -> None:
    """It answers /health, serves the page and tries to reach its host. `breakglass keys` knows its process."""
    health = service.health()
    assert (health["ok"], health["version"]) == (True, VERSION)
    assert b"<title>" in service.send("GET", "/").body
    assert service.pve("status").json["outcome"] == "unreached"
    at = {"BREAKGLASS_CONFIG": str(service.config), "BREAKGLASS_URL": f"http://127.0.0.1:{service.port}"}
    ran = run_command("keys", "new", "phone", "--pid", str(service.process.pid), **at)
    assert (ran.returncode, "the handler has reloaded its configuration, which is ok" in ran.stderr) == (0, True), ran


def test_the_folder_is_a_command(checkout: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """`python handler` runs from any directory and through a link, as a platform has one for its current release.

    It prints the documents that stand beside the folder; without those, it says so.
    """

    def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
        command = ["python", str(folder), *words]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    (tmp_path / "current").symlink_to(checkout)
    (tmp_path / "handler").symlink_to(checkout / "handler")
    for folder in (checkout / "handler", tmp_path / "current/handler", tmp_path / "handler"):
        ran = run(folder, "--version")
        assert (ran.stdout, ran.stderr, ran.returncode) == (f"breakglass {VERSION}\n", "", 0)
    ran = run(checkout / "handler", "docs", "runbook")
    assert (ran.stdout, ran.returncode) == (render((ROOT / "docs/runbook.md").read_text("utf-8")), 0)
    (checkout / "docs").rename(tmp_path / "docs")
    ran = run(checkout / "handler", "docs", "runbook")
    (tmp_path / "docs").rename(checkout / "docs")
    assert (ran.stdout, "the documents are not installed" in ran.stderr, ran.returncode) == ("", True, 2)
