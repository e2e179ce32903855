"""Checks before a verb acts: the cluster, HA, leftovers, and the state that the person saw.

A refusal (exit 12) always means that nothing was changed. The checks name a person's decisions (to take a VM away from
HA, to force a quorum) and never make them.
"""

import re

from ..forensics.ha_daemons import describe_ha, find_dead_ha, is_ha_at_work, prove_ha
from ..forensics.leftovers import describe_copy, describe_leftovers, find_leftovers, name_processes
from ..forensics.obstacles import NO_QUORUM, TROUBLES
from ..forensics.startable import QM_SECONDS, find_start_trouble
from ..host.bounded import run
from ..host.cluster import Cluster, cluster_view, is_placeless, is_stale_copy, node_name
from ..host.vm_config import ha_drops_stop, ha_restarts, ha_stuck
from ..host.vmstate import Facts, has_process, vm_state
from ..jobs.job import Job
from ..words import ANYWAY, CONTAINER, CONTAINER_SENTENCE, PLACE_UNKNOWN, STALE_COPY, WITHOUT_PROCESS
from .begin import refusal
from .locked import ENDS_WITH_QEMU, refuse_flock, refuse_locked

_LEFT_BY_MIGRATION = ("paused", "prelaunch", "inmigrate", "postmigrate", "finish-migrate")
_NO_QUORUM = (
    "by hand: pvecm status; pvecm expected 1 only with proof that the other nodes are off",
    "reset works without a quorum",
)


def refuse_failing_start(job: Job, stops_first: bool = False) -> None:
    """Refuse a start that is certain to fail; a cycle checks this before it stops anything."""
    view = cluster_view(job.host)
    refuse_unstartable(job, view, stops_first)
    refuse_flock(job, ENDS_WITH_QEMU if stops_first else ())
    if stops_first:  # a start of a stopped VM needs no test, because a failed start harms nothing
        _refuse_last_stop(job, view.config_text)


def refuse_unstartable(job: Job, view: Cluster, stops_first: bool) -> None:
    """Refuse where /etc/pve itself forbids a start: no quorum, another node, no configuration, HA, a lock."""
    host = job.host
    if view.trouble:
        what, cure = TROUBLES[view.trouble]
        raise refusal(view.trouble, f"{what}, so a start would fail; run systemctl restart pve-cluster first", "", cure)
    if not view.quorate:
        sentence = "this node has no quorum, so a start would fail"
        raise refusal("no-quorum", sentence, "", "/etc/pve/local is read-only", *_NO_QUORUM)
    refuse_elsewhere(job, view)
    if not view.config:
        raise _no_config(host.vmid)
    if ha_stuck(view.ha, view.ha_seen) or _is_ha_dead(job, view):
        raise _stuck(job, view)
    if view.lock != "suspended" or stops_first:
        refuse_locked(job, view)


def _no_config(vmid: int) -> Exception:
    missing = f"Configuration file 'nodes/{node_name()}/qemu-server/{vmid}.conf' does not exist"
    return refusal("no-config", f"VM {vmid} has no configuration on any node", "", missing)


def _refuse_last_stop(job: Job, config: str) -> None:
    """Refuse to stop a VM that Proxmox could not start again. A person can override that, unless `qm` itself is broken.

    A `qm` that is late causes no refusal, because a busy host is not a broken one.
    """
    trouble = find_start_trouble(job.host, config, job.seconds_left(QM_SECONDS))
    if trouble is None:
        return
    if trouble.refusal in ("", job.anyway):
        asked = f"; {job.record.by} asked for the verb anyway" if trouble.code else ""
        job.warnings.append(f"{trouble.cause}{asked}")
        return
    sentence = f"the VM was not stopped, because a start would fail: {trouble.cause}"
    offer = trouble.refusal if trouble.refusal in ANYWAY else None
    raise refusal(trouble.refusal, sentence, "", *trouble.lines, anyway=offer)


def refuse_elsewhere(job: Job, view: Cluster) -> None:
    """Refuse when the VM's configuration is on another node, because a VM that is stopped here may run there."""
    if view.container:
        raise refusal(CONTAINER, CONTAINER_SENTENCE, "", "/etc/pve/.vmlist says lxc")
    if view.node:
        vmid, here = job.host.vmid, node_name()
        if is_stale_copy(job.host, view):
            raise refusal(STALE_COPY, *describe_copy(vmid, here, view.node, view.ha))
        raise refusal(
            "other-node",
            f"VM {vmid} is on node {view.node} now and not on {here}: look there",
            "",
            f"Configuration file 'nodes/{here}/qemu-server/{vmid}.conf' does not exist",
            f"/etc/pve/.vmlist names {view.node}",
        )


