"""The verdict: every row of the state-to-action table, from evidence as a capture records it. Nothing runs here."""

import json
from dataclasses import replace
from itertools import product
from typing import Any

from breakglass.agents.pve.forensics.evidence import Evidence, Queue, parse_evidence
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
ASLEEP = replace(FROZEN, stuck=STUCK, threads="SSSDS")
TWO_QUEUES = ((*sample(1, 50), *sample(1, 90, number=1)), (*sample(1, 50), *sample(1, 95, number=1)))
TWO_DISKS = ((*sample(2, 50), *sample(1, 90, "scsi0")), (*sample(2, 50), *sample(1, 95, "scsi0")))
STOPPED = Evidence("stopped", "no pid file")
GUEST_HUNG = "guest-hung", "reset"
TASKS = {name: (f"held by 77 (task UPID:x:{name}:102:)",) for name in ("qmstart", "qmstop")}
STARTS = ("lock-102.conf is held by 77 (task UPID:pve:qmstart:102)",)
DEAD_BACKUP: dict[str, Any] = {"lock": "backup", "lock_alive": False}
HA_DEAD: dict[str, Any] = {"ha": "started", "ha_seen": "started", "ha_dead": "pve-ha-lrm is dead"}

ROWS = {
    "io-error": (Evidence("io-error", disk_errors=("virtio0: nospace",)), "qemu-io-error", "start"),
    "paused": (Evidence("paused"), "qemu-paused", "start"),
    "prelaunch": (Evidence("prelaunch"), "qemu-paused", "start"),
    "paused by a backup": (Evidence("paused", lock="backup"), "paused-locked", ""),
    "paused by a task": (Evidence("paused", owners=("lock-102.conf is held by 77 (qm)",)), "paused-locked", ""),
    "paused by a dead backup": (Evidence("paused", **DEAD_BACKUP), "qemu-paused", "start"),
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
    "moving, agent silent, a dead backup": (replace(MOVING, agent="silent", **DEAD_BACKUP), "guest-hung", "reset"),
    "one request frozen": (replace(RUNNING, queues=(sample(1, 8812), sample(1, 8812))), "disk-frozen", "cycle"),
    "disk frozen": (replace(FROZEN, seconds=1.5), "disk-frozen", "cycle"),
    "disk frozen, storage silent": (replace(FROZEN, late_commands=("lvs", "pvesm")), "disk-frozen", "cycle"),
    "disk frozen, its own storage dead": (replace(FROZEN, dead_storages=("nas",)), "storage-hung", ""),
    "wedged, its own storage dead": (replace(WEDGED, dead_storages=("nas",)), "qemu-wedged", ""),
    "wedged, another storage away": (replace(WEDGED, late_commands=("pvesm",)), "qemu-wedged", "cycle"),
    "thread in D, QMP answers": (ASLEEP, "storage-hung", ""),
    "thread in D, QMP silent": (replace(WEDGED, stuck=STUCK, threads="SSSDS", seconds=1.5), "storage-hung", ""),
    "thread in D for a moment, QMP silent": (replace(WEDGED, threads="SSSDS"), "qemu-wedged", ""),
    "thread in D, watched too briefly": (replace(WEDGED, stuck=STUCK, threads="SSDS", seconds=0.5), "qemu-wedged", ""),
    "disk watched too briefly": (replace(FROZEN, seconds=0.5), "guest-silent", ""),
    "QEMU wedged": (WEDGED, "qemu-wedged", "cycle"),
    "QEMU stopped by a signal": (replace(WEDGED, threads="TTTT"), "qemu-wedged", "cycle"),
    "stopped": (STOPPED, "qemu-stopped", "start"),
    "stopped, locked": (replace(STOPPED, lock="backup"), "stopped-locked", ""),
    "stopped, a task runs": (replace(STOPPED, owners=("lock-102.conf is held by 77 (qm)",)), "stopped-locked", ""),
    "stopped, its task dead": (replace(STOPPED, **DEAD_BACKUP), "stopped-locked", ""),
    "asleep on disk": (replace(STOPPED, lock="suspended"), "qemu-stopped", "start"),
    "on another node": (replace(STOPPED, node="pve2"), "other-node", ""),
    "stopped, HA in error": (replace(STOPPED, ha="started", ha_seen="error"), "ha-stuck", ""),
    "stopped by HA": (replace(STOPPED, ha="stopped", ha_seen="stopped"), "qemu-stopped", "start"),
    "stopped, something left": (replace(STOPPED, leftovers=(4242,)), "leftover", ""),
    "stopped, being started": (replace(STOPPED, starter=77, owners=("held by 77",)), "stopped-locked", ""),
    "stopped, a task runs, asleep on disk": (replace(STOPPED, lock="suspended", owners=STARTS), "stopped-locked", ""),
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
    "disk frozen, a dead backup": (replace(FROZEN, **DEAD_BACKUP), "disk-frozen", ""),
    "disk frozen, a dead backup's job in QEMU": (
        replace(FROZEN, **DEAD_BACKUP, block_jobs=("backup on virtio0",)),
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
    "disk frozen, a stop runs": (replace(FROZEN, owners=TASKS["qmstop"]), "disk-frozen", "cycle"),
    "disk frozen, a start runs": (replace(FROZEN, owners=TASKS["qmstart"]), "disk-frozen", ""),
    "wedged, pmxcfs not there": (replace(WEDGED, pve="pmxcfs-not-mounted"), "qemu-wedged", ""),
    "wedged by a signal, no quorum": (replace(WEDGED, threads="TTTT", quorate=False), "qemu-wedged", ""),
    "shut down, no quorum": (Evidence("shutdown", quorate=False), "qemu-shutdown", ""),
    "panicked, pmxcfs hangs": (Evidence("guest-panicked", pve="pmxcfs-hung"), "qemu-guest-panicked", "reset"),
    "panicked, on another node": (Evidence("guest-panicked", node="pve2"), "qemu-guest-panicked", ""),
    "io-error, pmxcfs hangs": (Evidence("io-error", pve="pmxcfs-hung"), "qemu-io-error", "start"),
    "io-error, a live snapshot": (Evidence("io-error", lock="snapshot"), "qemu-io-error", ""),
    "paused, pmxcfs hangs": (Evidence("paused", pve="pmxcfs-hung"), "qemu-paused", ""),
    "paused, no quorum": (Evidence("paused", quorate=False), "qemu-paused", "start"),
    "stuck, the monitor fell silent": (replace(ASLEEP, queue_seconds=0.5), "storage-hung", ""),
    "frozen for half a second, threads watched for longer": (replace(FROZEN, queue_seconds=0.5), "guest-silent", ""),
    "one queue of its disk moves": (replace(RUNNING, queues=TWO_QUEUES), "healthy", ""),
    "another disk moves": (replace(RUNNING, queues=TWO_DISKS), "disk-frozen", "cycle"),
    "the queue's counter of 16 bits wraps": (replace(RUNNING, queues=(sample(1, 65530), sample(1, 4))), "healthy", ""),
    "stopped, HA dead": (replace(STOPPED, **HA_DEAD), "ha-stuck", ""),
    "wedged, HA dead": (replace(WEDGED, **HA_DEAD), "qemu-wedged", ""),
    "panicked, HA dead": (replace(Evidence("guest-panicked"), **HA_DEAD), "qemu-guest-panicked", "reset"),
    "agent answers, HA dead": (replace(RUNNING, agent="answers", **HA_DEAD), "ha-stuck", ""),
    "not known": (Evidence("unknown", "pid 4242 (/proc did not answer)"), "not-determined", ""),
    "a word of a later QEMU": (Evidence("hibernating"), "not-determined", ""),
}


# What a status says of a state that it has not looked into. Of any other state, it says what a capture says.
AT_ONCE = {
    "running": ("qemu-running", ""),
    "wedged": ("qemu-wedged", "forensics"),
    **dict.fromkeys(("paused", "prelaunch"), ("qemu-paused", "forensics")),
}


@each_row("row", ROWS)
def test_each_row_has_its_verdict(row: str) -> None:
    """The row has its code and advised verb, in a status too. The stored evidence gives the same verdict."""
    seen, code, advice = ROWS[row]
    verdict, quick = verdict_of(seen), quick_verdict(seen)
    assert (verdict.code, verdict.advice) == (code, advice)
    assert (quick.code, quick.advice) == AT_ONCE.get(seen.state, (code, advice))
    assert verdict.advice in ("", *MUTATING)
    assert verdict_of(parse_evidence(json.loads(json.dumps(seen.as_json())))) == verdict


@each_row("state", ["error", "freeze", "fence", "recovery", "migrate", "relocate"])
def test_no_start_is_advised_that_ha_would_not_do(state: str) -> None:
    for requested, judge in product(("started", "stopped"), (verdict_of, quick_verdict)):
        verdict = judge(replace(STOPPED, ha=requested, ha_seen=state))
        assert (verdict.code, verdict.advice) == ("ha-stuck", "")


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
