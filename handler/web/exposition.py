"""Shows the state and the counts of a running handler in the forms that Prometheus reads.

The only file that knows prometheus_client. Its own registry is not used: it would add series about this process, and is
one for all. Every label is a name of the configuration in force or a word of this program; a name that a request brings
never is one.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import CollectorRegistry

from ..agents.pve.words import VERSION
from ..audit import OF_CHAT
from ..auth.signing import Caller
from ..chat.service import ChatService
from ..condition import REACHED, Condition
from ..counts import BUCKETS, COUNTS, TOKEN_KINDS, Counts
from ..proxmox.outcome import HTTP_STATUS
from ..service import Service
from ..verbs import VERBS
from .health import find_condition

ALERT_OUTCOMES = ("accepted", "repeated", "ignored", "failed")
TURN_OUTCOMES = (
    *("ok", "claude-missing", "claude-auth", "claude-overloaded", "claude-rate-limited", "claude-unreachable"),
    *("claude-crashed", "session-lost", "turn-timeout", "cancelled", "busy", "shutting-down"),
)
_REFUSALS = ("unauthorized", "too-slow", "too-large", "client-gone")
_ERRORS = (*_REFUSALS, "stale-timestamp", "forbidden", "bad-request")
_CHAT_ERRORS = ("chat-off", "chat-not-isolated", "sessions-unwritable", "session-invalid", "turn-unknown")
OUTCOMES: Mapping[str, tuple[str, ...]] = {  # of each route: those that have a series from the start
    "/pve": (*HTTP_STATUS, "wrong-handler", *_ERRORS),
    "/chat": (*OF_CHAT, "id-reused", "session-elsewhere", "wrong-handler", *_CHAT_ERRORS, *_ERRORS),
    "/alert": (*ALERT_OUTCOMES, "unreached", "unknown", *_ERRORS),
    "/metrics": _REFUSALS,
}
K = TypeVar("K", bound=tuple[str, ...])
_AGENT_VERSION = re.compile(r"\d{1,4}(\.\d{1,4}){1,3}", re.ASCII)


@dataclass(frozen=True)
class Snapshot:
    """What a handler knows at one moment.

    For each host whose host agent has answered, by name: `agents` has its version, and `proven` the Unix time at which
    the host was last proven (0: never).
    """

    condition: Condition
    agents: Mapping[str, str]
    proven: Mapping[str, float]
    turns_running: int
    sessions: str  # the id of sessions.dir, if there is one
    counts: Counts


def take_snapshot(service: Service, chatting: ChatService) -> Snapshot:
    """Return what the handler knows now."""
    hosts = {name: host for name, host in service.hosts.items() if host.agent_version}
    agents = {name: host.agent_version for name, host in hosts.items()}
    proven = {name: _unix_time(host.proven["at"]) if host.proven else 0.0 for name, host in hosts.items()}
    condition, sessions = find_condition(service, chatting), chatting.directory or ""
    return Snapshot(condition, agents, proven, chatting.running_turns, sessions, COUNTS)


def _unix_time(text: str) -> float:
    """Return a time of the protocol, which a host agent has sent; 0 for one that there is not, as February 30."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def render(snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
    """Return all metrics and their content type, as the client's Accept header asks for."""
    try:
        encode, kind = choose_encoder(accept)
    except TypeError:  # for a version that is no number
        encode, kind = choose_encoder("")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector([*_states(snapshot), *_totals(snapshot)]))
    return encode(registry), kind


class _Collector:
    """What a registry asks for metrics."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = tuple(metrics)

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        return self._metrics


def _gauge(name: str, text: str, labels: str, samples: Iterable[tuple[K, float]]) -> Metric:
    """Return a gauge with some samples, none without any: `labels` are the words of its labels' names."""
    family = GaugeMetricFamily(f"breakglass_{name}", text, labels=labels.split())
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _counter(name: str, text: str, labels: str, samples: Iterable[tuple[K, float]]) -> Metric:
    """Return a counter, whose name ends with _total, as `_gauge` does."""
    family = CounterMetricFamily(f"breakglass_{name}", text, labels=labels.split())
    for values, value in samples:
        family.add_metric(values, value)
    return family


