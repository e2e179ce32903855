"""The way from the bookmark to a VM that runs again, as `./dev bench` walks it: what it may cost a person."""

from pathlib import Path

import pytest

from ..bench.walks import figures_of
from ..support.browser import Stage


@pytest.mark.all
@pytest.mark.real("chromium", "sshd", "qemu")
def test_three_taps_are_enough(stage: Stage, short_dir: Path) -> None:
    """A frozen disk, on a phone: three taps, no scroll, and nothing moves under a finger."""
    walked = figures_of("disk-frozen", short_dir, stage.browser)
    figures = {name.removeprefix("walk_disk_frozen_"): figure for name, figure in walked.items()}
    assert figures["verb_s"] != "failed"
    bounds = {"taps": 3, "scrolls": 0, "moved": 0, "cls": 0.05}
    assert {name: figures[name] for name, most in bounds.items() if float(figures[name]) > most} == {}
    assert float(figures["words"]) > 30  # they were read
