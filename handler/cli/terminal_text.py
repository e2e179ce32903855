"""The texts of `breakglass chat`, and who has seen a capture: people and the model. Pure except for the time zone."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from ..base.text import plain_line
from ..client import Event

LIMIT_USD = 1.0  # below this cost, claude checks by itself after an approved verb; the same limit as on the page
CHECK_PROMPT = (  # the same text as on the page
    "The operator approved your proposal, and the verb has ended. "
    "Check the VM, and say in a few sentences how it is now."
)
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


def localized(text: str) -> str:
    """Return a text with its times in UTC written as local times of the day."""

    def local(found: re.Match[str]) -> str:
        return f"{datetime.fromisoformat(found[0]).astimezone():%H:%M}"

    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", local, text)