# --- the state ---


def _states(snapshot: Snapshot) -> Iterator[Metric]:
    condition = snapshot.condition
    yield InfoMetricFamily("breakglass_build", "The version of this handler.", value={"version": VERSION})
    yield _gauge("time_seconds", "The clock of the handler, in Unix time.", "", [((), condition.at)])
    text = "1 if GET /ready answers 200, 0 if it answers 503: then another series here says why."
    yield _gauge("ready", text, "", [((), not condition.faults)])
    yield from _of_config(condition)
    yield from _of_hosts(snapshot)
    yield from _of_vms(condition)
    yield from _of_chat(condition.chat, snapshot)


def _of_config(condition: Condition) -> Iterator[Metric]:
    config, is_rejected = condition.config, condition.rejected_since is not None
    text = "1 if no reload was rejected, and the configuration in force has no problem and no expired key, otherwise 0."
    yield _gauge("config_ok", text, "", [((), condition.config_state == "ok")])
    text = "The problems of the configuration in force, each of which switches a part off. The log lists them."
    yield _gauge("config_problems", text, "", [((), len(config.problems))])
    text = "The warnings about the configuration in force, as of when it was read. The log lists them."
    yield _gauge("config_warnings", text, "", [((), len(config.warnings))])
    text = "1 if the newest reload was rejected, so that an older configuration is in force, otherwise 0."
    yield _gauge("config_reload_rejected", text, "", [((), is_rejected)])


def _of_hosts(snapshot: Snapshot) -> Iterator[Metric]:
    states = snapshot.condition.hosts
    text = "1 if the host agent of this Proxmox host answers and may change power, otherwise 0."
    yield _gauge("host_up", text, "host", [((name,), state in REACHED) for name, state in states.items()])
    text = "1 for the state of this host, with the codes of /health. Other states have no series."
    yield _gauge("host_state", text, "host state", [(item, 1) for item in states.items()])
    text = "1 if the host agent's file differs from this handler's, otherwise 0. No series while the host is down."
    outdated = [((name,), state == "agent-outdated") for name, state in states.items() if state in REACHED]
    yield _gauge("agent_outdated", text, "host", outdated)
    info = InfoMetricFamily("breakglass_agent", "The version of the host agent, as it told last.", labels=["host"])
    for name, version in snapshot.agents.items():
        info.add_metric([name], {"version": version if _AGENT_VERSION.fullmatch(version) else "other"})
    yield info
    text = "When a drill, or a doctor without errors, last proved this host, in Unix time; 0 if that was never."
    yield _gauge("host_proven_timestamp_seconds", text, "host", [((name,), at) for name, at in snapshot.proven.items()])


def _of_vms(condition: Condition) -> Iterator[Metric]:
    vms = condition.config.vms
    states = {(name, vms[name].host.name if name in vms else ""): state for name, state in condition.vms.items()}
    text = "1 if a verb would reach this VM, otherwise 0. It says nothing about the VM itself."
    yield _gauge("vm_reachable", text, "vm host", [(key, state in REACHED) for key, state in states.items()])
    text = "1 for the state of the way to this VM, with the codes of /health. Other states have no series."
    yield _gauge("vm_state", text, "vm host state", [((*key, state), 1) for key, state in states.items()])


def _of_callers(counts: Counts, callers: Iterable[Caller]) -> Iterator[Metric]:
    text = "When the caller's key expires (not_after), in Unix time. A key that does not expire has no series."
    expiries = [((each.name,), each.not_after.timestamp()) for each in callers if each.not_after]
    yield _gauge("caller_expires_timestamp_seconds", text, "caller", expiries)
    text = "When the caller's newest request came, in Unix time. No series before the first one since the start."
    newest = [((each.name,), counts.callers[each.name]) for each in callers if each.name in counts.callers]
    yield _gauge("caller_last_request_timestamp_seconds", text, "caller", newest)


