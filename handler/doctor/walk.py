"""Checks all places in parallel, each with a deadline, so a part that hangs hides no other finding.

One fault gives one finding: what follows from an error that is found already is only counted.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

from ..base.budget import ALL_SECONDS
from ..base.findings import ERROR, OK, WARNING, Finding, error
from .alerts import look_at_alerts
from .chat import look_at_chat
from .configuration import look_at_configuration
from .handler import look_at_handler
from .hosts import look_at_hosts
from .keys import look_at_keys
from .visit import CONFIGURATION, KEYS, Look, Visit

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


async def walk(
    visit: Visit, looks: Sequence[tuple[str, Look]], causes: "Causes", seconds: float = ALL_SECONDS
) -> AsyncIterator[Finding]:
    """Yield the findings of all places, grouped by place, in the order of `looks`, without those that only follow."""
    tasks = [asyncio.create_task(_findings(visit, place, look, seconds)) for place, look in looks]
    try:
        for (place, _), task in zip(looks, tasks, strict=True):
            causes.on_look(place)
            for finding in causes.sift(visit, await task):
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


# --- One fault, one finding: an error explains what follows from it ---

# Codes that only say what a problem of the configuration does.
_BY_CONFIGURATION = (
    "vm-disabled",
    "disabled",
    "config-degraded",
    "chat-disabled",
    "no-chat",
    "forbidden",
)


class Causes:
    """The errors found so far. `hidden` counts what followed from them. `on_look` hears which place is awaited."""

    def __init__(self, on_look: Callable[[str], None] = lambda _: None) -> None:
        self.hidden, self.on_look = 0, on_look
        self._found: list[Finding] = []

    def sift(self, visit: Visit, found: Iterable[Finding]) -> Iterator[Finding]:
        """Yield the findings of one look that no earlier error explains."""
        before = {each.place for each in self._found if each.level == ERROR}
        for finding in found:
            if finding.level != OK and self._is_explained(visit, finding, before):
                self.hidden += 1
                continue
            self._found.append(finding)
            yield finding

    def _is_explained(self, visit: Visit, finding: Finding, before: set[str]) -> bool:
        """Return whether an error explains a finding; `before` has the places in which earlier looks found errors."""
        if finding.code in _BY_CONFIGURATION and before & {CONFIGURATION, KEYS}:
            return True
        if finding.code == "host-disabled":  # only the keys' errors say why; without one, this is the cause itself
            return KEYS in before
        if not finding.place.startswith("VM "):
            return finding.place.startswith("host ") and finding.place in before
        name = finding.place.removeprefix("VM ")
        vm = visit.config.vms.get(name) if visit.config else None
        hosts = {f"host {host.name}" for host in vm.hosts} if vm else set()
        faulty = {each.place for each in self._found if each.level == ERROR}
        said = {(each.place, each.sentence) for each in self._found}
        if finding.code == "vm-not-seen":
            return bool(hosts & faulty)
        owner = f"host {visit.owners.get(name, vm.host.name if vm else '')}"
        return finding.place in before or owner in before or (owner, finding.sentence) in said

    def summary(self, visit: Visit, found: Sequence[Finding]) -> str:
        """Return the last line: how many errors and warnings doctor has found, and what follows from them."""
        counted = [(level, sum(each.level == level for each in found)) for level in (ERROR, WARNING)]
        text = ", ".join(f"{number or 'no'} {level}{'s' * (number != 1)}" for level, number in counted)
        follows = f"; {self.hidden} more that follow from the errors are not shown" if self.hidden else ""
        return text + follows + ("; no host is recorded as proven" if counted[0][1] and visit.config else "")
