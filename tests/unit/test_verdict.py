"""The verdict: every row of the state-to-action table, from evidence as a capture records it. Nothing runs here."""

import json
from dataclasses import replace
from typing import Any

from breakglass.agents.pve.forensics.evidence import Evidence, Queue, parse_evidence
from breakglass.agents.pve.forensics.obstacles import TROUBLES
from breakglass.agents.pve.forensics.verdict import quick_verdict, verdict_of
from breakglass.agents.pve.words import MUTATING

from ..support.rows import each_row


def sample(inuse: int, used: int, disk: str = "virtio0", number: int = 0) -> tuple[Queue, ...]:
    return (Queue(disk, number, inuse, used),)


RUNNING = Evidence("running", "pid 4242; QMP says running", 4242, "SSSSR", seconds=2.0, cpu=0.02)
WEDGED = Evidence("wedged", "pid 4242; QMP is silent: the monitor did not answer in time", 4242, "SSSRS", seconds=2.0)
IDLE = replace(RUNNING, queues=(sample(0, 8812), sample(0, 8812)))
MOVING = replace(RUNNING, queues=(sample(1, 8812), sample(1, 9023)))
FROZEN = replace(RUNNING, queues=(sample(3, 8812), sample(3, 8812)))
STUCK = ("thread 4250 (worker) waits uninterruptibly in rpc_wait_bit_killable",)
STOPPED = Evidence("stopped", "no pid file")
GUEST_HUNG = "guest-hung", "reset"

