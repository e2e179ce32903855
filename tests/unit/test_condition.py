"""The handler's own condition: /health, /ready and /metrics read the same list of faults."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from breakglass.auth.signing import Caller
from breakglass.base.findings import error
from breakglass.config.model import Config
from breakglass.server.condition import GENERAL, Condition

from ..support.rows import each_row

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
AT = NOON.timestamp()


def caller(name: str, not_after: datetime | None) -> Caller:
    return Caller(name, (b"k" * 32,), frozenset({"status"}), not_after=not_after)


def condition(*callers: Caller, at: float = AT, chat: str = "on") -> Condition:
    config = Config(callers, {}, {}, ("s" * 32,))
    return Condition(config, at, {"pve1": "answering"}, {"devvm": "agent-outdated"}, chat)


@each_row("chat", ["on", "none"])
def test_what_works_has_no_fault(chat: str) -> None:
    """A key without an end, a key that is valid for a month and a different host agent are no faults."""
    found = condition(caller("anna", None), caller("bob", NOON + timedelta(days=30)), chat=chat)
    assert (found.faults, found.config_state) == ([], "ok")


def test_a_key_expires_by_the_clock_alone() -> None:
    """The same configuration has one more problem from the moment at which the key's requests are refused."""
    anna = caller("anna", NOON)
    for seconds, is_refused in ((-1, False), (0, False), (1, True)):
        found = condition(anna, at=AT + seconds)
        assert (anna.refusal("status", None, AT + seconds) is not None) is is_refused
        assert found.config_state == ("degraded: 1 problem" if is_refused else "ok")
        assert [fault.code for fault in found.faults] == ["caller-expired" if is_refused else "caller-expires"]


def test_the_configuration_counts_its_problems_and_the_expired_keys() -> None:
    """The state and the faults have a rejected reload first, then the problems and the expired keys."""
    ok = condition(caller("anna", NOON - timedelta(days=1)))
    faulty = replace(ok.config, problems=(error("callers.bob.secret", "caller-disabled", "is missing", "give it"),))
    found = replace(ok, config=faulty, rejected_since=AT)
    assert found.config_state.split("; ") == ["rejected since 2026-11-27T12:00:00Z", "degraded: 2 problems"]
    assert [fault.code for fault in found.faults] == ["config-rejected", "config-degraded", "caller-expired"]


def test_only_the_whole_sentences_name_something() -> None:
    """The general ones have no name of a caller, a host, a VM, a setting or a file."""
    names = ("anna", "bob", "pve1", "devvm", "callers", "/srv/credential", "notify[0]")
    ok = condition(caller("anna", NOON - timedelta(days=1)), caller("bob", NOON + timedelta(days=1)))
    found = replace(
        ok,
        config=replace(ok.config, problems=(error("callers.carl", "caller-disabled", "is not a table", "write it"),)),
        hosts={"pve1": "timeout"},
        vms={"devvm": "not-allowed"},
        chat="claude-missing",
        chat_why="/srv/credential is not there",
        rejected_since=AT,
        not_told={"notify[0]": "it answered HTTP 500"},
    )
    faults = found.faults
    assert [fault.code for fault in faults] == [
        *("config-rejected", "config-degraded", "caller-expired", "caller-expires", "host-down", "vm-down"),
        *("chat-down", "notify-failed"),
    ]
    assert {fault.code for fault in faults} == GENERAL.keys()
    assert not [name for fault in faults for name in names if name in GENERAL[fault.code]]
    assert [name for name in names if not any(name in fault.sentence for fault in faults)] == []
