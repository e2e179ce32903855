"""A checkout that nothing installed, in which a platform runs the Procfile's line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from breakglass.agents.pve.words import VERSION

from ..support.forked import run_command
from ..support.locks import ROOT
from ..support.ports import reserve_port
from ..support.service import SSH_KEY, Service, as_handler, let_in
from ..support.sshd import wait_listening
from ..support.wheelhouse import FOLDERS

pytestmark = pytest.mark.all


class ProcfileService(Service):
    """A handler that a platform starts: with the line of the Procfile, in the checkout."""

    def __init__(self, checkout: Path, directory: Path) -> None:
        self.checkout = checkout
        [line] = (checkout / "Procfile").read_text().splitlines()
        self.line = line.removeprefix("web: ").replace("0.0.0.0", "127.0.0.1")  # nothing here listens to the network
        super().__init__(directory, port=reserve_port(), key=SSH_KEY, host_key="any")

    def start(self) -> None:
        """Run the line in a shell and return once the handler listens."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= {"BREAKGLASS_CONFIG": str(self.config), "PORT": str(self.port)}
        environment["PATH"] = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        command = ["/bin/sh", "-c", f"exec env {self.line}"]
        with self.audit_file.open("ab") as log:
            streams: dict[str, Any] = {"stdout": log, "stderr": log}
            self.process = subprocess.Popen(command, env=environment, cwd=self.checkout, **streams, **as_handler())
        wait_listening(self.port, self.process, self.audit_file)


def test_the_procfile_starts_the_handler(tmp_path: Path) -> None:
    """It answers /health, serves the page and tries to reach its host. `breakglass keys` knows its process."""
    place = tmp_path / "checkout"
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Procfile", place)
    let_in(place)  # the handler's user imports what is there
    with ProcfileService(place, tmp_path) as service:
        health = service.health()
        assert (health["ok"], health["version"]) == (True, VERSION)
        assert b"<title>" in service.send("GET", "/").body
        assert service.pve("status").json["outcome"] == "unreached"
        at = {"BREAKGLASS_CONFIG": str(service.config), "BREAKGLASS_URL": f"http://127.0.0.1:{service.port}"}
        ran = run_command("keys", "new", "phone", "--pid", str(service.process.pid), **at)
        assert (ran.returncode, "which is ok" in ran.stderr) == (0, True), ran
