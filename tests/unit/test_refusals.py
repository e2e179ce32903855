"""What refuses a power verb at its last moment: the lock of a task, and evidence of a storage that hangs."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from breakglass.agents.pve.forensics import on_host
from breakglass.agents.pve.host import pve_tasks
from breakglass.agents.pve.host.cluster import Cluster
from breakglass.agents.pve.host.paths import Host
from breakglass.agents.pve.host.process import process_ticks
from breakglass.agents.pve.host.pve_tasks import Owner, find_lock_owner
from breakglass.agents.pve.host.vmstate import Facts
from breakglass.agents.pve.jobs.job import Job
from breakglass.agents.pve.jobs.result import Ended, Verdict
from breakglass.agents.pve.jobs.store import JobStore, Record
from breakglass.agents.pve.power import begin, locked
from breakglass.agents.pve.power.locked import refuse_reset, refuse_resume
from breakglass.agents.pve.power.preflight import refuse_unexpected, refuse_unstartable
from breakglass.agents.pve.power.verbs import _advise_cycle, _refuse_cycle, _refuse_stop

from ..support.rows import each_row


def job_of(root: Path, verb: str) -> Job:
    host = Host(102, str(root))
    return Job(host, JobStore(host), Record("id", verb, "anna", "", "", 0.0, "", 0, 0))


# --- locks ---

CHECKS: dict[str, Callable[[Job, Cluster], None]] = {
    "cycle": _refuse_cycle,
    "stop": _refuse_stop,
    "start": lambda job, view: refuse_unstartable(job, view, stops_first=False),
    "start of a paused VM": refuse_resume,
    "reset": lambda job, view: refuse_reset(job, view, "running"),
    "reset of a paused VM": lambda job, view: refuse_reset(job, view, "paused"),
}
OTHERS = ("clone", "create", "migrate", "rollback", "snapshot", "snapshot-delete", "suspending")
LOCKS: dict[tuple[str, bool | None], str] = {  # by the lock, and whether its task lives
    ("", None): "acts acts acts acts acts acts",
    ("suspended", None): "locked locked acts acts warns warns",
    **{("backup", alive): "locked locked locked acts warns locked" for alive in (True, None)},
    ("backup", False): "locked locked locked acts warns warns",
    **{(lock, alive): "locked locked locked locked locked locked" for lock in OTHERS for alive in (True, None)},
    **{(lock, False): "locked locked locked locked warns warns" for lock in OTHERS},
}


@each_row("row", LOCKS)
def test_each_lock_refuses_what_could_harm_its_task(
    row: tuple[str, bool | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table of docs/host-agent.md, with its paragraph on locks."""
    lock, alive = row
    monkeypatch.setattr(locked, "find_lock_owner", lambda host, lock: Owner(alive, ("a task",)))
    found = []
    for name, check in CHECKS.items():
        job = job_of(tmp_path, name.partition(" ")[0])
        try:
            check(job, Cluster(quorate=True, config=True, lock=lock))
            found.append("warns" if job.warnings else "acts")
        except Ended as ended:
            found.append(ended.verdict.code)
    assert " ".join(found) == LOCKS[row]


def test_no_task_that_may_run_elsewhere_is_called_dead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only a dead task's lock may be unlocked by hand, so no other evidence has the command."""
    line = "UPID:pve1:00000001:00000007:6743E000:qmstart:103:root@pam: 1 6743E100 OK"
    monkeypatch.setattr(pve_tasks, "_task_names", lambda host: [])
    monkeypatch.setattr(pve_tasks, "read_index", lambda host: [line])
    owners = {lock: find_lock_owner(Host(102, str(tmp_path)), lock) for lock in (*OTHERS, "backup", "suspended")}
    unknown = {"clone", "create", "migrate", "suspended"}
    assert {lock for lock, owner in owners.items() if owner.alive is None} == unknown
    assert {lock for lock, owner in owners.items() if "qm unlock 102" in " ".join(owner.lines)} == set(owners) - unknown
    assert not any(owner.alive for owner in owners.values())


