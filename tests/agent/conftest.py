"""Fixtures of the host agent's tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from breakglass.demo.proxmox.world import World

from ..support.qemu import is_at_prompt
from ..support.stages import until


@pytest.fixture
def place(short_dir: Path) -> Iterator[Callable[[str], World]]:
    """Return a host whose VM is in the state that a scenario names."""
    worlds: list[World] = []

    def make(scenario: str) -> World:
        worlds.append(World(short_dir / str(len(worlds)), scenario=scenario))
        worlds[-1].begin()
        if scenario == "idle":
            until(lambda: is_at_prompt(worlds[-1]), "the guest's prompt")
        return worlds[-1]

    try:
        yield make
    finally:
        for world in worlds:
            world.close()