def refuse_absent(job: Job) -> None:
    """Refuse a verb on a VM that has no process here if another node has the VM or may have it."""
    view = cluster_view(job.host)
    refuse_elsewhere(job, view)
    _refuse_placeless(job, view, "no process of the VM is on this node")
    if view.cluster and not view.config:
        raise _no_config(job.host.vmid)


def refuse_copy(job: Job, view: Cluster, state: str) -> None:
    """Refuse to continue a VM that is on another node, or may be if a migration can leave a QEMU in this state.

    A running VM is not refused if this node can't be sure: without a quorum, or while a migration is under way.
    """
    if state != "running" or is_stale_copy(job.host, view):
        refuse_elsewhere(job, view)
    if state in _LEFT_BY_MIGRATION:
        _refuse_placeless(job, view, f"the VM is {state} here")


def _refuse_placeless(job: Job, view: Cluster, finding: str) -> None:
    """Refuse when this node can't know whether it has the VM; `finding` is what it sees of the VM."""
    if is_placeless(job.host, view):
        why, cure = TROUBLES[view.trouble] if view.trouble else (NO_QUORUM, _NO_QUORUM[0])
        sentence = f"{finding}, and {why.partition(':')[0]}: another node may have the VM"
        raise refusal(PLACE_UNKNOWN, sentence, "", cure)


def refuse_deaf_ha(job: Job, view: Cluster) -> None:
    """Refuse a stop that HA would undo but can't accept, because HA has no quorum, is dead or drops the request."""
    restarts = ha_restarts(view.ha, view.ha_seen)
    if restarts and not view.quorate:
        sentence = f"HA manages VM {job.host.vmid} and this node has no quorum: HA accepts no stop and undoes a kill"
        fence = "a node with active HA services that lost its quorum reboots itself after 60 s"
        raise refusal("no-quorum", sentence, "", describe_ha(view), fence, *_NO_QUORUM)
    if ha_drops_stop(view.ha, view.ha_seen) or (restarts and _is_ha_dead(job, view)):
        raise _stuck(job, view)


def _is_ha_dead(job: Job, view: Cluster) -> bool:
    if dead := find_dead_ha(view):
        job.say(f"{job.stage}: {dead}; waiting up to 30 s for a new status of HA's daemons")
    return bool(dead) and not is_ha_at_work(job.host, view, job.seconds_left(float("inf")))


def _stuck(job: Job, view: Cluster) -> Exception:
    vmid, dead = job.host.vmid, find_dead_ha(view)
    sentence = f"HA has VM {vmid} in state {view.ha_seen} and acts on no request until that state ends"
    sentence = f"HA manages VM {vmid} and does nothing now, because {dead}" if dead else sentence
    return refusal("ha-stuck", sentence, "", *prove_ha(vmid, view))


def refuse_leftovers(job: Job) -> None:
    """Refuse a start while processes of the stopped VM remain in its scope. A QEMU that is starting does not count."""
    if pids := list(find_leftovers(job.host).pids):
        raise refusal(
            "leftover",
            f"the VM is stopped but {name_processes(pids)} left in its scope, so a start would fail",
            "",
            *describe_leftovers(pids),
        )


def refuse_unexpected(job: Job, facts: Facts, if_state: str, if_last: str) -> None:
    """Refuse if the host sees another state or job than the person saw. An unknown state causes no refusal."""
    exists = has_process(facts)
    if if_state and exists is None:
        exists = _ask_qm(job)
    if if_state and exists is None:
        job.warnings.append("the host could not tell whether the VM runs, so it did not compare that with what you saw")
    elif if_state and exists == (if_state in WITHOUT_PROCESS):
        raise refusal("state-differs", f"the VM is {vm_state(facts)} now, not {if_state}; look again", "status")
    last = job.store.last
    if if_last and last != if_last:
        raise refusal("last-differs", _what_happened(job, last), "status", f"last: {last}")


def _what_happened(job: Job, last: str) -> str:
    record = job.store.record(last) if last != "none" else None
    if record is None:
        return "the newest job on this VM is not the one you saw; look again"
    ago = job.record.boottime - record.boottime
    return f"{record.by} sent {record.verb} {ago:.0f} s ago, and you have not seen its result; look again"


def _ask_qm(job: Job) -> bool | None:
    """Ask `qm status` whether a process exists, where /proc and QMP could not tell."""
    ran = run(["qm", "status", str(job.host.vmid)], job.seconds_left(5))
    status = re.search(r"^status: (\S+)$", ran.stdout, re.MULTILINE)
    if ran.code != 0 or status is None:
        return None
    job.warnings.append(f"neither /proc nor QEMU shows whether the VM runs; qm status says {status[1]}")
    return status[1] != "stopped"
