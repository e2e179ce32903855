"""Fixtures of the tests that install and configure a handler."""

from pathlib import Path

import pytest

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