ROWS = {
    "io-error": (Evidence("io-error", disk_errors=("virtio0: nospace",)), "qemu-io-error", "start"),
    "paused": (Evidence("paused"), "qemu-paused", "start"),
    "prelaunch": (Evidence("prelaunch"), "qemu-paused", "start"),
    "paused by a backup": (Evidence("paused", lock="backup"), "paused-locked", ""),
    "paused by a task": (Evidence("paused", owners=("lock-102.conf is held by 77 (qm)",)), "paused-locked", ""),
    "paused by a dead backup": (Evidence("paused", lock="backup", lock_alive=False), "qemu-paused", "start"),
    "paused by a dead task": (Evidence("paused", lock="snapshot", lock_alive=False), "paused-locked", ""),
    "migrating": (Evidence("finish-migrate", lock="migrate"), "in-transit", ""),
    "internal error": (Evidence("internal-error"), "qemu-internal-error", "reset"),
    "panicked": (Evidence("guest-panicked"), "qemu-guest-panicked", "reset"),
    "watchdog": (Evidence("watchdog"), "qemu-watchdog", "reset"),
    "shut down": (Evidence("shutdown"), "qemu-shutdown", "cycle"),
    "suspended": (Evidence("suspended"), "qemu-suspended", ""),
    "debugged": (Evidence("debug"), "qemu-debug", ""),
    "idle or hung": (IDLE, "guest-silent", ""),
    "disks not watched": (RUNNING, "guest-silent", ""),
    "one sample only": (replace(RUNNING, queues=(sample(3, 8812),)), "guest-silent", ""),
    "a request came just now": (replace(RUNNING, queues=(sample(0, 8812), sample(1, 8812))), "guest-silent", ""),
    "moving": (MOVING, "healthy", ""),
    "idle, agent answers": (replace(IDLE, agent="answers"), "healthy", ""),
    "idle, agent frozen": (replace(IDLE, agent="frozen"), "guest-frozen", ""),
    "moving, agent frozen": (replace(MOVING, agent="frozen"), "guest-frozen", ""),
    "frozen by a backup": (replace(IDLE, agent="frozen", lock="backup", lock_alive=True), "guest-frozen", ""),
    "frozen, no quorum": (replace(IDLE, agent="frozen", quorate=False), "guest-frozen", ""),
    "idle, agent silent": (replace(IDLE, agent="silent"), "guest-silent", ""),
    "moving, agent silent": (replace(MOVING, agent="silent"), "guest-hung", "reset"),
    "moving, agent silent, a backup": (replace(MOVING, agent="silent", lock="backup"), "guest-silent", ""),
    "moving, agent silent, a dead backup": (
        replace(MOVING, agent="silent", lock="backup", lock_alive=False),
        "guest-hung",
        "reset",
    ),
    "disk frozen": (replace(FROZEN, seconds=1.5), "disk-frozen", "cycle"),
    "disk frozen, storage silent": (replace(FROZEN, late_commands=("lvs", "pvesm")), "disk-frozen", "cycle"),
    "disk frozen, its own storage dead": (replace(FROZEN, dead_storages=("nas",)), "storage-hung", ""),
    "wedged, its own storage dead": (replace(WEDGED, dead_storages=("nas",)), "qemu-wedged", ""),
    "wedged, another storage away": (replace(WEDGED, late_commands=("pvesm",)), "qemu-wedged", "cycle"),
    "thread in D, QMP answers": (replace(FROZEN, stuck=STUCK, threads="SSSDS"), "storage-hung", ""),
    "thread in D, QMP silent": (replace(WEDGED, stuck=STUCK, threads="SSSDS", seconds=1.5), "storage-hung", ""),
    "thread in D for a moment, QMP silent": (replace(WEDGED, threads="SSSDS"), "qemu-wedged", ""),
    "thread in D, watched too briefly": (replace(WEDGED, stuck=STUCK, threads="SSDS", seconds=0.5), "qemu-wedged", ""),
    "disk watched too briefly": (replace(FROZEN, seconds=0.5), "guest-silent", ""),
    "QEMU wedged": (WEDGED, "qemu-wedged", "cycle"),
    "QEMU stopped by a signal": (replace(WEDGED, threads="TTTT"), "qemu-wedged", "cycle"),
    "stopped": (STOPPED, "qemu-stopped", "start"),
    "stopped, locked": (replace(STOPPED, lock="backup"), "stopped-locked", ""),
    "stopped, a task runs": (replace(STOPPED, owners=("lock-102.conf is held by 77 (qm)",)), "stopped-locked", ""),
    "stopped, its task dead": (replace(STOPPED, lock="backup", lock_alive=False), "stopped-locked", ""),
    "asleep on disk": (replace(STOPPED, lock="suspended"), "qemu-stopped", "start"),
    "on another node": (replace(STOPPED, node="pve2"), "other-node", ""),
    "stopped, HA in error": (replace(STOPPED, ha="started", ha_seen="error"), "ha-stuck", ""),
    "stopped by HA": (replace(STOPPED, ha="stopped", ha_seen="stopped"), "qemu-stopped", "start"),
    "stopped, something left": (replace(STOPPED, leftovers=(4242,)), "leftover", ""),
    "stopped, being started": (replace(STOPPED, starter=77, owners=("held by 77",)), "stopped-locked", ""),
    "stopped, a task runs, asleep on disk": (
        replace(STOPPED, lock="suspended", owners=("lock-102.conf is held by 77 (task UPID:pve:qmstart:102)",)),
        "stopped-locked",
        "",
    ),
    "stopped, pmxcfs hangs": (replace(STOPPED, pve="pmxcfs-hung"), "pmxcfs-hung", ""),
    "stopped, pmxcfs not there": (replace(STOPPED, pve="pmxcfs-not-mounted"), "pmxcfs-not-mounted", ""),
    "stopped, pmxcfs dead": (replace(STOPPED, pve="pmxcfs-dead"), "pmxcfs-dead", ""),
    "stopped, no quorum": (replace(STOPPED, quorate=False), "no-quorum", ""),
    "stopped, something left, pmxcfs hangs": (replace(STOPPED, leftovers=(1,), pve="pmxcfs-hung"), "leftover", ""),
    "stopped, a quorum": (replace(STOPPED, quorate=True, config=True), "qemu-stopped", "start"),
    "stopped, no configuration": (replace(STOPPED, quorate=True, config=False), "no-config", ""),
    "moving, pmxcfs hangs": (replace(MOVING, pve="pmxcfs-hung"), "pmxcfs-hung", ""),
    "idle, pmxcfs dead": (replace(IDLE, pve="pmxcfs-dead"), "pmxcfs-dead", ""),
    "idle, no quorum": (replace(IDLE, quorate=False), "no-quorum", ""),
    "hung, pmxcfs hangs": (replace(MOVING, agent="silent", pve="pmxcfs-hung"), "guest-hung", "reset"),
    "hung, no quorum": (replace(MOVING, agent="silent", quorate=False), "guest-hung", "reset"),
    "hung, migrating": (replace(MOVING, agent="silent", lock="migrate"), "guest-hung", ""),
    "hung, under a dead snapshot": (replace(MOVING, agent="silent", lock="snapshot", lock_alive=False), *GUEST_HUNG),
    "disk frozen, pmxcfs hangs": (replace(FROZEN, pve="pmxcfs-hung"), "disk-frozen", ""),
    "disk frozen, no quorum": (replace(FROZEN, quorate=False), "disk-frozen", ""),
    "disk frozen, backup": (replace(FROZEN, lock="backup", lock_alive=True), "backup-starves", ""),
    "disk frozen, a backup's lock": (replace(FROZEN, lock="backup"), "disk-frozen", ""),
    "disk frozen, a dead backup": (replace(FROZEN, lock="backup", lock_alive=False), "disk-frozen", ""),
    "disk frozen, a dead backup's job in QEMU": (
        replace(FROZEN, lock="backup", lock_alive=False, block_jobs=("backup on virtio0",)),
        "backup-starves",
        "",
    ),
    "disk frozen, a mirror": (replace(FROZEN, block_jobs=("mirror on virtio0",)), "disk-frozen", "cycle"),
    "disk frozen, its own storage dead, backup": (
        replace(FROZEN, dead_storages=("nas",), lock="backup", lock_alive=True),
        "storage-hung",
        "",
    ),
    "disk frozen, HA stuck": (replace(FROZEN, ha="started", ha_seen="freeze"), "disk-frozen", ""),
    "disk frozen, a stop runs": (
        replace(FROZEN, owners=("held by 77 (task UPID:x:qmstop:102:)",)),
        "disk-frozen",
        "cycle",
    ),
    "disk frozen, a start runs": (
        replace(FROZEN, owners=("held by 77 (task UPID:x:qmstart:102:)",)),
        "disk-frozen",
        "",
    ),
    "wedged, pmxcfs not there": (replace(WEDGED, pve="pmxcfs-not-mounted"), "qemu-wedged", ""),
    "wedged by a signal, no quorum": (replace(WEDGED, threads="TTTT", quorate=False), "qemu-wedged", ""),
    "shut down, no quorum": (Evidence("shutdown", quorate=False), "qemu-shutdown", ""),
    "panicked, pmxcfs hangs": (Evidence("guest-panicked", pve="pmxcfs-hung"), "qemu-guest-panicked", "reset"),
    "panicked, on another node": (Evidence("guest-panicked", node="pve2"), "qemu-guest-panicked", ""),
    "io-error, pmxcfs hangs": (Evidence("io-error", pve="pmxcfs-hung"), "qemu-io-error", "start"),
    "io-error, a live snapshot": (Evidence("io-error", lock="snapshot"), "qemu-io-error", ""),
    "paused, pmxcfs hangs": (Evidence("paused", pve="pmxcfs-hung"), "qemu-paused", ""),
    "paused, no quorum": (Evidence("paused", quorate=False), "qemu-paused", "start"),
    "stuck, the monitor fell silent": (
        replace(FROZEN, stuck=STUCK, threads="SSSDS", queue_seconds=0.5),
        "storage-hung",
        "",
    ),
    "frozen for half a second, threads watched for longer": (replace(FROZEN, queue_seconds=0.5), "guest-silent", ""),
    "not known": (Evidence("unknown", "pid 4242 (/proc did not answer)"), "not-determined", ""),
    "a word of a later QEMU": (Evidence("hibernating"), "not-determined", ""),
}


