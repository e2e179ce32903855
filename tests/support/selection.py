"""Decides which tests run, and in which order."""

import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

STARTED_FIXTURES = {"world", "stage"}
STARTED_PARTS = {"chromium", "claude", "firefox", "fsfreeze", "fuse", "guest", "qemu", "sshd", "webkit"}


def sampled(values: Iterable[Any], *kept: Any) -> list[Any]:
    """Return a test's parameters. `./dev test` runs those in `kept`, and `--all` the others. A tuple is one row."""
    values = list(values)
    assert set(kept) <= set(values), f"{kept} are not all among {values}"
    others = [value for value in values if value not in kept]
    marked = [pytest.param(*v if isinstance(v, tuple) else [v], marks=pytest.mark.all) for v in others]
    return [*kept, *marked]


def mark_slow(items: list[pytest.Item]) -> None:
    """Mark every test that starts a host, a server or a browser as slow, except those marked quick."""
    for item in items:
        if item.get_closest_marker("quick") is None and _starts_something(item):
            item.add_marker(pytest.mark.slow)


def _starts_something(item: pytest.Item) -> bool:
    fixtures = set(getattr(item, "fixturenames", ()))
    parts = {part for mark in item.iter_markers("real") for part in mark.args}
    return bool(fixtures & STARTED_FIXTURES or parts & STARTED_PARTS)


def is_left_out(path: Path, wanted: str) -> bool:
    """Tell whether `--quick` needs no test of a file. It runs those of tests/unit and those marked quick.

    Such a file is not even imported, because the imports of all files take a third of the time.
    """
    if "not slow" not in wanted or path.suffix != ".py" or path.parent.name == "unit":
        return False
    return "mark.quick" not in path.read_text(encoding="utf-8")


def order_files(items: list[pytest.Item]) -> None:
    """Put the files marked `first` first, then those with the most slow tests.

    Several processes take one file each. If a long file began last, only one process would be busy at the end.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (item.get_closest_marker("first") is None, -slow[item.path]))


def shuffle(items: list[pytest.Item], seed: str) -> None:
    """Shuffle the files, and the tests within each file.

    A file's tests stay together because they share fixtures. Each process gets the same order from the same seed.
    """
    chance = random.Random(seed)
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    groups = list(files.values())
    chance.shuffle(groups)
    for group in groups:
        chance.shuffle(group)
    items[:] = [item for group in groups for item in group]


def why_skipped(report: pytest.TestReport) -> str:
    """Return why a test was skipped."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")
