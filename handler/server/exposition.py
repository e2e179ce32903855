"""Renders the state and the counts of a running handler in the formats that Prometheus reads.

The library's registry is not used, because it would add series about this process. A label is a name from the current
configuration or a word of this program, never a name from a request.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily

from ..agents.pve.words import VERSION
from ..auth.signing import Caller
from ..chat.service import ChatService
from ..service import Service
from .condition import REACHED, Condition
from .counters import COUNTERS, Counters
from .health import find_condition

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
    counts: Counters

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        condition = self.condition
        yield InfoMetricFamily("breakglass_build", "The version of this handler.", value={"version": VERSION})
        yield _gauge("time_seconds", "The clock of the handler, in Unix time.", "", [((), condition.at)])
        text = "1 if GET /ready answers 200, 0 if it answers 503. In that case another series here says why."
        yield _gauge("ready", text, "", [((), not condition.faults)])
        yield from _of_config(condition)
        yield from _of_hosts(self)
        yield from _of_vms(condition)
        yield from _of_chat(condition.chat, self)
        yield from _of_callers(self.counts, condition.config.callers)
        yield from self.counts.collect(sorted({rule.source for rule in condition.config.alerts}))


def take_snapshot(service: Service, chatting: ChatService) -> Snapshot:
    """Return what the handler knows now."""
    hosts = {name: host.handshake for name, host in service.hosts.items() if host.handshake.version}
    agents = {name: host.version for name, host in hosts.items()}
    proven = {name: _unix_time(host.proven["at"]) if host.proven else 0.0 for name, host in hosts.items()}
    condition = find_condition(service, chatting)
    return Snapshot(condition, agents, proven, chatting.running_turns, COUNTERS)


def _unix_time(text: str) -> float:
    """Return a host agent's time as a Unix time. Returns 0 if it does not exist, such as February 30."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def render(snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
    """Return all metrics and their content type, as the client's Accept header asks for."""
    try:
        encode, kind = choose_encoder(accept)
    except TypeError:  # sorting fails for a version that is not a number
        encode, kind = choose_encoder("")
    return encode(snapshot), kind


def _gauge(name: str, text: str, labels: str, samples: Iterable[tuple[K, float]]) -> Metric:
    """Return a gauge with these samples. `labels` has the names of its labels, separated by spaces."""
    family = GaugeMetricFamily(f"breakglass_{name}", text, labels=labels.split())
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _of_config(condition: Condition) -> Iterator[Metric]:
    config, is_rejected = condition.config, condition.rejected_since is not None
    text = "1 if no reload was rejected, and the configuration in force has no problem and no expired key, otherwise 0."
    yield _gauge("config_ok", text, "", [((), condition.config_state == "ok")])
    text = "The problems of the configuration in force, each of which disables a part. The log lists them."
    yield _gauge("config_problems", text, "", [((), len(config.problems))])
    text = "The number of warnings about the configuration in force, counted when the configuration was read. "
    text += "The log lists them."
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
    info = InfoMetricFamily("breakglass_agent", "The version of the host agent, as it last reported.", labels=["host"])
    for name, version in snapshot.agents.items():
        info.add_metric([name], {"version": version if _AGENT_VERSION.fullmatch(version) else "other"})
    yield info
    text = "When a drill, or a doctor without errors, last proved this host, in Unix time; 0 if never."
    yield _gauge("host_proven_timestamp_seconds", text, "host", [((name,), at) for name, at in snapshot.proven.items()])


def _of_vms(condition: Condition) -> Iterator[Metric]:
    vms = condition.config.vms
    states = {(name, vms[name].host.name if name in vms else ""): state for name, state in condition.vms.items()}
    text = "1 if a verb would reach this VM, otherwise 0. It says nothing about the VM itself."
    yield _gauge("vm_reachable", text, "vm host", [(key, state in REACHED) for key, state in states.items()])
    text = "1 for the state of the connection to this VM, with the codes of /health. Other states have no series."
    yield _gauge("vm_state", text, "vm host state", [((*key, state), 1) for key, state in states.items()])


def _of_callers(counters: Counters, callers: Iterable[Caller]) -> Iterator[Metric]:
    text = "When this handler started to count, in Unix time."
    yield _gauge("start_time_seconds", text, "", [((), counters.since)])
    text = "When the caller's key expires (not_after), in Unix time. A key that does not expire has no series."
    expiries = [((each.name,), each.not_after.timestamp()) for each in callers if each.not_after]
    yield _gauge("caller_expires_timestamp_seconds", text, "caller", expiries)
    text = "When the caller's newest request came, in Unix time. No series before the first one since the start."
    newest = [((each.name,), counters.callers[each.name]) for each in callers if each.name in counters.callers]
    yield _gauge("caller_last_request_timestamp_seconds", text, "caller", newest)


def _of_chat(state: str, snapshot: Snapshot) -> Iterator[Metric]:
    text = "1 if chat works, 0 if [chat] is configured and chat does not work. Without [chat] there is no series."
    yield _gauge("chat_up", text, "", [((), state == "on")] if state != "none" else [])
    text = "1 for the state of chat, with the codes of /health. Other states have no series."
    yield _gauge("chat_state", text, "state", [((state,), 1)])
    yield _gauge("turns_running", "The turns that this handler runs now.", "", [((), snapshot.turns_running)])