@each_row("row", ROWS)
def test_each_row_has_its_verdict(row: str) -> None:
    """The row has its code and advised verb. The stored evidence gives the same verdict."""
    seen, code, advice = ROWS[row]
    verdict = verdict_of(seen)
    assert (verdict.code, verdict.advice) == (code, advice)
    assert verdict.advice in ("", *MUTATING)
    assert verdict_of(parse_evidence(json.loads(json.dumps(seen.as_json())))) == verdict


def test_a_frozen_disk_is_told_in_one_sentence_with_its_proof() -> None:
    """The sentence says how many requests wait, since when, and the fix. The evidence is the queue itself."""
    verdict = verdict_of(FROZEN)
    assert verdict.sentence == (
        "QEMU answers, 3 disk requests are in flight and none completed in 2 s: a reset won't help, so cycle it"
    )
    assert verdict.evidence == ("virtio0 queue 0: 3, then 3 in flight; 0 completed in 2.0 s",)


def test_a_queue_that_moves_clears_its_disk() -> None:
    """A request that waits while others complete is only slow. Progress on another disk proves nothing."""
    slow = (*sample(1, 50), *sample(1, 90, number=1))
    later = (*sample(1, 50), *sample(1, 95, number=1))
    assert verdict_of(replace(RUNNING, queues=(slow, later))).code == "healthy"
    two = (*sample(2, 50), *sample(1, 90, "scsi0", 2))
    later = (*sample(2, 50), *sample(1, 95, "scsi0", 2))
    assert verdict_of(replace(RUNNING, queues=(two, later))).code == "disk-frozen"


