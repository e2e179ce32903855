"""One host, one server and one handler for all files of a run's process; a scripted host; and three nodes."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from breakglass.demo.proxmox.world import World

from ..conftest import running_world, serving, shares
from ..support.cluster import Cluster, cluster
from ..support.pve_host import restore
from ..support.scripted import Scripted, scripted_host
from ..support.service import Service, with_constants
from ..support.sshd import Sshd

EAGER = with_constants("proxmox.patience.BACKOFF = (0.05,)")  # a lost host is tried again at once


@contextmanager
def handler(directory: Path, sshd: Sshd, *, program: Sequence[str] = EAGER, **more: Any) -> Iterator[Service]:
    """Run a handler in front of this host until the block ends. It is connected at the beginning."""
    with Service(directory, **sshd.access, program=program, **more) as service:
        service.answering()
        yield service


@pytest.fixture(scope="session")
def session_dir() -> Iterator[Path]:
    """A short directory that all files share."""
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def shared_world(session_dir: Path) -> Iterator[World]:
    with running_world(session_dir / "w") as world:
        yield world


@pytest.fixture(scope="session")
def shared_sshd(shared_world: World) -> Iterator[Sshd]:
    with serving(shared_world) as sshd:
        yield sshd


@pytest.fixture(scope="session")
def shared_service(shared_world: World, shared_sshd: Sshd) -> Iterator[Service]:
    with handler(shared_world.directory, shared_sshd) as service:
        yield service


@pytest.fixture(scope="module", autouse=True)
def _restored(request: pytest.FixtureRequest) -> None:
    """The shared host is restored before a file's own handler connects to it."""
    if shares(request, "world"):
        restore(request.getfixturevalue("shared_world"))


# --- a host whose agent is a script ---


@pytest.fixture(scope="session")
def scripted_sshd(session_dir: Path) -> Iterator[Sshd]:
    with scripted_host(session_dir / "s") as (_, sshd):
        yield sshd


@pytest.fixture(scope="session")
def scripted_service(session_dir: Path, scripted_sshd: Sshd) -> Iterator[Service]:
    """A handler in front of the scripted host."""
    with handler(session_dir, scripted_sshd) as service:
        yield service


@pytest.fixture
def script(scripted_sshd: Sshd) -> Scripted:
    """The script, with its first rules. A wait for `go` or `end` begins anew."""
    script = Scripted(scripted_sshd.world)
    for file in ("go", "end"):
        (script.place / file).unlink(missing_ok=True)
    return script


# --- three nodes ---


@pytest.fixture(scope="session")
def shared_nodes() -> Iterator[Cluster]:
    with (
        tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory,
        cluster(Path(directory)) as nodes,
    ):
        yield nodes


@pytest.fixture(scope="session")
def nodes_service(shared_nodes: Cluster, session_dir: Path) -> Iterator[Service]:
    service = shared_nodes.handler(session_dir)
    try:
        yield service
    finally:
        service.stop()


@pytest.fixture
def nodes(shared_nodes: Cluster) -> Cluster:
    """Three nodes in one cluster. The VM runs on pve1."""
    shared_nodes.restore()
    return shared_nodes