@each_row(
    ("lock", "task", "vmid", "alive"),
    [
        ("backup", "vzdump", "102", True),
        ("backup", "vzdump", "", True),
        ("backup", "vzdump", "103", False),
        ("backup", "qmsnapshot", "102", False),
        ("backup", None, "102", True),
        ("snapshot", None, "102", False),
        ("snapshot", "qmsnapshot", "102", True),
        ("snapshot", "qmsnapshot", "103", False),
        ("snapshot", "vzdump", "102", False),
        ("clone", "qmclone", "103", True),
        ("unheard-of", "qmmove", "102", True),
    ],
)
def test_a_task_that_runs_has_the_locks_of_its_kind(
    lock: str, task: str | None, vmid: str, alive: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A backup of several VMs names none of them, and the task of a clone has the number of its source."""
    pid = os.getpid()
    upid = f"task UPID:pve1:{pid:08X}:{process_ticks(pid):08X}:6743E000:{task}:{vmid}:root@pam:"
    monkeypatch.setattr(pve_tasks, "_task_names", lambda host: [upid if task else f"vzdump {vmid}"])
    monkeypatch.setattr(pve_tasks, "read_index", lambda host: ["UPID of another task"])
    assert find_lock_owner(Host(102, str(tmp_path)), lock).alive is alive


# --- a cluster without an answer, and what a person saw ---


@each_row(
    ("view", "code"),
    [
        (Cluster("pmxcfs-dead"), "pmxcfs-dead"),
        (Cluster(config=True), "no-quorum"),
        (Cluster(quorate=True, node="pve2"), "other-node"),
        (Cluster(quorate=True, container=True), "container"),
        (Cluster(quorate=True), "no-config"),
        (Cluster(quorate=True, config=True, ha="started", ha_seen="error"), "ha-stuck"),
    ],
)
def test_a_start_is_refused_by_what_the_cluster_says(view: Cluster, code: str, tmp_path: Path) -> None:
    with pytest.raises(Ended) as ended:
        refuse_unstartable(job_of(tmp_path, "start"), view, stops_first=False)
    assert (ended.value.exit_code, ended.value.verdict.code) == (12, code)


@each_row(
    ("seen", "last", "code"),
    [
        ("", "", ""),
        ("stopped", "none", ""),
        ("running", "", "state-differs"),
        ("", "msg_12345678", "last-differs"),
        ("elsewhere", "none", ""),
    ],
)
def test_a_vm_that_is_not_as_a_person_saw_it_is_left_alone(seen: str, last: str, code: str, tmp_path: Path) -> None:
    """The VM is off, and no job has acted."""
    job = job_of(tmp_path, "start")
    if code:
        with pytest.raises(Ended) as ended:
            refuse_unexpected(job, Facts(), seen, last)
        assert (ended.value.exit_code, ended.value.verdict.code) == (12, code)
    else:
        refuse_unexpected(job, Facts(), seen, last)


# --- a storage that hangs ---


@each_row(
    ("verb", "anyway", "code", "end"),
    [
        ("reset", "", "storage-hung", "refused"),
        ("cycle", "", "storage-hung", "refused"),
        ("cycle", "would-not-start", "storage-hung", "refused"),
        ("reset", "storage-hung", "storage-hung", "warns"),
        ("cycle", "storage-hung", "storage-hung", "warns"),
        ("stop", "", "storage-hung", "acts"),
        ("start", "", "storage-hung", "acts"),
        ("cycle", "", "disk-frozen", "acts"),
    ],
)
def test_evidence_of_a_hung_storage_refuses_a_reset_and_a_cycle(
    verb: str, anyway: str, code: str, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU could not end, and no start could follow. A refused job is not the last one, and is not in the chain."""
    acted: list[str] = []
    monkeypatch.setattr(begin, "ensure_evidence", lambda job, facts: Verdict(code, "s", "", ("thread 7 waits",)))
    monkeypatch.setattr(begin, "chain_begin", lambda job: acted.append("chain"))
    monkeypatch.setattr(JobStore, "set_last", lambda store, job_id: acted.append("last"))
    job = job_of(tmp_path, verb)
    job.anyway = anyway
    if end == "refused":
        with pytest.raises(Ended) as ended:
            begin.begin_change(job, Facts())
        assert (ended.value.exit_code, ended.value.anyway, ended.value.verdict.code) == (12, "storage-hung", code)
        assert (ended.value.verdict.evidence[0], acted) == ("thread 7 waits", [])
    else:
        begin.begin_change(job, Facts())
        assert (acted, "anna asked for the verb anyway" in " ".join(job.warnings)) == (
            ["last", "chain"],
            end == "warns",
        )


def test_a_thread_that_stays_in_one_sleep_is_stuck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has run meanwhile is only slow, and one that has just begun to wait proves nothing."""
    process = tmp_path / "proc/7"

    def show(**threads: tuple[str, int]) -> None:
        for name, (state, switches) in threads.items():
            task = process / f"task/{name[1:]}"
            task.mkdir(parents=True, exist_ok=True)
            (task / "wchan").write_text("folio_wait_bit")
            counts = f"voluntary_ctxt_switches:\t{switches}\nnonvoluntary_ctxt_switches:\t1\n"
            (task / "status").write_text(f"Name:\tCPU {name[1:]}/KVM\nState:\t{state} (x)\n{counts}")

    show(t7=("S", 1), t8=("D", 5), t9=("D", 5), t10=("S", 5))
    (process / "stat").write_text(f"7 (kvm) S {'0 ' * 20}")
    later = {"t7": ("S", 2), "t8": ("D", 5), "t9": ("D", 6), "t10": ("D", 6), "t11": ("D", 1)}
    monkeypatch.setattr("time.sleep", lambda _: show(**later))
    [reply] = on_host._watch_threads(Host(102, str(tmp_path)), 7, 2.0)
    assert reply.facts["stuck"] == ["thread 8 (CPU 8/KVM) waits uninterruptibly in folio_wait_bit"]
    assert reply.facts["threads"] == "SDDDD"


def test_a_cycle_is_advised_where_it_would_work() -> None:
    """A start needs a quorum, and an /etc/pve that answers."""
    views = (Cluster(quorate=True), Cluster(), Cluster("pmxcfs-dead", quorate=True))
    assert [_advise_cycle(view, "x")[1] for view in views] == ["cycle", "", ""]
