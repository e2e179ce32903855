"""Fixtures: a Proxmox host in a directory, with real parts wherever they can be had."""

import fcntl
import gc
import os
import resource
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from breakglass.demo.proxmox.world import World

from .support import leftovers, parts, prefork, selection
from .support.agent import hasten
from .support.model import Model
from .support.pve_host import restore
from .support.qemu import leave_out_guest
from .support.service import Service
from .support.sshd import Sshd

if TYPE_CHECKING:
    from .support.browser import ParkedLoop, Stage, Visit

# No database, because the workers of a run would share it. The same examples each time find what an edit broke.
settings.register_profile("tests", database=None, deadline=None, derandomize=True, max_examples=50)
settings.load_profile("tests")

_LEFT: list[str] = []
_DIRECTORY = pytest.StashKey[Path]()
_BASE = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shuffle", metavar="SEED", help="run the files, and the tests of a file, in another order")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Let signals end a run, and give the run and its tests its own temporary directories.

    A script starts its background jobs with SIGINT and SIGQUIT ignored, and the children would inherit that. SIGTERM,
    which `timeout` sends, ends the run the way SIGINT does: fixtures clean up. Whatever the umask and the limit of open
    files are, handlers read the tests' files as another user, and a test can open 1,200 connections.
    """
    os.umask(0o022)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard if 0 < hard < 4096 else 4096), hard))
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        config.stash[_DIRECTORY] = leftovers.begin()
        if config.option.basetemp is None:
            config.option.basetemp = config.stash[_BASE] = leftovers.make_base()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that leaves a process or a mount behind. The processes of xdist have ended by now."""
    prefork.end()
    directory = session.config.stash.get(_DIRECTORY, None)
    if directory is not None:
        _LEFT.extend(leftovers.end(directory))
        if _LEFT and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if _BASE in session.config.stash and session.exitstatus == pytest.ExitCode.OK:
        shutil.rmtree(session.config.stash[_BASE], ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Spare the garbage collector the modules and the tests, which live until the end, because that took long."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if selection.is_left_out(collection_path, config.option.markexpr) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    selection.mark_slow(items)
    seed = config.getoption("--shuffle")
    if seed is None:
        selection.order_files(items)
    else:
        selection.shuffle(items, seed)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose real part is missing, or fail it where real parts are required."""
    for mark in item.iter_markers("real"):
        for part in mark.args:
            if reason := parts.missing(part):
                if os.environ.get("BREAKGLASS_REQUIRE_REAL") == "1":
                    pytest.fail(f"BREAKGLASS_REQUIRE_REAL=1 and the real part {part} is missing: {reason}")
                pytest.skip(f"the real part {part} is missing: {reason}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for left in _LEFT:
        terminalreporter.write_line(f"left behind: {left}", red=True)
    reasons = Counter(selection.why_skipped(report) for report in terminalreporter.stats.get("skipped", ()))
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"skipped: {count} because {reason}", yellow=True)


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory with a short path, because the path of a UNIX socket has at most 108 bytes."""
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


# --- a host, a server in front of it, a handler ---


@contextmanager
def running_world(directory: Path) -> Iterator[World]:
    world = World(directory, scale=20)
    try:
        hasten(world)
        leave_out_guest(world)
        assert world.qm("start", "102").returncode == 0
        yield world
    finally:
        world.close()


@contextmanager
def serving(world: World, path: str | None = None) -> Iterator[Sshd]:
    sshd = Sshd(world, path=path)
    try:
        yield sshd
    finally:
        sshd.stop()


@contextmanager
def connected(directory: Path, sshd: Sshd, extra: str = "") -> Iterator[Service]:
    with Service(directory, **sshd.access, extra=extra) as service:
        service.answering()
        yield service


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
    """A host whose VM 102 runs, with a real QEMU if one is installed. A shared host is restored first."""
    if shares(request, "world"):
        world: World = request.getfixturevalue("shared_world")
        restore(world)
        yield world
    else:
        with running_world(request.getfixturevalue("short_dir")) as world:
            yield world


@pytest.fixture
def own_tasks() -> Iterator[None]:
    """Keep every other test from running a task of VM 102, because all hosts look for tasks in the same /proc."""
    with (leftovers.shared_directory() / f"breakglass-tests-tasks-{os.geteuid()}").open("w") as file:
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
    """A handler that is already connected to the real server as its host."""
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
    try:
        yield model
    finally:
        model.close()


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A short directory that a module's tests share."""
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def parked_stage() -> Iterator[tuple["Stage", "ParkedLoop"]]:
    """A host, a handler and a browser that all page tests of this process share."""
    from .support.browser import ParkedLoop, Stage, chromium

    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory, chromium() as browser:
        loop = ParkedLoop()
        stage = Stage(Path(directory), browser)
        try:
            yield stage, loop
        finally:
            stage.close()
            loop.unpark()


@pytest.fixture(scope="module")
def stage(parked_stage: tuple["Stage", "ParkedLoop"]) -> Iterator["Stage"]:
    """The shared host, handler and browser, while a module with page tests runs."""
    stage, loop = parked_stage
    with loop.running():
        yield stage


@pytest.fixture
def visit(stage: "Stage") -> Iterator["Visit"]:
    """An operator at the page, on a healthy host. If a page logs an error, the test fails."""
    from .support.browser import Visit

    stage.settle()
    visit = Visit(stage)
    try:
        yield visit
    finally:
        visit.close()
