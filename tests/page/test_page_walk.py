"""The way from the bookmark to a VM that runs again: what it may cost a person."""

from pathlib import Path

import pytest

from ..support.browser import Stage
from ..support.walk import measure_walk


@pytest.mark.all
@pytest.mark.real("chromium", "sshd", "qemu")
def test_three_taps_are_enough(stage: Stage, short_dir: Path) -> None:
    """A frozen disk, on a phone: three taps, no scroll, and nothing moves under a finger."""
    figures = measure_walk("disk-frozen", "cycle", short_dir, stage.browser)
    bounds = {"taps": 3, "scrolls": 0, "moved": 0, "cls": 0.05}
    assert {name: figures[name] for name, most in bounds.items() if figures[name] > most} == {}
    assert figures["words"] > 30  # they were read
