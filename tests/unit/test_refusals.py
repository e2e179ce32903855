"""What refuses a power verb at its last moment: the lock of a task, and evidence of a storage that hangs."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from breakglass.agents.pve.forensics import on_host
from breakglass.agents.pve.forensics.evidence import Evidence
from breakglass.agents.pve.host.cluster import Cluster
from breakglass.agents.pve.host.paths import Host, boottime
from breakglass.agents.pve.host.process import process_ticks
from breakglass.agents.pve.host.pve_tasks import find_lock_owner
from breakglass.agents.pve.host.vmstate import Facts
from breakglass.agents.pve.jobs.job import Job
from breakglass.agents.pve.jobs.result import Ended
from breakglass.agents.pve.jobs.store import JobStore, Record
from breakglass.agents.pve.power.begin import begin_change
from breakglass.agents.pve.power.locked import refuse_reset, refuse_resume
from breakglass.agents.pve.power.preflight import refuse_unexpected, refuse_unstartable
from breakglass.agents.pve.power.verbs import _advise_cycle, _refuse_cycle, _refuse_stop

from ..support.rows import each_row
from ..support.stages import until
from .test_verdict import FROZEN, RUNNING, STUCK


def job_of(root: Path, verb: str) -> Job:
    host = Host(102, str(root))
    return Job(host, JobStore(host), Record("id", verb, "anna", "", "", 0.0, "", 0, 0))


# --- locks ---

ENDED = "UPID:pve1:00000001:00000007:6743E000:qmstart:103:root@pam: 1 6743E100 OK"


def task_index(root: Path, *lines: str) -> None:
    tasks = root / "var/log/pve/tasks"
    tasks.mkdir(parents=True)
    (tasks / "index").write_text("\n".join(lines))


def own_task(kind: str, vmid: str) -> str:
    """Return the UPID of a task whose process is this one."""
    return f"UPID:pve1:{(pid := os.getpid()):08X}:{process_ticks(pid):08X}:6743E000:{kind}:{vmid}:root@pam:"


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
    **{("snapshot", alive): "locked locked locked locked locked locked" for alive in (True, None)},
    ("snapshot", False): "locked locked locked locked warns warns",
}


@pytest.mark.slow
@each_row("row", LOCKS)
def test_each_lock_refuses_what_could_harm_its_task(row: tuple[str, bool | None], tmp_path: Path) -> None:
    """The table of docs/host-agent.md, with its paragraph on locks. Without the index, no task is called dead."""
    lock, alive = row
    if alive is not None:
        task_index(
            tmp_path, ENDED, *([own_task("vzdump" if lock == "backup" else "qmsnapshot", "102")] if alive else [])
        )
    found = []
    for name, check in CHECKS.items():
        job = job_of(tmp_path, name.partition(" ")[0])
        try:
            check(job, Cluster(quorate=True, config=True, lock=lock))
            found.append("warns" if job.warnings else "acts")
        except Ended as ended:
            found.append(ended.verdict.code)
    assert " ".join(found) == LOCKS[row]


def test_no_task_that_may_run_elsewhere_is_called_dead(tmp_path: Path) -> None:
    """Only a dead task's lock may be unlocked by hand, so no other evidence has the command."""
    task_index(tmp_path, ENDED)
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
        ("snapshot", "qmsnapshot", "102", True),
        ("clone", "qmclone", "103", True),
        ("unheard-of", "qmmove", "102", True),
    ],
)
def test_a_task_that_runs_has_the_locks_of_its_kind(
    lock: str, task: str, vmid: str, alive: bool, tmp_path: Path
) -> None:
    """A backup of several VMs names none of them, and the task of a clone has the number of its source."""
    task_index(tmp_path, ENDED, own_task(task, vmid))
    assert find_lock_owner(Host(102, str(tmp_path)), lock).alive is alive


@pytest.mark.usefixtures("own_tasks")
def test_a_vzdump_without_a_upid_may_have_set_the_lock_of_a_backup(tmp_path: Path) -> None:
    """A person has begun it in a shell, and another has just ended. It sets no other lock."""
    task_index(tmp_path, ENDED)
    (vzdump := tmp_path / "vzdump").symlink_to("/bin/sleep")
    with subprocess.Popen([vzdump, "60"]) as ended, subprocess.Popen([vzdump, "60"]) as process:
        line = tmp_path / f"proc/{process.pid}/cmdline"
        line.parent.mkdir(parents=True)
        line.write_text("vzdump\x00102")
        comm = Path(f"/proc/{process.pid}/comm")
        until(lambda: comm.read_text() == "vzdump\n", "the name, which exec sets after it has closed subprocess's pipe")
        owners = [find_lock_owner(Host(102, str(tmp_path)), lock).alive for lock in ("backup", "snapshot")]
        ended.kill()
        process.kill()
    assert owners == [True, False]


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

HUNG = replace(RUNNING, stuck=STUCK, threads="SSSDS")


@each_row(
    ("verb", "anyway", "seen", "end"),
    [
        ("reset", "", HUNG, "refused"),
        ("cycle", "", HUNG, "refused"),
        ("cycle", "would-not-start", HUNG, "refused"),
        ("reset", "storage-hung", HUNG, "warns"),
        ("cycle", "storage-hung", HUNG, "warns"),
        ("stop", "", HUNG, "acts"),
        ("start", "", HUNG, "acts"),
        ("cycle", "", FROZEN, "acts"),
    ],
)
def test_evidence_of_a_hung_storage_refuses_a_reset_and_a_cycle(
    verb: str, anyway: str, seen: Evidence, end: str, tmp_path: Path
) -> None:
    """QEMU could not end, and no start could follow. A refused job is not the last one, and is not in the chain.

    The evidence comes from a capture of a moment ago.
    """
    job = job_of(tmp_path, verb)
    job.store.prepare()
    capture = Path(job.store.path("capture"))
    capture.mkdir()
    (capture / "evidence.json").write_text(json.dumps({"evidence": seen.as_json()}))
    note = {"job": "capture", "boottime": boottime(), "pid": None}
    (tmp_path / "run/breakglass/102/evidence.json").write_text(json.dumps(note))
    job.anyway = anyway
    if end == "refused":
        with pytest.raises(Ended) as ended:
            begin_change(job, Facts())
        verdict = ended.value.verdict
        assert (ended.value.exit_code, ended.value.anyway, verdict.code) == (12, "storage-hung", "storage-hung")
        assert (STUCK[0] in verdict.evidence, job.store.last, job.is_chained) == (True, "none", False)
    else:
        begin_change(job, Facts())
        assert (job.store.last, job.is_chained) == ("id", True)
        assert ("anna asked" in " ".join(job.warnings)) is (end == "warns")


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
    [stuck] = cast(list[str], reply.facts["stuck"])
    assert (stuck.split()[:2], stuck.split()[-1]) == (["thread", "8"], "folio_wait_bit")
    assert reply.facts["threads"] == "SDDDD"


def test_a_cycle_is_advised_where_it_would_work() -> None:
    """A start needs a quorum, and an /etc/pve that answers."""
    views = (Cluster(quorate=True), Cluster(), Cluster("pmxcfs-dead", quorate=True))
    assert [_advise_cycle(view, "x")[1] for view in views] == ["cycle", "", ""]