def test_a_counter_that_wraps_has_moved() -> None:
    """The queue's counter has 16 bits."""
    verdict = verdict_of(replace(RUNNING, queues=(sample(1, 65530), sample(1, 4))))
    assert (verdict.code, "10 completed" in "".join(verdict.evidence)) == ("healthy", True)


def test_a_process_that_is_stuck_is_never_cycled() -> None:
    """The evidence names the thread and the place where it waits."""
    verdict = verdict_of(replace(WEDGED, stuck=STUCK, threads="SSSDS"))
    assert "don't reset or cycle" in verdict.sentence
    assert verdict.evidence[0] == STUCK[0]


@each_row("state", ["running", "wedged", "paused", "io-error", "stopped", "guest-panicked", "unknown"])
def test_the_quick_verdict_promises_no_more_than_the_state(state: str) -> None:
    """A status never says healthy, and never advises a power verb, because it has not looked inside the VM."""
    verdict = quick_verdict(Evidence(state, "its source"))
    assert verdict.code != "healthy"
    assert verdict.advice != "cycle"
    assert (verdict.advice == "forensics") == (state in ("wedged", "paused"))  # a task may keep it paused


def test_a_dead_tasks_lock_is_told_from_a_live_ones() -> None:
    """The sentence says whether to unlock by hand or to wait."""
    dead = replace(STOPPED, lock="backup", lock_alive=False, lock_owner=("vzdump is gone", "by hand: qm unlock 102, …"))
    assert "by a task that is dead: unlock it by hand, then start" in verdict_of(dead).sentence
    assert "by hand: qm unlock 102, …" in verdict_of(dead).evidence
    assert "check whether its task still runs" in verdict_of(replace(dead, lock_alive=True)).sentence
    assert (
        "another process works on it"
        in verdict_of(replace(dead, owners=("lock-102.conf is held by 77 (qm)",))).sentence
    )


def test_what_proxmox_knows_stands_among_the_proof() -> None:
    """The evidence has HA's intention, pending options, and at its end the earlier events and changes."""
    seen = replace(FROZEN, ha="started", ha_seen="started", pending=("memory",), before=("before",), changes=("then",))
    assert verdict_of(seen).evidence[-4:] == (
        "HA manages it: requested started, now started; when QEMU ends, HA starts it again here or on another node",
        "options that take effect only after a cycle: memory",
        "before",
        "then",
    )
    assert verdict_of(replace(FROZEN, ha="ignored")).evidence[-1] == "HA: ignored, so it leaves the VM alone"
    assert "qm status says running" in verdict_of(Evidence("unknown", qm_says="running")).evidence


