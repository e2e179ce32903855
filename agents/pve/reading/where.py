"""What `where` answers: which node has the VM, and whether this one has a record of a job's id.

A handler whose VM may run on several hosts asks each of them before it sends a verb to one. So it has to be light, and
what hangs costs less than a second.
"""

import time

from ..budget import WHERE_SECONDS
from ..host.bounded import ask_or_none
from ..host.cluster import Cluster, cluster_view, node_name
from ..host.paths import Host
from ..host.vmstate import is_here
from ..jobs.archive import is_from_before_boot
from ..jobs.result import Result
from ..jobs.store import JobStore
from ..words import DONE

PAUSE_SECONDS = 10.0  # after /etc/pve did not answer: each look that hangs may leave a child behind

_pve_hung_at = float("-inf")


def answer_where(host: Host, job_id: str) -> tuple[str, Result]:
    """Return where the VM is, as this node knows it, and whether this node has a record of the id.

    `here` is this node's name, `node` that of the node which has the VM; empty if that isn't known. It is `sure` if it
    comes from /etc/pve and this node has a quorum; otherwise a process of the VM is here. `cluster` is null if /etc/pve
    does not answer, `known` if the archive does not, and `process` if /proc does not. While the VM is
    `migrating`, a process is no stale copy, whichever node has the VM.
    """
    known = _has_record(host, job_id) if job_id else None
    view = look_at_cluster(host)
    has_process = ask_or_none(lambda: is_here(host), WHERE_SECONDS / 4)  # after /etc/pve, as is_stale_copy says
    node = ""
    if view.answers and view.quorate:  # without a quorum, /etc/pve may be old: HA may have moved the VM since
        node = node_name() if view.config else view.node
    fields: dict[str, object] = {
        "here": node_name(),
        "node": node or (node_name() if has_process else ""),
        "sure": node != "",
        "process": has_process,
        "migrating": node != "" and view.migrating,
        "cluster": view.cluster if view.answers else None,
        "known": known,
    }
    return f"node: {fields['node'] or 'not known'}", Result(DONE, stage="where", extra=fields)


def look_at_cluster(host: Host) -> Cluster:
    """Return what /etc/pve says, in half of WHERE_SECONDS; one that hung is left alone for a while."""
    global _pve_hung_at
    if time.monotonic() - _pve_hung_at < PAUSE_SECONDS:
        return Cluster("pmxcfs-hung")
    view = cluster_view(host, WHERE_SECONDS / 2)
    if view.trouble == "pmxcfs-hung":
        _pve_hung_at = time.monotonic()
    return view


def _has_record(host: Host, job_id: str) -> bool | None:
    store = JobStore(host)
    return store.record(job_id) is not None or is_from_before_boot(store, job_id, WHERE_SECONDS / 4)
