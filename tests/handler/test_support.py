"""The tests' own machinery: leftovers of a run, the order of tests, reserved ports, servers that don't start."""

from pathlib import Path

import pytest

from ..conftest import running_world
from ..support import leftovers

# --- fixtures whose set-up fails ---


def fail_behind_a_host(directory: Path, pids: list[int]) -> None:
    with running_world(directory) as world:
        pids += [world.pid or 0]
        raise RuntimeError("planted")


def test_a_host_ends_when_the_set_up_behind_it_fails(short_dir: Path) -> None:
    """Its VM ends, whatever exception was raised."""
    pids: list[int] = []
    with pytest.raises(RuntimeError, match="planted"):
        fail_behind_a_host(short_dir / "w", pids)
    assert pids[0]
    assert leftovers.processes_of(short_dir) == []
