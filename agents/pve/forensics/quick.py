"""Judges what a status sees at once: the state, and of a stopped VM what /etc/pve and the processes say."""

from collections.abc import Sequence

from ..host.cluster import NOT_ASKED, Cluster, is_placeless
from ..host.paths import Host
from ..host.process import describe_process
from ..host.vmstate import Facts, describe_sources, leftover_pids, vm_state
from ..jobs.result import Verdict
from .evidence import Evidence
from .verdict import quick_verdict


def judge_status(host: Host, facts: Facts, view: Cluster, owners: Sequence[str]) -> Verdict:
    """Return the verdict of a status; `owners` are the holders of the lock file, one line each."""
    state, asked = vm_state(facts), view is not NOT_ASKED and view.answers
    left = tuple(leftover_pids(host)) if state == "stopped" else ()
    evidence = Evidence(
        state,
        describe_sources(facts),
        leftovers=left,
        node=view.node,
        container=view.container,
        lock=view.lock,
        owners=tuple(owners),
        ha=view.ha,
        ha_seen=view.ha_seen,
        ha_goal=view.ha_goal,
        node_seen=view.node_seen,
        pve=view.trouble,
        placeless=view is not NOT_ASKED and is_placeless(host, view),
        quorate=view.quorate if asked else None,
        config=view.config if asked else None,
        remains=tuple(map(describe_process, left)),
    )
    return quick_verdict(evidence)
