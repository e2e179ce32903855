"""The verdict: every row of the state-to-action table, from evidence as a capture records it. Nothing runs here."""

import json
from dataclasses import replace

import pytest

from agents.pve.evidence import Evidence, Queue, evidence_from
from agents.pve.verdict import quick_verdict, verdict_of
from agents.pve.words import MUTATING


def sample(inuse: int, used: int, disk: str = "virtio0", number: int = 0) -> tuple[Queue, ...]:
    return (Queue(disk, number, inuse, used),)


RUNNING = Evidence("running", "pid 4242; QMP says running", 4242, "SSSSR", seconds=2.0, cpu=0.02)
WEDGED = Evidence("wedged", "pid 4242; QMP is silent: the monitor did not answer in time", 4242, "SSSRS", seconds=2.0)
IDLE = replace(RUNNING, queues=(sample(0, 8812), sample(0, 8812)))
MOVING = replace(RUNNING, queues=(sample(1, 8812), sample(1, 9023)))
FROZEN = replace(RUNNING, queues=(sample(3, 8812), sample(3, 8812)))
STUCK = ("thread 4250 (worker) waits uninterruptibly in rpc_wait_bit_killable",)
STOPPED = Evidence("stopped", "no pid file")

ROWS = {
    "io-error": (Evidence("io-error", disk_errors=("virtio0: nospace",)), "io-error", "start"),
    "paused": (Evidence("paused"), "paused", "start"),
    "prelaunch": (Evidence("prelaunch"), "paused", "start"),
    "paused by a backup": (Evidence("paused", lock="backup"), "paused-locked", ""),
    "paused by a task": (Evidence("paused", owners=("lock-102.conf is held by 77 (qm)",)), "paused-locked", ""),
    "paused by a dead backup": (Evidence("paused", lock="backup", lock_alive=False), "paused", "start"),
    "paused by a dead task": (Evidence("paused", lock="snapshot", lock_alive=False), "paused-locked", ""),
    "migrating": (Evidence("finish-migrate", lock="migrate"), "in-transit", ""),
    "internal error": (Evidence("internal-error"), "internal-error", "reset"),
    "panicked": (Evidence("guest-panicked"), "guest-panicked", "reset"),
    "watchdog": (Evidence("watchdog"), "watchdog", "reset"),
    "shut down": (Evidence("shutdown"), "shutdown", "cycle"),
    "suspended": (Evidence("suspended"), "suspended", ""),
    "debugged": (Evidence("debug"), "debug", ""),
    "idle or hung": (IDLE, "guest-silent", ""),
    "disks not watched": (RUNNING, "guest-silent", ""),
    "one sample only": (replace(RUNNING, queues=(sample(3, 8812),)), "guest-silent", ""),
    "a request came just now": (replace(RUNNING, queues=(sample(0, 8812), sample(1, 8812))), "guest-silent", ""),
    "moving": (MOVING, "healthy", ""),
    "idle, agent answers": (replace(IDLE, agent="answers"), "healthy", ""),
    "idle, agent silent": (replace(IDLE, agent="silent"), "guest-silent", ""),
    "moving, agent silent": (replace(MOVING, agent="silent"), "guest-hung", "reset"),
    "moving, agent silent, a backup": (replace(MOVING, agent="silent", lock="backup"), "guest-silent", ""),
    "moving, agent silent, a dead backup": (
        replace(MOVING, agent="silent", lock="backup", lock_alive=False),
        "guest-hung",
        "reset",
    ),
    "disk frozen": (FROZEN, "disk-frozen", "cycle"),
    "disk frozen, storage silent": (replace(FROZEN, late_commands=("lvs", "pvesm")), "disk-frozen", "cycle"),
    "disk frozen, its own storage dead": (replace(FROZEN, dead_storages=("nas",)), "storage-hung", ""),
    "wedged, its own storage dead": (replace(WEDGED, dead_storages=("nas",)), "qemu-wedged", ""),
    "wedged, another storage away": (replace(WEDGED, late_commands=("pvesm",)), "qemu-wedged", "cycle"),
    "thread in D, QMP answers": (replace(FROZEN, stuck=STUCK, threads="SSSDS"), "storage-hung", ""),
    "thread in D, QMP silent": (replace(WEDGED, stuck=STUCK, threads="SSSDS"), "storage-hung", ""),
    "thread in D for a moment, QMP silent": (replace(WEDGED, threads="SSSDS"), "qemu-wedged", ""),
    "thread in D, watched too briefly": (replace(WEDGED, stuck=STUCK, threads="SSDS", seconds=0.5), "qemu-wedged", ""),
    "disk watched too briefly": (replace(FROZEN, seconds=0.5), "guest-silent", ""),
    "QEMU wedged": (WEDGED, "qemu-wedged", "cycle"),
    "QEMU stopped by a signal": (replace(WEDGED, threads="TTTT"), "qemu-wedged", "cycle"),
    "stopped": (STOPPED, "stopped", "start"),
    "stopped, locked": (replace(STOPPED, lock="backup"), "stopped-locked", ""),
    "stopped, a task runs": (replace(STOPPED, owners=("lock-102.conf is held by 77 (qm)",)), "stopped-locked", ""),
    "stopped, its task dead": (replace(STOPPED, lock="backup", lock_alive=False), "stopped-locked", ""),
    "asleep on disk": (replace(STOPPED, lock="suspended"), "stopped", "start"),
    "on another node": (replace(STOPPED, node="pve2"), "other-node", ""),
    "stopped, HA in error": (replace(STOPPED, ha="started", ha_seen="error"), "ha-stuck", ""),
    "stopped by HA": (replace(STOPPED, ha="stopped", ha_seen="stopped"), "stopped", "start"),
    "stopped, something left": (replace(STOPPED, leftovers=(4242,)), "leftover", ""),
    "not known": (Evidence("unknown", "pid 4242 (/proc did not answer)"), "unknown", ""),
    "a word of a later QEMU": (Evidence("hibernating"), "unknown", ""),
}


