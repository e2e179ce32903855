"""The grammar of `$SSH_ORIGINAL_COMMAND`: one regular expression, matched whole, and nothing else.

A forced command only compares a line and never interprets it. It refuses a line that does not match, without a second
try.
"""

import base64
import re
from dataclasses import dataclass

from .words import ANYWAY, GOES_WITH, PROVES, VERBS

NOTE_BYTES = 8 * 1024  # a note of 10,923 characters
LINE_CHARS = 16 * 1024  # more than any line of the grammar has

_LINE = re.compile(
    rf"(?P<verb>{'|'.join(VERBS)})"
    r"(?: vm=(?P<vm>[1-9][0-9]{0,8}))?"
    r"(?: id=(?P<id>[A-Za-z0-9_-]{8,64}))?"
    r"(?: by=(?P<by>[A-Za-z0-9@._-]{1,64}))?"
    r"(?: if=(?P<if_state>[a-z-]{1,32}))?"
    r"(?: last=(?P<if_last>none|[A-Za-z0-9_-]{8,64}))?"
    r"(?: fresh=(?P<fresh>[0-9]{1,5}))?"
    rf"(?: anyway=(?P<anyway>{'|'.join(ANYWAY)}))?"
    rf"(?: proves=(?P<proves>{'|'.join(PROVES)}))?"
    r"(?: note=(?P<note>[A-Za-z0-9_-]{1,10923}))?"
    r"(?P<detach> detach)?"
    r"(?P<no_last_words> no-last-words)?"
    r"(?: name=(?P<name>[A-Za-z0-9.-]{1,253}))?",
    re.ASCII,
)


class Malformed(Exception):
    """Raised if the line does not match the grammar."""


@dataclass(frozen=True)
class Request:
    """One request, parsed.

    `anyway`: the code of the one refusal that a person overrides. `proves`: the check that proves by this request that
    a rescue works, `drill` or `doctor`. `why`: the decoded note, data for the record. `no_last_words`: the guest's
    kernel log must not be read. `name`: the name that the VM must have on Proxmox; empty if any name will do.
    """

    verb: str
    vm: int | None = None
    id: str = ""
    by: str = ""
    if_state: str = ""
    if_last: str = ""
    fresh: int = 0
    anyway: str = ""
    proves: str = ""
    why: str = ""
    detach: bool = False
    no_last_words: bool = False
    name: str = ""

    @property
    def has_caller_fields(self) -> bool:
        """Tell whether the line has a word that only the handler's power key may send."""
        own_id = self.id and self.verb not in ("job", "where")  # `proves` comes with `by`
        return bool(own_id or self.by or self.anyway or self.why or self.detach or VERBS[self.verb].needs_signature)


def parse_line(line: str) -> Request:
    """Return the request in `line`; raise Malformed when it has none."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise Malformed("not in the grammar")
    word = match.groupdict(default="")
    fresh = int(word["fresh"] or 0)
    if fresh > 86400:
        raise Malformed("fresh is more than a day")
    if not word["id"] and word["verb"] in ("job", "seen", "opinion"):
        raise Malformed(f"{word['verb']} needs an id")
    for value in filter(None, (word["anyway"], word["proves"])):
        if word["verb"] not in GOES_WITH[value] or (word["proves"] and not word["by"]):
            raise Malformed(f"{value} goes with {' and '.join(GOES_WITH[value])}, and proves= with by=")
    texts = {name: word[name] for name in ("verb", "id", "by", "if_state", "if_last", "anyway", "proves", "name")}
    vm, why = int(word["vm"]) if word["vm"] else None, _decode(word["note"])
    asks_not = bool(word["no_last_words"])
    return Request(**texts, vm=vm, fresh=fresh, why=why, detach=bool(word["detach"]), no_last_words=asks_not)


def _decode(note: str) -> str:
    try:
        data = base64.b64decode(note + "=" * (-len(note) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise Malformed("note is not base64url") from None
    return data.decode("utf-8", "replace")


def escape(line: str, limit: int = 200) -> str:
    """Return `line` cut and escaped, so that it stays on one log line."""
    cut = line[:limit]
    return ascii(cut)[1:-1] + ("…" if len(line) > limit else "")
