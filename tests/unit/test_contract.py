"""docs/openapi.yaml and docs/api.md agree with the code about routes, fields, words and codes."""

import re
from typing import Any

from breakglass.agents.pve.words import ANYWAY, DEADLINES, PROVES
from breakglass.alerts.payloads import SENDERS
from breakglass.base.errors import BreakglassError
from breakglass.base.verbs import VERBS
from breakglass.chat import request as chat_request
from breakglass.chat.brief import TOOLS
from breakglass.chat.request import ChatRequest
from breakglass.proxmox.outcome import HTTP_STATUS
from breakglass.web.bodies import VerbBody
from breakglass.web.gate import METRICS, OPEN, SIGNED
from breakglass.web.page import PAGE_LIST

from ..support.contract import OPENAPI, read_contract
from ..support.rows import each_row

SCHEMAS: dict[str, Any] = read_contract()["components"]["schemas"]
API = (OPENAPI.parent / "api.md").read_text(encoding="utf-8")
LIMITS = API.partition("**Limits.** A body")[2].partition(" and the headers")[0]
UNITS = {"KiB": 2**10, "MiB": 2**20}
HOST_AGENT = (OPENAPI.parent / "host-agent.md").read_text(encoding="utf-8")


def words(schema: str, field: str) -> set[str]:
    """Return the values that a field of a schema may have, without the empty text."""
    found = SCHEMAS[schema]["properties"][field]
    return {*found.get("enum", ()), *found.get("x-extensible-enum", ())} - {""}


def states(column: str) -> set[str]:
    """Return the codes in the first column of a table of api.md."""
    table = API.partition(f"| {column} | |\n|---|---|\n")[2].partition("\n\n")[0]
    return {code for line in table.splitlines() for code in re.findall(r"`([a-z-]+)`", line.split(" | ")[0])}


ERRORS = {
    kind.code: kind.status for kind in BreakglassError.__subclasses__() if kind.__module__.startswith("breakglass.")
}
assert chat_request.TurnUnknown.code in ERRORS
ROUTES = {*(path for path in SIGNED if path not in {f"/alert/{each}" for each in SENDERS}), "/alert/{source}"}
[SOURCE] = read_contract()["paths"]["/alert/{source}"]["post"]["parameters"]


@each_row(
    ("documented", "coded"),
    [
        (set(read_contract()["paths"]), ROUTES | OPEN | {METRICS, f"/{PAGE_LIST}"}),
        (set(SCHEMAS["Request"]["properties"]), set(VerbBody.__dataclass_fields__)),
        (set(SCHEMAS["ChatRequest"]["properties"]), set(ChatRequest.__dataclass_fields__)),
        (set(SCHEMAS["Verb"]["enum"]), set(VERBS)),
        *((words(schema, "anyway"), set(ANYWAY)) for schema in ("Request", "Answer")),
        (words("Request", "proves"), set(PROVES)),
        (words("ChatRequest", "tools"), set(TOOLS)),
        (set(SOURCE["schema"]["enum"]), set(SENDERS)),
        (words("Answer", "outcome"), set(HTTP_STATUS)),
        (set(SCHEMAS["Error"]["properties"]["error"]["properties"]["code"]["x-extensible-enum"]), set(ERRORS)),
        (set(SCHEMAS["VmState"]["x-extensible-enum"]), states("`state`, `proxmox`")),
        (set(SCHEMAS["HostState"]["x-extensible-enum"]), states("`state`, `proxmox`") - {"not-allowed", "elsewhere"}),
        (words("Health", "chat"), states("`chat`")),
        ({int(n) * UNITS[unit] for n, unit in re.findall(r"(\d+) ([KM]iB)", LIMITS)}, set(SIGNED.values())),
        (
            set(re.findall(r"(?m)^\| `(\w+)` \| (\d*) ?\| (?:yes|exit 1)", HOST_AGENT)),
            {(verb, f"{seconds:g}" if seconds else "") for verb, seconds in DEADLINES.items()},
        ),
    ],
)
def test_the_schema_has_the_words_of_the_code(documented: set[object], coded: set[object]) -> None:
    """If the code lacks a word, a promise is broken. If the schema lacks it, no client knows the word."""
    assert documented == coded


def test_every_error_has_its_code() -> None:
    """The table of errors in api.md has each error with its HTTP code."""
    table = API.partition("### Errors")[2].partition("\n### ")[0]
    found: dict[str, set[int]] = {}
    for statuses, codes in re.findall(r"^\| ([0-9, ]+) \| ([^|]+) \|", table, re.MULTILINE):
        for code in re.findall(r"`([a-z-]+)`", codes):
            found.setdefault(code, set()).update(map(int, statuses.split(", ")))
    assert {code for code, status in ERRORS.items() if status not in found.get(code, ())} == set()
    assert set(found) == set(ERRORS)
