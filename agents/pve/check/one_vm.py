"""Judges whether the verbs could act on one VM now: its configuration, its locks, and HA.

Each rule comes from power/preflight.py or power/locked.py. A finding refuses nothing, because each verb checks again.
"""

from collections.abc import Iterator, Mapping, Sequence

from ..forensics.ha_daemons import find_dead_ha
from ..forensics.leftovers import describe_copy
from ..forensics.obstacles import NO_QUORUM, TROUBLES
from ..forensics.outlook import ha_by_hand, ha_line
from ..host.cluster import Cluster, cluster_view, is_stale_copy, node_name
from ..host.paths import Host
from ..host.pve_tasks import Holder, Owner, find_lock_owner, flock_holders
from ..host.vm_config import AT_REST, MOVING, current_options, ha_manages, ha_stuck
from ..jobs.mutex import Lock
from ..jobs.store import JobStore, describe_holder
from ..words import CONTAINER_SENTENCE
from .findings import Finding, error, ok, vm_and_name, warning

_BY_HAND = "by hand: "


def check_vm(host: Host) -> Iterator[Finding]:
    """Yield the findings about one VM. Reading takes 9 s at most, if everything hangs."""
    view = cluster_view(host)
    yield judge_cluster(view)
    if view.answers:
        yield judge_copy(host, view) if is_stale_copy(host, view) else judge_place(host.vmid, view, node_name())
        yield judge_template(host.vmid, current_options(view.config_text))
        yield judge_lock(host.vmid, view.lock, find_lock_owner(host, view.lock) if view.lock else Owner(None))
        yield judge_ha(host.vmid, view.ha, view.ha_seen, find_dead_ha(view))
    yield judge_lock_file(host.vmid, flock_holders(host))
    job_id = Lock(host, "lock").holder()
    yield judge_job(host.vmid, describe_holder(JobStore(host), job_id) if job_id else None)


def judge_cluster(view: Cluster) -> Finding:
    """Require a quorum and an /etc/pve that answers, because no VM can be started without them."""
    effect = "reset and stop work; start and cycle are refused"
    if view.trouble:
        symptom, cure = TROUBLES[view.trouble]
        return error(f"{symptom}; {effect}", cure.removeprefix(_BY_HAND))
    if not view.quorate:
        return error(f"{NO_QUORUM}; {effect}", "pvecm status; bring the other nodes back")
    return ok("/etc/pve answers, and this node has a quorum")


def judge_place(vmid: int, view: Cluster, here: str) -> Finding:
    """Require that a node has the VM. The handler decides which of the VM's hosts gets its verbs."""
    if view.container:
        return error(f"{vmid}: {CONTAINER_SENTENCE}", f"take {vmid} out of the key's --vms and of the configuration")
    if view.node:
        return ok(f"VM {vmid} is on node {view.node} now, so verbs on {here} act on the VM only after it moves here")
    if not view.config:
        return error(f"no node has VM {vmid}", "correct the VM's number in the configuration: qm list")
    return ok(f"{vm_and_name(vmid, view.name)} is configured on this node, {here}")


def judge_copy(host: Host, view: Cluster) -> Finding:
    """Require that no QEMU of the VM runs here if another node has the VM."""
    sentence, _, _, cure, *_ = describe_copy(host.vmid, node_name(), view.node, view.ha)
    return error(sentence, cure.partition(": ")[2])


def judge_template(vmid: int, options: Mapping[str, str]) -> Finding:
    """Require a VM that Proxmox can start, which excludes templates."""
    if options.get("template", "0") in ("", "0"):
        return ok(f"VM {vmid} is not a template")
    sentence = f"VM {vmid} is a template, which Proxmox never starts, so start and cycle fail"
    return error(sentence, "correct the VM's number in the configuration: qm list shows those of its clones")


def judge_lock(vmid: int, lock: str, owner: Owner) -> Finding:
    """Warn of a `lock:`. The lines of its owner end with what a person can do."""
    if not lock:
        return ok(f"VM {vmid} has no lock")
    *known, cure = owner.lines or (f"{_BY_HAND}qm config {vmid}",)
    if not cure.startswith(_BY_HAND):
        known, cure = [*known, cure], f"qm config {vmid}; cat /var/log/pve/tasks/active"
    sentence = "; ".join([f"VM {vmid} is locked ({lock}), so start, stop and cycle may be refused", *known])
    if lock == "suspended":
        return ok(sentence)
    return warning(sentence, cure.removeprefix(_BY_HAND))


def judge_lock_file(vmid: int, holders: Sequence[Holder]) -> Finding:
    """Warn of a process that holds the VM's lock file: a `qm` would wait for it, and fail."""
    if not holders:
        return ok(f"no process holds the lock file of VM {vmid}")
    listed = ", ".join(map(str, holders))
    pids = " ".join(str(holder.pid) for holder in holders)
    sentence = f"the lock file of VM {vmid} is held by {listed}, so a verb may have to wait"
    return warning(sentence, f"wait, or kill {pids}")


def judge_job(vmid: int, job: dict[str, object] | None) -> Finding:
    """Warn of a job that holds the VM, because until it ends every other job is `busy`."""
    if job is None:
        return ok(f"no job runs on VM {vmid}")
    sentence = "{by}: {verb} since {since}, stage {stage}".format(**job)
    return warning(f"VM {vmid} is busy: {sentence}", "wait until the job ends, or send the job's id to watch the job")


def judge_ha(vmid: int, requested: str, state: str, dead: str) -> Finding:
    """Require that HA takes requests, if it manages the VM; warn if HA as a whole is disarmed."""
    line = ha_line(requested, state, dead)
    if dead:
        effect = "start and cycle are refused" if requested in AT_REST else "start, stop and cycle are refused"
        cure = "; ".join(ha_by_hand(vmid, requested, state, dead)).removeprefix(_BY_HAND)
        return error(f"VM {vmid}: {line}: {effect}", cure)
    if ha_manages(requested) and state in MOVING:
        return warning(f"VM {vmid}: {line}: start, stop and cycle are refused", "wait until HA has moved it")
    if ha_stuck(requested, state):
        cure = "; ".join(ha_by_hand(vmid, requested, state)).removeprefix(_BY_HAND)
        cure += "; if HA is disarmed: ha-manager crm-command arm-ha" if state == "freeze" else ""
        return error(f"VM {vmid}: {line}: start and cycle are refused", cure)
    if requested == "disarmed":
        return warning(f"VM {vmid}: {line}", "ha-manager crm-command arm-ha")
    if ha_manages(requested):
        return ok(f"VM {vmid}: HA is armed. {line}")
    return ok(f"VM {vmid}: {line or 'HA does not manage the VM'}")
