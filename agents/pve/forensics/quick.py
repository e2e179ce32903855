"""Judges what a status sees at once: the state and, for a stopped VM, the facts of /etc/pve and the processes."""

from collections.abc import Sequence

from ..host.cluster import NOT_ASKED, Cluster, is_placeless, is_stale_copy, node_name
from ..host.paths import Host
from ..host.pve_tasks import Holder
from ..host.vmstate import Facts, describe_sources, vm_state
from ..jobs.result import Verdict
from .evidence import Evidence
from .ha_daemons import find_dead_ha
from .heartbeat import sample_at_once
from .heartbeat_rule import describe_heartbeat
from .leftovers import Leftovers, describe_process, find_leftovers, starter_pid
from .verdict import quick_verdict


def judge_status(
    host: Host, facts: Facts, view: Cluster, holders: Sequence[Holder]
) -> tuple[str, Verdict, dict[str, object] | None]:
    """Return the state, the verdict and the heartbeat of a status; `holders` are the holders of the lock file."""
    asked = view is not NOT_ASKED and view.answers
    left = find_leftovers(host) if vm_state(facts) == "stopped" else Leftovers()
    facts = left.facts or facts
    state = vm_state(facts)
    evidence = Evidence(
        state,
        describe_sources(facts),
        leftovers=left.pids,
        node=view.node,
        container=view.container,
        lock=view.lock,
        owners=tuple(f"the lock file is held by {holder}" for holder in holders),
        starter=left.starter or starter_pid(holders),
        ha=view.ha,
        ha_seen=view.ha_seen,
        ha_goal=view.ha_goal,
        node_seen=view.node_seen,
        ha_dead=find_dead_ha(view),
        pve=view.trouble,
        placeless=view is not NOT_ASKED and is_placeless(host, view),
        quorate=view.quorate if asked else None,
        config=view.config if asked else None,
        remains=tuple(map(describe_process, left.pids)),
        vmid=host.vmid,
        here=node_name(),
        stale=state != "stopped" and is_stale_copy(host, view),
        heartbeats=sample_at_once(host) if state == "running" else (),
    )
    return state, quick_verdict(evidence), describe_heartbeat(evidence)
