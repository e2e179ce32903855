"""The image: built from docs/container.md's commands on Debian, and run as process 1 with a read-only root."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.container import Builder, Container
from ..support.documents import ROOT, commands
from ..support.sshd import Sshd
from ..support.wheelhouse import FOLDERS, wheelhouse

pytestmark = [pytest.mark.all, pytest.mark.real("sshd", "debian", "buildah")]


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


def test_the_image(container: Container, directory: Path) -> None:
    """It makes its configuration with the document's lines, which need no other Python, and it can be checked.

    A signed status comes from the host, through a handler without an account, whose root is read-only. The image's
    health check is 0 for it, and 1 where none listens.
    """
    assert (container.health()["config"], container.pve("status").json["outcome"]) == ("ok", "done")
    assert set(container.environment) == {"PATH", "HOST", "PORT", "BREAKGLASS_CONFIG"}
    assert container.environment["HOST"] == "0.0.0.0"
    how, *check = container.settings["Healthcheck"]["Test"]
    assert how == "CMD"
    ran = container.run(container.mounted, *check)
    assert ran.returncode == 0, ran.stderr
    assert container.run(container.mounted, "/usr/bin/env", "PORT=1", *check).returncode == 1
    place = directory / "srv"
    text = (ROOT / "docs/container.md").read_text("utf-8").replace("/srv/breakglass", str(place))
    made, asked = re.findall(r"^(?:install|podman run --rm) .*$", text, re.MULTILINE)
    subprocess.run(["sh", "-ec", made], check=True)
    init = asked.partition(f":/etc/breakglass {container.image} ")[2].split()
    flags = ["--url=https://rescue.example.org/", "--operator=anna", "--host=pve1=192.0.2.10", "--host-key=pve1=any"]
    for command, access in (([*init, *flags, "--vm=devvm=102"], "rw"), (["check"], "ro")):
        ran = container.run(place, *container.settings["Entrypoint"], *command, ACCESS=access)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "no problems; callers: anna" in ran.stdout
