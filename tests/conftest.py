"""Fixtures: a Proxmox host in a directory, with real parts wherever they can be had."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from handler.demo.model import Model
from handler.demo.world import World

from . import claude
from .service import Service
from .sshd import Sshd

if TYPE_CHECKING:
    from .browser import Stage, Visit

MISSING: set[str] = set()
PARTS = {
    "qemu": shutil.which("qemu-system-x86_64") is not None,
    "sshd": Path("/usr/sbin/sshd").exists() and os.geteuid() == 0,
    "root": os.geteuid() == 0,
    "fuse": os.geteuid() == 0 and Path("/dev/fuse").exists(),
    "fsfreeze": os.geteuid() == 0 and shutil.which("fsfreeze") is not None and shutil.which("mkfs.ext4") is not None,
    "alertmanager": shutil.which("prometheus-alertmanager") is not None and shutil.which("amtool") is not None,
    "claude": claude.find() is not None,
    "chromium": shutil.which("chromium") is not None,
    "curl": shutil.which("curl") is not None and shutil.which("openssl") is not None,
}


SLOW_FILES = (
    *("test_install", "test_reload", "test_forensics", "test_demo", "test_packaging"),
    *("test_alertmanager", "test_alerts_http"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out of the quick subset what starts a host or a server, but for the few that are marked quick."""
    for item in items:
        starts_something = (
            not {"world", "stage"}.isdisjoint(getattr(item, "fixturenames", ())) or item.path.stem in SLOW_FILES
        )
        if starts_something and item.get_closest_marker("quick") is None:
            item.add_marker(pytest.mark.slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose real part is missing, or fail it where real parts are required."""
    for mark in item.iter_markers("real"):
        for part in mark.args:
            if not PARTS[part]:
                MISSING.add(part)
                if os.environ.get("BREAKGLASS_REQUIRE_REAL") == "1":
                    pytest.fail(f"the real part {part} is missing and BREAKGLASS_REQUIRE_REAL=1")
                pytest.skip(f"the real part {part} is missing")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if MISSING:
        terminalreporter.write_line(f"real parts that were missing here: {', '.join(sorted(MISSING))}", yellow=True)


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory with a short path: a UNIX socket's ends at 108 bytes."""
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture
def world(short_dir: Path) -> Iterator[World]:
    """A host whose VM 102 runs: a real QEMU where one is installed."""
    world = World(short_dir)
    assert world.qm("start", "102").returncode == 0
    yield world
    world.close()


@pytest.fixture
def sshd(world: World) -> Iterator[Sshd]:
    """A real OpenSSH server in front of the host."""
    sshd = Sshd(world)
    yield sshd
    sshd.stop()


@pytest.fixture
def service(world: World, sshd: Sshd) -> Iterator[Service]:
    """A handler whose host is the real server, already connected."""
    service = Service(world.directory, port=sshd.port, key=sshd.power_key, host_key=[sshd.host_key])
    service.answering()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    """A scripted model that the real claude talks to."""
    model = Model()
    yield model
    model.close()


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A short directory that a module's tests share."""
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def stage() -> Iterator["Stage"]:
    """A host, a handler and a browser that the tests of one module share. The browser ends with the module: its loop
    would be in the way of tests that have one."""
    from .browser import Stage, chromium

    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory, chromium() as browser:
        stage = Stage(Path(directory), browser)
        yield stage
        stage.close()


@pytest.fixture
def visit(stage: "Stage") -> Iterator["Visit"]:
    """Somebody at the page, on a host where all is well; a page that complains fails the test."""
    from .browser import Visit

    stage.settle()
    visit = Visit(stage)
    yield visit
    visit.close()
