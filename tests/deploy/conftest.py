"""Fixtures of the tests that install and configure a handler."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ..support.installing import Door, Installed
from ..support.service import give_to_handler


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep each test's client.toml away from the others, and from the one of the person who runs them."""
    monkeypatch.setenv("XDG_CONFIG_HOME", f"{tmp_path}/config-home")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory that the handler's user may enter, as it may enter /etc."""
    (tmp_path / "x").touch()
    give_to_handler(tmp_path / "x")
    (tmp_path / "x").unlink()
    return tmp_path


@pytest.fixture(scope="module")
def host_of_module(directory: Path, request: pytest.FixtureRequest) -> Iterator[Installed]:
    with closing(Installed(directory, **request.module.RECIPE)) as host:
        yield host


@pytest.fixture
def host(host_of_module: Installed) -> Iterator[Installed]:
    """The host on which the recipe of the module was run; what a test changes on it is put back."""
    yield host_of_module
    host_of_module.restore()


@pytest.fixture(scope="module")
def door_of_module(host_of_module: Installed) -> Iterator[Door]:
    with closing(Door(host_of_module, "-o", "UsePAM=yes", "-o", "PermitRootLogin=yes")) as door:
        yield door


@pytest.fixture
def door(host: Installed, door_of_module: Door) -> Door:
    """An sshd that has read what the recipe left; it reads the key files at each login."""
    return door_of_module