# --- obstacles to a verb ---


@each_row("code", TROUBLES)
def test_what_etc_pve_lacks_is_named_with_its_cure(code: str) -> None:
    """If it is hung, not mounted or dead, the sentence says which, and the evidence has the fix."""
    what, cure = TROUBLES[code]
    for seen in (STOPPED, IDLE, MOVING, FROZEN, WEDGED, replace(MOVING, agent="silent")):
        verdict = verdict_of(replace(seen, pve=code))
        assert verdict.evidence[-2:] == (what, cure)
        assert "nothing is wrong" not in verdict.sentence
    assert what.partition(":")[0] in verdict_of(replace(IDLE, pve=code)).sentence
    assert "systemctl restart pve-cluster" in cure


def test_a_lost_quorum_is_named_with_what_still_works() -> None:
    """The VM continues to run. Only a new process is refused."""
    verdict = verdict_of(replace(MOVING, quorate=False))
    assert "a cycle would be refused because this node has no quorum" in verdict.sentence
    assert any(line.startswith("by hand: pvecm status") for line in verdict.evidence)


def test_a_verb_that_would_be_refused_is_not_advised() -> None:
    """The sentence says what refuses it and what to do first."""
    sentence = verdict_of(replace(FROZEN, quorate=False)).sentence
    assert "in 2 s; a cycle would be refused because this node has no quorum: restore the quorum" in sentence
    dead = verdict_of(replace(FROZEN, lock="backup", lock_alive=False))
    assert "the VM is locked (backup) by a dead task: unlock it by hand first" in dead.sentence


OWNER = ("vzdump of VM 102 by root@pam, process 77 works on it", "by hand: wait, or pvesh delete /nodes/pve/tasks/U")
GONE = ("the last such task, vzdump by root@pam, process 77, is gone: job errors", "by hand: qm unlock 102")
THAW = "run qm guest cmd 102 fsfreeze-thaw"
LATER = f"which freezes them briefly, so look again in a minute; if this lasts, {THAW}"
FREEZERS: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "nothing known": ({}, f"to thaw them, which loses nothing, {THAW}", ()),
    "a backup runs": ({"lock": "backup", "lock_alive": True, "lock_owner": OWNER}, f"a backup runs, {LATER}", OWNER),
    "a backup may run": ({"lock": "backup"}, f"a backup may run, {LATER}", ()),
    "its backup is dead": (
        {"lock": "backup", "lock_alive": False, "lock_owner": GONE},
        f"the backup that froze them is dead, so {THAW}",
        GONE,
    ),
    "its backup has ended": (
        {"config": True, "last_backup": "the last backup here, vzdump of VM 102, has ended: OK"},
        f"no backup works on the VM now, so {THAW}",
        ("the last backup here, vzdump of VM 102, has ended: OK",),
    ),
}


@each_row("name", FREEZERS)
def test_a_frozen_guest_is_thawed_by_hand(name: str) -> None:
    """The command has the VM's number; the lines say whose backup froze the guest, and whether that still runs."""
    more, end, whose = FREEZERS[name]
    verdict = verdict_of(replace(IDLE, agent="frozen", vmid=102, **more))
    assert verdict.sentence == f"the guest's file systems are frozen, so each service that writes waits; {end}"
    lock = (f"lock: {more['lock']}",) if "lock" in more else ()
    assert verdict.evidence[: 1 + len(lock) + len(whose)] == ("by hand: qm guest cmd 102 fsfreeze-thaw", *lock, *whose)


@each_row(
    ("more", "command"),
    [
        ({"lock": "backup", "lock_alive": True, "lock_owner": OWNER}, OWNER[1]),
        ({"block_jobs": ("backup on virtio0",)}, "by hand: wait, or qm monitor 102, and enter backup_cancel there"),
    ],
)
def test_a_backup_that_starves_the_guest_is_ended_by_hand(more: dict[str, Any], command: str) -> None:
    """The disks look frozen, but a cycle does not help, so the command comes first."""
    verdict = verdict_of(replace(FROZEN, vmid=102, **more))
    assert verdict.sentence == (
        "QEMU answers, 3 disk requests are in flight and none completed in 2 s, while a backup runs: wait, or end the "
        "backup by the first command below"
    )
    assert verdict.evidence[0] == command


