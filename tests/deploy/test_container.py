"""The image: built from docs/container.md's commands on Debian, and run as process 1 with a read-only root."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.container import Builder, Container
from ..support.documents import ROOT, commands
from ..support.signals import signal_process
from ..support.sshd import Sshd
from ..support.stages import until
from ..support.wheelhouse import FOLDERS, wheelhouse

pytestmark = [pytest.mark.all, pytest.mark.real("sshd", "debian", "buildah")]
PYTHON = "/opt/breakglass/bin/python"


@pytest.fixture(scope="module")
def builder(directory: Path) -> Builder:
    """Buildah, after it has built the image `breakglass` with the commands that the document has."""
    (directory / "build").mkdir()
    builder = Builder(directory / "build")
    checkout = directory / "checkout"
    checkout.mkdir()
    for name in (*FOLDERS, "deploy"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.txt"):
        shutil.copy(ROOT / name, checkout)
    has_all = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheelhouse()), "PIP_NO_BUILD_ISOLATION": "0"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for text in commands("docs/container.md", "Building the image"):
        builder.run("bash", "-euc", text, cwd=checkout, env={**builder.environment, **has_all, "PATH": path})
    return builder


@pytest.fixture(scope="module")
def container(builder: Builder, shared_sshd: Sshd, directory: Path) -> Iterator[Container]:
    sshd = shared_sshd
    made = Container(directory, builder, "breakglass", port=sshd.port, key=sshd.power_key, host_key=[sshd.host_key])
    try:
        made.answering()
        yield made
    finally:
        made.stop()


def test_it_answers(container: Container) -> None:
    """A signed status comes from the host, through a handler without an account, which can write no file.

    The image's variables are settings, and the rest comes from the mounted files.
    """
    health = container.health()
    assert (health["config"], health["chat"]) == ("ok", "none")
    reply = container.pve("status")
    assert (reply.status, reply.json["outcome"]) == (200, "done")
    program = """
import json, os, tempfile
try:
    writable = tempfile.gettempdir()
except OSError as error:
    writable = ""
status = dict(line.split(":\\t", 1) for line in open("/proc/1/status"))
print(json.dumps([writable, os.access("/", os.W_OK), status["Uid"].split(), status["CapBnd"].strip()]))
"""
    ran = container.exec(PYTHON, "-c", program)
    assert json.loads(ran.stdout) == ["", False, ["10001"] * 4, "0" * 16], ran.stderr
    assert set(container.environment) == {"PATH", "HOST", "PORT", "BREAKGLASS_CONFIG"}
    assert container.environment["HOST"] == "0.0.0.0"


def test_the_health_check(container: Container) -> None:
    """It is 0 for a handler that answers; it is 1 where none listens, and for one that hangs."""
    how, *check = container.settings["Healthcheck"]["Test"]
    assert how == "CMD"
    ran = container.exec(*check)
    assert ran.returncode == 0, ran.stderr
    assert container.exec("/usr/bin/env", "PORT=1", *check).returncode == 1
    [handler] = container.children()
    signal_process(handler, signal.SIGSTOP)
    try:
        assert container.exec(*check).returncode == 1
    finally:
        signal_process(handler, signal.SIGCONT)


def test_the_image_makes_its_configuration(container: Container, directory: Path) -> None:
    """The document's lines need no other Python. The flags are the answers to the questions."""
    place = directory / "srv"
    text = (ROOT / "docs/container.md").read_text("utf-8").replace("/srv/breakglass", str(place))
    made, asked = re.findall(r"^(?:install|podman run --rm) .*$", text, re.MULTILINE)
    subprocess.run(["sh", "-ec", made], check=True)
    init = asked.partition(f":/etc/breakglass {container.image} ")[2].split()
    flags = ["--url=https://rescue.example.org/", "--operator=anna", "--host=pve1=192.0.2.10", "--host-key=pve1=any"]
    for command, access in (([*init, *flags, "--vm=devvm=102"], "rw"), (["check"], "ro")):
        environment = {**container.builder.environment, "ACCESS": access}
        ran = subprocess.run(container.argv(place, *command), env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "callers: anna" in ran.stdout


def test_check_and_reload(container: Container) -> None:
    ran = container.exec("/opt/breakglass/bin/breakglass", "check")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    signal_process(container.first, signal.SIGHUP)
    until(lambda: '"event":"reload"' in container.audit_file.read_text().replace(" ", ""), "the reload")