def _of_chat(state: str, snapshot: Snapshot) -> Iterator[Metric]:
    text = "1 if chat is on, 0 if [chat] is there and chat is not on. Without [chat] there is no series."
    yield _gauge("chat_up", text, "", [((), state == "on")] if state != "off" else [])
    text = "1 for the state of chat, with the codes of /health. Other states have no series."
    yield _gauge("chat_state", text, "state", [((state,), 1)])
    yield _gauge("turns_running", "The turns that this handler runs now.", "", [((), snapshot.turns_running)])
    text = "The id of sessions.dir, the same for handlers that share it. Without chat there is no series."
    yield _gauge("chat_sessions_info", text, "sessions", [((snapshot.sessions,), 1)] if snapshot.sessions else [])


# --- the counts ---


def _totals(snapshot: Snapshot) -> Iterator[Metric]:
    counts, config = snapshot.counts, snapshot.condition.config
    text = "When this handler started to count, in Unix time."
    yield _gauge("start_time_seconds", text, "", [((), counts.since)])
    yield from _of_callers(counts, config.callers)
    yield from _of_requests(counts)
    yield from _of_alerts(counts, sorted({rule.source for rule in config.alerts}))
    yield from _of_turns(counts)


def _with_zeros(known: Iterable[K], found: Mapping[K, float]) -> Iterable[tuple[K, float]]:
    """Return each sample that there can be, so that `rate` sees the first one that counts."""
    return (dict.fromkeys(known, 0.0) | dict(found)).items()


def _of_requests(counts: Counts) -> Iterator[Metric]:
    known = [(route, outcome) for route, all_of in OUTCOMES.items() for outcome in all_of]
    text = "Answered requests by route and outcome, as in the log. Of /metrics, only those that were refused."
    yield _counter("requests", text, "route outcome", _with_zeros(known, counts.requests))
    outcomes = [outcome for outcome in HTTP_STATUS if outcome != "rejected"]
    known = [(verb, outcome) for verb in VERBS for outcome in outcomes]
    text = "Answered requests to run a verb, by verb and outcome."
    yield _counter("verbs", text, "verb outcome", _with_zeros(known, counts.verbs))
    family = HistogramMetricFamily(
        "breakglass_verb_stage_seconds",
        "How long each stage of a verb took, by the host's messages. Without requests that attached to a job.",
        labels=["verb", "stage"],
    )
    for key, took in counts.stages.items():
        buckets = [(str(limit), float(count)) for limit, count in zip(BUCKETS, took.within, strict=True)]
        family.add_metric(key, [*buckets, ("+Inf", took.count)], took.seconds)
    yield family


def _of_alerts(counts: Counts, sources: Iterable[str]) -> Iterator[Metric]:
    known = [(source, outcome) for source in sources for outcome in OUTCOMES["/alert"]]
    text = "Notifications of monitoring systems by source and outcome, as in the log."
    yield _counter("alert_notifications", text, "source outcome", _with_zeros(known, counts.notifications))
    known = [(source, result) for source in sources for result in ("taken", "attached", "failed")]
    text = "Captures that alerts asked for: taken, attached to one that was there, or refused by the host (failed)."
    yield _counter("alert_captures", text, "source result", _with_zeros(known, counts.captures))


def _of_turns(counts: Counts) -> Iterator[Metric]:
    text = "Turns of chat that ended, by ok or the code of their error."
    turns = dict.fromkeys(TURN_OUTCOMES, 0)
    for code, count in counts.turns.items():  # with shared_uid, claude could write a code of its own into its log
        known = code if code in TURN_OUTCOMES else "claude-crashed"
        turns[known] += count
    yield _counter("turns", text, "outcome", [((code,), count) for code, count in turns.items()])
    text = "Tokens that turns spent, as claude reported them at the end of each, by kind."
    yield _counter("turn_tokens", text, "kind", [((kind,), counts.tokens[kind]) for kind in TOKEN_KINDS])
    text = "What turns cost in US dollars, as claude reported it."
    yield _counter("turn_cost_dollars", text, "", [((), counts.cost)])
