"""Fixtures: a Proxmox host in a directory, with real parts wherever they can be had."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from breakglass.demo.proxmox.world import World

from .support import claude
from .support.agent import hasten
from .support.model import Model
from .support.pve_host import restore
from .support.service import Service
from .support.sshd import Sshd

if TYPE_CHECKING:
    from .support.browser import Stage, Visit

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
    *("test_alertmanager", "test_alerts_http", "test_anyway", "test_together"),
)


# The files that take longest come first: with several processes, what begins last should be short.
LONG_FILES = (
    *(
        "test_nights",
        "test_kill_sweep",
        "test_forensics",
        "test_page_chat",
        "test_page_lost",
        "test_page",
        "test_page_safety",
        "test_qm_modes",
        "test_hung_host_road",
    ),
    *("test_changed_meanwhile", "test_agent", "test_http", "test_pve", "test_chat_failures", "test_reload"),
    *("test_preflight", "test_signals", "test_install", "test_mended", "test_chat", "test_standin"),
    *("test_page_looks", "test_archive", "test_claude", "test_real_sshd", "test_road", "test_demo", "test_cli"),
    *("test_unfriendly_host", "test_alerts_http", "test_model", "test_alertmanager", "test_page_vms"),
    *("test_second_sources", "test_packaging", "test_hostile_ssh", "test_chat_worlds", "test_bodies"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first. Leave out of the quick subset what starts a host or a server, but for the few that are
    marked quick."""
    begins = {name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: begins.get(item.path.stem, len(begins)))
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


# --- a host, a server in front of it, a handler ---


@contextmanager
def running_world(directory: Path) -> Iterator[World]:
    world = World(directory, scale=20)
    hasten(world)
    assert world.qm("start", "102").returncode == 0
    yield world
    world.close()


@contextmanager
def serving(world: World) -> Iterator[Sshd]:
    sshd = Sshd(world)
    yield sshd
    sshd.stop()


@contextmanager
def connected(directory: Path, sshd: Sshd) -> Iterator[Service]:
    service = Service(directory, port=sshd.port, key=sshd.power_key, host_key=[sshd.host_key])
    service.answering()
    yield service
    service.stop()


def shares(request: pytest.FixtureRequest, name: str) -> bool:
    mark = request.node.get_closest_marker("shared")
    return mark is not None and name in mark.args


@pytest.fixture(scope="module")
def shared_world(directory: Path) -> Iterator[World]:
    with running_world(directory / "w") as world:
        yield world


@pytest.fixture(scope="module")
def shared_sshd(shared_world: World) -> Iterator[Sshd]:
    with serving(shared_world) as sshd:
        yield sshd


@pytest.fixture(scope="module")
def shared_service(shared_world: World, shared_sshd: Sshd) -> Iterator[Service]:
    with connected(shared_world.directory, shared_sshd) as service:
        yield service


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A host whose VM 102 runs: a real QEMU where one is installed. A shared one is made as it was."""
    if shares(request, "world"):
        world: World = request.getfixturevalue("shared_world")
        restore(world)
        yield world
    else:
        with running_world(request.getfixturevalue("short_dir")) as world:
            yield world


@pytest.fixture
def own_tasks() -> Iterator[None]:
    """No other test has a task of VM 102 meanwhile, in whatever process: a host looks for them in the one /proc."""
    with (Path(tempfile.gettempdir()) / "breakglass-tests-tasks").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def sshd(request: pytest.FixtureRequest, world: World) -> Iterator[Sshd]:
    """A real OpenSSH server in front of the host."""
    if shares(request, "sshd"):
        yield request.getfixturevalue("shared_sshd")
    else:
        with serving(world) as sshd:
            yield sshd


@pytest.fixture
def service(request: pytest.FixtureRequest, world: World, sshd: Sshd) -> Iterator[Service]:
    """A handler whose host is the real server, already connected."""
    if shares(request, "service"):
        service: Service = request.getfixturevalue("shared_service")
        service.answering()
        yield service
    else:
        with connected(world.directory, sshd) as service:
            yield service


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
    from .support.browser import Stage, chromium

    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory, chromium() as browser:
        stage = Stage(Path(directory), browser)
        yield stage
        stage.close()


@pytest.fixture
def visit(stage: "Stage") -> Iterator["Visit"]:
    """Somebody at the page, on a host where all is well; a page that complains fails the test."""
    from .support.browser import Visit

    stage.settle()
    visit = Visit(stage)
    yield visit
    visit.close()
