"""Fixtures of the tests that install and configure a handler."""

from pathlib import Path

import pytest

from ..support.service import give_to_handler


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory that the handler's user may enter, as /etc."""
    (tmp_path / "x").touch()
    give_to_handler(tmp_path / "x")
    (tmp_path / "x").unlink()
    return tmp_path