@pytest.mark.parametrize("row", ROWS)
def test_each_row_has_its_verdict(row: str) -> None:
    """The code and the advised verb; and the same from the evidence as it is kept."""
    seen, code, advice = ROWS[row]
    verdict = verdict_of(seen)
    assert (verdict.code, verdict.advice) == (code, advice)
    assert verdict.advice in ("", *MUTATING)
    assert verdict_of(evidence_from(json.loads(json.dumps(seen.as_json())))) == verdict


def test_a_frozen_disk_is_told_in_one_sentence_with_its_proof() -> None:
    """How many requests wait, since when, what helps; the proof is the queue itself."""
    verdict = verdict_of(FROZEN)
    assert verdict.sentence == (
        "QEMU answers, 3 disk requests are in flight and none completed in 2 s: a reset will not help, cycle it"
    )
    assert verdict.evidence == ("virtio0 queue 0: 3, then 3 in flight; 0 completed in 2.0 s",)


def test_a_queue_that_moves_clears_its_disk() -> None:
    """A request that waits beside completed ones is slow; another disk that moves clears nobody."""
    slow = (*sample(1, 50), *sample(1, 90, number=1))
    later = (*sample(1, 50), *sample(1, 95, number=1))
    assert verdict_of(replace(RUNNING, queues=(slow, later))).code == "healthy"
    two = (*sample(2, 50), *sample(1, 90, "scsi0", 2))
    later = (*sample(2, 50), *sample(1, 95, "scsi0", 2))
    assert verdict_of(replace(RUNNING, queues=(two, later))).code == "disk-frozen"


def test_a_counter_that_wraps_has_moved() -> None:
    """The queue's counter has 16 bits."""
    verdict = verdict_of(replace(RUNNING, queues=(sample(1, 65530), sample(1, 4))))
    assert (verdict.code, "10 completed" in verdict.evidence[0]) == ("healthy", True)


def test_a_process_that_is_stuck_is_never_cycled() -> None:
    """The proof names the thread and where it waits."""
    verdict = verdict_of(replace(WEDGED, stuck=STUCK, threads="SSSDS"))
    assert "don't cycle" in verdict.sentence
    assert verdict.evidence[0] == STUCK[0]


@pytest.mark.parametrize("state", ["running", "wedged", "paused", "io-error", "stopped", "guest-panicked", "unknown"])
def test_the_quick_verdict_promises_no_more_than_the_state(state: str) -> None:
    """A status never says healthy, and never advises to cut the power of what it has not looked into."""
    verdict = quick_verdict(Evidence(state, "its source"))
    assert verdict.code != "healthy"
    assert verdict.advice != "cycle"
    assert (verdict.advice == "forensics") == (state in ("wedged", "paused"))  # a task may keep it paused


def test_a_dead_tasks_lock_is_told_from_a_live_ones() -> None:
    """Unlock by hand, or wait: the sentence says which."""
    dead = replace(STOPPED, lock="backup", lock_alive=False, lock_owner=("vzdump is gone", "by hand: qm unlock 102, …"))
    assert "by a task that is dead: unlock it by hand, then start" in verdict_of(dead).sentence
    assert "by hand: qm unlock 102, …" in verdict_of(dead).evidence
    assert "see who works on it" in verdict_of(replace(dead, lock_alive=True)).sentence
    assert "see who works on it" in verdict_of(replace(dead, owners=("lock-102.conf is held by 77 (qm)",))).sentence


def test_what_proxmox_knows_stands_among_the_proof() -> None:
    """HA's intention before a cycle is decided on; staged options; how long nothing was written."""
    seen = replace(FROZEN, ha="started", ha_seen="started", pending=("memory",), quiet_minutes=14)
    assert verdict_of(seen).evidence[-3:] == (
        "HA manages it: requested started, now started; when QEMU ends, HA starts it again here or on another node",
        "options that only a cycle brings in: memory",
        "Proxmox's statistics know of no disk write for 14 min",
    )
    assert verdict_of(replace(FROZEN, ha="ignored")).evidence[-1] == "HA: ignored, so it leaves the VM alone"
    assert "qm status says running" in verdict_of(Evidence("unknown", qm_says="running")).evidence