def test_a_start_at_work_is_named_by_its_process() -> None:
    """The start's QEMU is not a leftover, so no command kills it."""
    verdict = verdict_of(replace(STOPPED, starter=77, owners=("lock-102.conf is held by 77 (task UPID:qmstart)",)))
    assert verdict.sentence == "the VM is being started, by process 77: look again when that process has ended"


def test_what_is_left_of_a_stopped_vm_has_name_state_and_cure() -> None:
    """For a process that can be killed, the fix is to kill it. One that waits in the kernel needs the storage."""
    left = replace(STOPPED, leftovers=(123, 77), remains=("swtpm, process 123, state S", "kvm, process 77, state D"))
    verdict = verdict_of(left)
    assert "repair the host's storage, or reboot the host if you can't" in verdict.sentence
    assert verdict.evidence == (
        "left in the VM's scope: swtpm, process 123, state S",
        "left in the VM's scope: kvm, process 77, state D",
        "no signal ends a process in state D: repair the host's storage, or reboot the host",
        "by hand: kill 123, and kill -9 if that is not enough; then start",
    )
    verdict = verdict_of(replace(STOPPED, leftovers=(123,), remains=("swtpm, process 123, state S",)))
    assert verdict.sentence.endswith("did not end, so a start would fail: kill it by hand first")


def test_storages_are_told_apart() -> None:
    """If the storage of one of the VM's disks is dead, the verdict says so. A late check of all is only noted."""
    verdict = verdict_of(replace(FROZEN, dead_storages=("nas",), late_commands=("pvesm", "lvs")))
    assert "storage nas, which has disks of this VM, does not answer" in verdict.evidence
    late = verdict_of(replace(WEDGED, dead_storages=("nas",), late_storages=("nas: gave no answer in 9.1 s",)))
    assert "storage nas, which has disks of this VM, gave no answer in 9.1 s" in late.evidence
    sentence = "no answer in time: pvesm, lvs; these ask all storages of the host"
    assert f"{sentence}, so this proves nothing about this VM" in verdict.evidence
    assert "nas" in verdict_of(replace(WEDGED, dead_storages=("nas",))).sentence


LONG = "x" * 300


@each_row(
    "more",
    [
        {},
        {"pve": "pmxcfs-dead"},
        {"quorate": False},
        {"node": LONG},
        {"lock": LONG},
        {"lock": LONG, "lock_alive": False},
        {"ha": "started", "ha_seen": "freeze"},
        {"ha": "started", "ha_seen": LONG},
        {"owners": (f"held by {LONG}",)},
        {"leftovers": tuple(range(100000, 100100)), "remains": (LONG,)},
        {"dead_storages": (LONG, "nas")},
        {"agent": "silent", "lock": "backup", "quorate": False},
        {"state": LONG, "qm_says": LONG, "source": LONG},
    ],
)
def test_a_sentence_is_short(more: dict[str, Any]) -> None:
    """It has at most 200 characters, whatever the host's text is. A longer one is cut between two words."""
    everything = [replace(seen, **more) for seen, _, _ in ROWS.values()]
    for verdict in (judge(seen) for seen in everything for judge in (verdict_of, quick_verdict)):
        assert len(verdict.sentence) <= 200
        assert len(verdict.why) <= 110
        assert verdict.advice in ("", "forensics", *MUTATING)


@each_row("row", ROWS)
def test_no_ordinary_sentence_is_cut(row: str) -> None:
    """The limit is for the host's texts. Our own sentences fit into it."""
    for more in (
        {},
        {"pve": "pmxcfs-not-mounted"},
        {"quorate": False},
        {"lock": "snapshot-delete", "lock_alive": False},
    ):
        assert not verdict_of(replace(ROWS[row][0], **more)).sentence.endswith("…")
