"""The texts of `breakglass chat`, and who has seen a capture: people and the model. Pure except for the time zone."""

import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from ..base.text import plain_line
from ..base.verbs import CAPTURE_ID
from ..client import Event

LIMIT_USD = 1.0  # below this cost, claude checks by itself after an approved verb; the same limit as on the page
CHECK_PROMPT = (  # the same text as on the page
    "The operator approved your proposal, and the verb has ended. "
    "Check the VM, and say in a few sentences how it is now."
)
_COLUMNS, _MARGIN, _MOST_NAME = 80, " " * 7, 18  # of a log
LINES = 4  # shown lines of a tool's result or of an earlier question


def cost_sentence(cost_usd: float) -> str:
    """Return a sentence with a conversation's cost and the limit."""
    return f"this conversation: ${cost_usd:.2f} of ${LIMIT_USD:.2f}"


def local_minute(at: str) -> str:
    """Return a time of the handler in local time, to the minute, or unchanged if it can't be parsed."""
    try:
        return f"{datetime.fromisoformat(at).astimezone():%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError):
        return at


def seen_line(seen: object) -> str:
    """Return who has opened the newest alert's capture, and when in local time."""
    found = [each for each in seen if isinstance(each, dict)] if isinstance(seen, list) else []
    pairs = [(plain_line(str(each.get("by"))), plain_line(local_minute(str(each.get("at"))))) for each in found]
    return "; ".join(f"seen by {by}, {at}" for by, at in pairs)


def opinion_line(opinion: object) -> str:
    """Return a job's second opinion as the words of a model; an empty text if it has none."""
    if not isinstance(opinion, dict):
        return ""
    at, text = (plain_line(str(opinion.get(name)))[:300] for name in ("at", "text"))
    return f"Claude, {local_minute(at)}: {text}"


def command_of(event: Event) -> str:
    """Return a tool call for a person to read, as its command if it has one."""
    arguments = event["input"]
    if isinstance(arguments, Mapping) and isinstance(arguments.get("command"), str):
        return str(arguments["command"])
    return f"{event['name']} {json.dumps(arguments)}"


def shortened(text: str, margin: str = "  ") -> str:
    """Return the first lines of a text, each after the margin, and the number of omitted lines."""
    lines = text.splitlines()
    more = [f"… {len(lines) - LINES} more lines"] if len(lines) > LINES + 1 else []
    return "".join(f"{margin}{line}\n" for line in [*(lines[:LINES] if more else lines), *more])


def without_retracted(events: Iterable[Event]) -> list[Event]:
    """Return the events of a turn without the texts that later events retract."""
    kept: list[Event] = []
    for event in events:
        first = event.get("retract")
        if isinstance(first, int):
            kept = [each for each in kept if each["type"] != "text" or int(str(each["n"])) < first]
        else:
            kept.append(event)
    return kept


def table_of(conversations: Sequence[Event], vm: str) -> str:
    """Return a numbered line for each conversation about a VM (any VM if the name is empty)."""
    rows = [
        (str(number), local_minute(str(each["at"])), str(each["vm"]), _first_words(each))
        for number, each in enumerate(conversations, 1)
        if vm in ("", each["vm"])
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)] if rows else []
    return "".join(
        f"{number:>{widths[0]}}  {at:{widths[1]}}  {name:{widths[2]}}  {words}\n" for number, at, name, words in rows
    )


def _first_words(conversation: Event) -> str:
    words = " ".join(str(conversation["words"]).split())
    return f"{words} (claude is answering)" if conversation.get("turn") else words


def log_text(rows: Sequence[Mapping[str, object]]) -> str:
    """Return the jobs of a log in 80 columns: a line for each, with its local time, and its reason below it."""
    cells = [_cells(row) for row in rows]
    widths = [max((len(cell[column]) for cell in cells), default=0) for column in range(1, 4)]
    day, lines = "", list[str]()
    for started, *words, ended, verdict, why in cells:
        if started[:10] != day:
            day = started[:10]
            lines.append(day)
        line = "  ".join([started[11:], *map(str.ljust, words, widths), ended])
        has_room = len(line) + len(verdict) + 2 <= _COLUMNS  # otherwise the verdict is below, with the reason
        lines.append(f"{line}, {verdict}" if verdict and has_room else line[:_COLUMNS])
        below = "; ".join(filter(None, ("" if has_room else verdict, why)))
        lines += [f"{_MARGIN}{part}" for part in textwrap.wrap(below, _COLUMNS - len(_MARGIN))]
    return "".join(f"{line}\n" for line in lines)


def _cells(row: Mapping[str, object]) -> list[str]:
    """Return a job's minute, VM, verb, caller, how it ended, verdict and reason."""
    names = ("started", "vm", "verb", "by", "outcome", "verdict", "why")
    started, vm, verb, by, outcome, verdict, why = (plain_line(str(row.get(name) or "")) for name in names)
    verb = "alert" if str(row.get("id")).startswith(CAPTURE_ID) else verb
    seconds = row.get("seconds")
    took = f" after {seconds:.0f} s" if isinstance(seconds, int | float) and seconds >= 1 else ""
    return [
        local_minute(started),
        vm[:_MOST_NAME],
        verb,
        by[:_MOST_NAME],
        f"{outcome or 'running'}{took}",
        verdict,
        why,
    ]


def localized(text: str) -> str:
    """Return a text with its times in UTC written as local times of the day."""

    def local(found: re.Match[str]) -> str:
        return f"{datetime.fromisoformat(found[0]).astimezone():%H:%M}"

    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", local, text)
