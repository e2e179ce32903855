"""The metrics have bounded labels, every outcome, and only meaningful times."""

import re
from dataclasses import replace

from breakglass.base.errors import BreakglassError
from breakglass.chat import request as chat_errors
from breakglass.proxmox.outcome import HTTP_STATUS
from breakglass.server.counters import OUTCOMES, TURN_OUTCOMES, Counters
from breakglass.server.exposition import Snapshot, render

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


def test_every_error_has_its_series() -> None:
    """Each code that a route of the API can answer with is among its outcomes, so that it begins at 0."""
    codes = {kind.code for kind in BreakglassError.__subclasses__() if kind.__module__.startswith("breakglass.")}
    codes -= {"internal", "not-found", "method-not-allowed"}  # answered before the caller is known
    assert chat_errors.ChatDisabled.code in codes
    assert codes - {outcome for outcomes in OUTCOMES.values() for outcome in outcomes} == set()
    assert set(HTTP_STATUS) <= set(OUTCOMES["/pve"])


def test_every_end_of_a_turn_has_its_series() -> None:
    """The series have the codes of an `error` event in the API's schema. Another code is counted as a crash."""
    counters = Counters()
    counters.add_turn("invented by the program of a turn")
    assert counted(counters) == {"turns_total{outcome=claude-crashed}": 1}
    code = read_contract()["components"]["schemas"]["ErrorEvent"]["properties"]["code"]
    assert {"ok", *code["x-extensible-enum"]} == set(TURN_OUTCOMES)
    assert re.findall(r"^- `([a-z-]+)`: ", code["description"], re.MULTILINE) == code["x-extensible-enum"]
