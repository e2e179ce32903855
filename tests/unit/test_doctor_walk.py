"""Doctor's checks of every place. A check that hangs or fails is a finding, and hides no other one."""

import asyncio
from typing import Any

from breakglass.base.findings import Finding, ok
from breakglass.doctor.walk import Causes, walk


async def hangs(_: Any, found: list[Finding]) -> None:
    found.append(ok("one", "seen", "before it hung"))
    await asyncio.Event().wait()


async def fails(_: Any, found: list[Finding]) -> None:
    found.append(ok("two", "seen", "before it failed"))
    raise ZeroDivisionError


async def ends(_: Any, found: list[Finding]) -> None:
    found.append(ok("three", "seen", "well"))


async def test_a_look_that_hangs_or_fails_hides_no_other() -> None:
    """The earlier findings of each check are kept, and all checks end after the time limit."""
    looks = (("one", hangs), ("two", fails), ("three", ends))
    found = [(each.place, each.code) async for each in walk(None, looks, Causes(), 0.5)]  # type: ignore[arg-type]
    assert found == [
        ("one", "seen"),
        ("one", "no-answer"),
        ("two", "seen"),
        ("two", "doctor-failed"),
        ("three", "seen"),
    ]
