"""Checks all places in parallel, each with a deadline, so a part that hangs hides no other finding."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from ..base.budget import ALL_SECONDS
from ..base.findings import Finding, error
from .alerts import look_at_alerts
from .chat import look_at_chat
from .configuration import look_at_configuration
from .handler import look_at_handler
from .hosts import look_at_hosts
from .keys import look_at_keys
from .visit import Look, Visit

# --- The places that `breakglass doctor` looks at, in the order in which it shows them ---

LOOKS: tuple[tuple[str, Look], ...] = (
    ("configuration", look_at_configuration),
    ("keys", look_at_keys),
    ("hosts", look_at_hosts),
    ("handler", look_at_handler),
    ("chat", look_at_chat),
    ("alerts", look_at_alerts),
)


# --- Check all places in parallel, each with a deadline, so that a part that hangs hides no other finding ---


async def walk(visit: Visit, looks: Sequence[tuple[str, Look]], seconds: float = ALL_SECONDS) -> AsyncIterator[Finding]:
    """Yield the findings of all places, grouped by place, in the order of `looks`."""
    tasks = [asyncio.create_task(_findings(visit, place, look, seconds)) for place, look in looks]
    try:
        for task in tasks:
            for finding in await task:
                yield finding
    finally:
        for task in tasks:
            task.cancel()


async def _findings(visit: Visit, place: str, look: Look, seconds: float) -> list[Finding]:
    """Return the findings of one look. If it fails or does not end in time, an error follows them."""
    found: list[Finding] = []
    try:
        async with asyncio.timeout(seconds):
            await look(visit, found)
    except TimeoutError:
        sentence = f"not everything was checked: no answer within {seconds:g} s"
        found.append(error(place, "no-answer", sentence, "fix the errors above first, then run doctor again"))
    except Exception as defect:  # a defect of one look must not hide what the others find
        sentence = f"doctor itself failed here: {defect!r}"
        found.append(error(place, "doctor-failed", sentence, "run breakglass check, and report this line"))
    return found
