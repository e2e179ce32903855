"""The metrics have bounded labels, every outcome, and only meaningful times."""

import asyncio
import re
import time
from dataclasses import replace
from itertools import pairwise

import pytest

from breakglass.base import counts
from breakglass.base.counts import StageClock
from breakglass.base.errors import BreakglassError
from breakglass.chat import request as chat_errors
from breakglass.proxmox.outcome import HTTP_STATUS
from breakglass.server.counters import OUTCOMES, TURN_OUTCOMES, Counters
from breakglass.server.exposition import Snapshot, render
from breakglass.server.metrics import SHARE, Scrapes

from ..deploy.test_monitoring import healthy
from ..support.contract import read_contract
from ..support.rendered import counted, series
from ..support.rows import each_row


def shown(snapshot: Snapshot) -> dict[str, float]:
    return series(render(snapshot, "")[0].decode())


@each_row("version", ["x" * 200, '1.2.3"} 1\nbreakglass_ready 1', "1" * 9 + ".0", "1.2.3\n", "٣.٢"])
def test_a_text_that_a_host_sends_is_no_label(version: str) -> None:
    """A host agent that was taken over can send any text, and a different one at each login."""
    found = shown(replace(healthy(), agents={"pve1": version}))
    assert [name for name in found if name.startswith("agent_info")] == ["agent_info{host=pve1,version=other}"]


def test_a_caller_that_is_removed_has_no_series() -> None:
    """Its requests are still counted, but its name is no longer in the configuration."""
    snapshot = healthy()
    snapshot.counts.add_request("/pve", "done", "operator", "status")
    snapshot.counts.add_request("/pve", "done", "removed", "status")
    found = [name for name in shown(snapshot) if name.startswith("caller_last")]
    assert found == ["caller_last_request_timestamp_seconds{caller=operator}"]


def test_every_error_has_its_series() -> None:
    """Each code that a route of the API can answer with is among its outcomes, so that it begins at 0."""
    codes = {kind.code for kind in BreakglassError.__subclasses__() if kind.__module__.startswith("breakglass.")}
    codes -= {"internal", "not-found", "method-not-allowed"}  # answered before the caller is known
    assert chat_errors.ChatDisabled.code in codes
    assert codes - {outcome for outcomes in OUTCOMES.values() for outcome in outcomes} == set()
    assert set(HTTP_STATUS) <= set(OUTCOMES["/pve"])


def test_every_end_of_a_turn_has_its_series() -> None:
    """The series have the codes of an `error` event in the API's schema."""
    code = read_contract()["components"]["schemas"]["ErrorEvent"]["properties"]["code"]
    assert {"ok", *code["x-extensible-enum"]} == set(TURN_OUTCOMES)
    assert re.findall(r"^- `([a-z-]+)`: ", code["description"], re.MULTILINE) == code["x-extensible-enum"]


def test_a_code_that_a_log_has_is_no_label() -> None:
    """A turn itself chooses the code of its error, so an unknown code counts as a crash."""
    snapshot = healthy()
    for code in ("ok", "busy", "a-code-of-mine"):
        snapshot.counts.add_turn(code)
    found = {name: value for name, value in shown(snapshot).items() if name.startswith("turns_total") and value}
    assert found == {f"turns_total{{outcome={code}}}": 1 for code in ("ok", "busy", "claude-crashed")}


# --- the stages ---


def stages(verb: str, *messages: dict[str, object]) -> dict[str, float]:
    """Return how often each stage of a verb was counted."""
    counters = Counters()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counts, "in_use", counters)
        clock = StageClock(verb)
        for message in messages:
            clock.see(message)
    found = {
        re.fullmatch(r"verb_stage_seconds_count{stage=(.+),verb=(.+)}", name): n
        for name, n in counted(counters).items()
    }
    return {match[1]: count for match, count in found.items() if match and match[2] == verb}


def stage(name: str) -> dict[str, object]:
    return {"type": "stage", "stage": name}


RESULT: dict[str, object] = {"type": "result"}
CYCLE = [stage(name) for name in ("preflight", "forensics", "stop", "verify", "start", "verify")]


@each_row(
    ("verb", "messages", "counted"),
    [
        ("cycle", [*CYCLE, RESULT], {"preflight": 1, "forensics": 1, "stop": 1, "verify": 2, "start": 1}),
        ("status", [{"type": "output"}, RESULT], {"status": 1}),
        ("reset", [stage("preflight"), stage("reset")], {}),
        ("reset", [stage("preflight"), stage("reset"), RESULT | {"attached": True}], {}),
        ("reset", [stage("x" * 99), RESULT], {}),
    ],
)
def test_each_stage_is_timed(verb: str, messages: list[dict[str, object]], counted: dict[str, float]) -> None:
    """Times that came at once or incompletely say nothing. A host can't choose a label."""
    assert stages(verb, *messages) == counted


# --- scrapes ---


async def test_scrapes_share_what_they_may_take() -> None:
    """A scrape waits until earlier scrapes have used no more than their share of the time."""
    scrapes, taken = Scrapes(), []

    def slow() -> tuple[bytes, str]:
        began = time.monotonic()
        while time.monotonic() < began + 0.002:
            pass
        taken.append((began, time.monotonic()))
        return b"", ""

    await asyncio.gather(*(scrapes.take(slow) for _ in range(3)))
    for (began, ended), (next_began, _) in pairwise(taken):
        assert next_began - ended >= (SHARE - 1) * (ended - began)


@each_row("accept", ["application/openmetrics-text; version=x", "openmetrics-text", ";,=" * 99])
def test_an_odd_wish_gets_the_usual_form(accept: str) -> None:
    """An odd Accept header, such as a version that is no number, gets the usual format."""
    assert render(healthy(), accept)[1] == render(healthy(), "")[1]
