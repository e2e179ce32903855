"""Looks at every place at once, each with a deadline: a part that hangs is a finding, and hides no other one."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from ..budget import ALL_SECONDS
from ..findings import Finding, error
from .visit import Look, Visit


async def walk(visit: Visit, looks: Sequence[tuple[str, Look]], seconds: float = ALL_SECONDS) -> AsyncIterator[Finding]:
    """Yield the findings of all places, those of one place together, in the order of `looks`."""
    tasks = [asyncio.create_task(_findings(visit, place, look, seconds)) for place, look in looks]
    try:
        for task in tasks:
            for finding in await task:
                yield finding
    finally:
        for task in tasks:
            task.cancel()


async def _findings(visit: Visit, place: str, look: Look, seconds: float) -> list[Finding]:
    """Return what one look finds; one that does not end in time, or fails, is an error after its other findings."""
    found: list[Finding] = []
    try:
        async with asyncio.timeout(seconds):
            async for finding in look(visit):
                found.append(finding)  # noqa: PERF401  a list that is built at once would be lost with the timeout
    except TimeoutError:
        sentence = f"not everything was looked at: no answer within {seconds:g} s"
        found.append(error(place, "no-answer", sentence, "mend the errors above first, then run doctor again"))
    except Exception as defect:  # a defect of one look must not hide what the others find
        sentence = f"doctor itself failed here: {defect!r}"
        found.append(error(place, "doctor-failed", sentence, "run breakglass check, and report this line"))
    return found
