"""The verdict on a VM that runs, and on one that is stopped. Pure."""

from ..host.vm_config import ha_stuck
from ..jobs.result import WHY_CHARS, Verdict
from ..words import CONTAINER, CONTAINER_SENTENCE, PLACE_UNKNOWN
from .cures import find_cure
from .evidence import WATCHED_SECONDS, Evidence
from .heartbeat_rule import FRESH, LATE, LOST, heartbeat_lines, heartbeat_state, watch_lines
from .leftovers import leftover_lines
from .obstacles import DEAD_HA, dead_ha_clause, pve_cure, pve_obstacle
from .outlook import HA_CURE, ha_outlook
from .proof import (
    advise_nothing,
    advise_verb,
    compare_queues,
    count_noun,
    cpu_lines,
    frozen_disks,
    has_progress,
    host_lines,
    lock_lines,
    optional_line,
    queue_lines,
    storage_lines,
    thread_lines,
)
from .verdict_backup import is_backed_up, is_backup_at_work, judge_frozen, judge_starved_by_backup
from .verdict_guest import judge_guest

# --- The verdict on a VM whose QEMU answers and says running ---

_WELL = ("healthy", "guest-silent", "guest-alive")  # codes that are less urgent than trouble with /etc/pve or a dead HA
_TRY = "the host sees no fault, so try ssh, the network and the service"
_LOOK = "an idle guest looks the same as a hung one, so look at the console"


def judge_running(evidence: Evidence) -> Verdict:
    """Return the verdict on a running VM, by its disk requests and its guest agent."""
    held, disks = frozen_disks(evidence)
    if held:
        return _judge_requests(evidence, held, disks)
    verdict = _judge_no_requests(evidence)
    what, away = verdict.sentence.partition(":")[0], pve_obstacle(evidence)
    if verdict.code in _WELL and away:
        why = f"a cycle would be refused because {away}: {pve_cure(evidence)}"
        code = evidence.pve or "no-quorum"
        return Verdict(code, f"{what}; {why}", "", verdict.evidence, why, find_cure(why))
    if verdict.code in _WELL and evidence.ha_dead:
        sentence = f"{what}, but {dead_ha_clause(evidence)}"
        return Verdict("ha-stuck", sentence, "", verdict.evidence, DEAD_HA, find_cure(DEAD_HA))
    return verdict


def _judge_requests(evidence: Evidence, held: int, disks: set[str]) -> Verdict:
    """Judge disks that completed none of their requests in flight."""
    lines = (*queue_lines(evidence, disks), *storage_lines(evidence), *lock_lines(evidence), *host_lines(evidence))
    if evidence.watched < WATCHED_SECONDS:
        sentence = (
            f"QEMU answers with {count_noun(held, 'disk request')} in flight; {evidence.watched:.1f} s is too short to "
            "tell a slow disk from a frozen one: collect evidence"
        )
        why = f"{evidence.watched:.1f} s is too short to tell a slow disk from a frozen one: collect evidence"
        return advise_nothing(evidence, "guest-silent", sentence, *lines, why=why)
    if evidence.dead_storages:
        return judge_storage_hung(evidence, *lines)
    none = "it has not completed" if held == 1 else "none completed"
    what = (
        f"QEMU answers, {count_noun(held, 'disk request')} {'is' if held == 1 else 'are'} in flight and {none} in "
        f"{evidence.watched:.0f} s"
    )
    if is_backup_at_work(evidence):
        return judge_starved_by_backup(evidence, what, *lines)
    waits = f"{count_noun(held, 'disk request')} {'has' if held == 1 else 'have'} hung for {evidence.watched:.0f} s"
    why = f"{waits}: a reset won't help, so power-cycle it"
    return advise_verb(evidence, "disk-frozen", what, "a reset won't help, so cycle it", "cycle", *lines, why=why)


def judge_storage_hung(evidence: Evidence, *proof: str) -> Verdict:
    """Return the verdict that the VM's storage hangs, which forbids every verb that ends QEMU."""
    sentence = (
        "the VM's storage does not answer: repair the storage first; don't reset or cycle, because QEMU can't end and "
        "no start can follow until the storage answers"
    )
    lines = (*proof, *storage_lines(evidence), *optional_line(evidence.source), *thread_lines(evidence))
    why = "the VM's storage does not answer: repair it first; no reset or power-cycle can end before that"
    return advise_nothing(evidence, "storage-hung", sentence, *lines, why=why)


def _judge_no_requests(evidence: Evidence) -> Verdict:
    proof = (
        *heartbeat_lines(evidence),
        *watch_lines(evidence),
        *queue_lines(evidence),
        *cpu_lines(evidence),
        *storage_lines(evidence),
        *lock_lines(evidence),
        *host_lines(evidence),
    )
    if evidence.agent == "frozen":
        return judge_frozen(evidence, *proof)
    no_beat = heartbeat_state(evidence) in (LATE, LOST)  # a frozen file system does not stop the heartbeat
    if evidence.agent == "silent" and has_progress(evidence) and is_backed_up(evidence) and not no_beat:
        sentence = (
            "QEMU and its disks answer, but the guest agent does not, perhaps because of a backup: look "
            "again in a minute"
        )
        code = "guest-alive" if heartbeat_state(evidence) == FRESH else "guest-silent"
        why = "the guest agent is silent, perhaps because a backup freezes the guest: look again in a minute"
        return advise_nothing(evidence, code, sentence, *proof, why=why)
    if verdict := judge_guest(evidence, *proof):
        return verdict
    if evidence.agent == "answers":
        sentence = "QEMU and the guest agent answer, so the host sees no fault"
        return advise_nothing(evidence, "healthy", sentence, *proof, why=f"the guest agent answers, and {_TRY}")
    if evidence.agent == "silent" and has_progress(evidence):
        what = "QEMU answers and disk requests complete, but the guest agent does not"
        return advise_verb(evidence, "guest-hung", what, "try ssh, then reset it", "reset", *proof)
    if has_progress(evidence):
        sentence = "QEMU answers and disk requests complete, so the host sees no fault"
        return advise_nothing(evidence, "healthy", sentence, *proof, why=f"disk requests complete, and {_TRY}")
    sentence, why = _describe_silence(evidence)
    return advise_nothing(evidence, "guest-silent", sentence, *proof, why=why)


def _describe_silence(evidence: Evidence) -> tuple[str, str]:
    """Return the sentence about a guest that shows no sign of life, and its short form."""
    same = "so try ssh or its console: only an idle guest answers"
    if not compare_queues(evidence):
        unseen = "its disks can't be watched (not virtio)"
        return f"QEMU answers; {unseen}: {_LOOK}", f"{unseen}, {same}"
    is_silent = evidence.agent == "silent"
    agent = "; the guest agent does not answer" if is_silent else ""
    why = f"no disk request waits{' and the guest agent is silent' if is_silent else ''}, {same}"
    return f"QEMU answers and no disk request is waiting{agent}: {_LOOK}", why


# --- The verdict on a VM that is stopped ---


def judge_stopped(evidence: Evidence) -> Verdict:
    """Return the verdict on a stopped VM: advise a start unless an obstacle is known."""
    source, lines = optional_line(evidence.source), (*lock_lines(evidence), *host_lines(evidence))
    if evidence.leftovers:
        return _judge_leftover(evidence)
    if evidence.container:
        return advise_nothing(evidence, CONTAINER, CONTAINER_SENTENCE, "/etc/pve/.vmlist says lxc")
    if evidence.node:
        return _judge_elsewhere(evidence)
    if evidence.placeless:
        sentence = f"no process of the VM is on this node, and {pve_obstacle(evidence)}: another node may have the VM"
        why = f"{pve_obstacle(evidence)}, so another node may have the VM: {pve_cure(evidence)}"
        return advise_nothing(evidence, PLACE_UNKNOWN, sentence, pve_cure(evidence), *source, why=why)
    if away := pve_obstacle(evidence):
        code = evidence.pve or "no-quorum"
        why = f"a start would be refused because {away}: {pve_cure(evidence)} first"
        return advise_nothing(evidence, code, f"the VM is stopped, and {why}", *lines, why=why)
    if evidence.config is False:
        return advise_nothing(evidence, "no-config", "the VM is stopped and has no configuration on any node", *source)
    if evidence.ha_dead or ha_stuck(evidence.ha, evidence.ha_seen):
        state = f"in state {evidence.ha_seen}: see ha-manager status before a start"
        because = f"now, because one of its daemons does not work: {HA_CURE} first" if evidence.ha_dead else state
        why = f"HA starts nothing now: {HA_CURE} first" if evidence.ha_dead else ""
        sentence, lines = (
            f"the VM is stopped and HA starts nothing {because}",
            (*host_lines(evidence), *lock_lines(evidence)),
        )
        return advise_nothing(evidence, "ha-stuck", sentence, *lines, why=why)
    if evidence.lock == "suspended" and not evidence.owners:
        return advise_verb(evidence, "qemu-stopped", "the VM is suspended to disk", "start resumes it", "start", *lines)
    if evidence.lock or evidence.owners:
        return advise_nothing(evidence, "stopped-locked", _locked_sentence(evidence), *lines)
    return advise_verb(
        evidence, "qemu-stopped", "the VM is stopped", "start it", "start", *source, *host_lines(evidence)
    )


def _judge_elsewhere(evidence: Evidence) -> Verdict:
    """Judge a VM that another node has. If HA sees that node down, the sentence says what HA does, not "look there"."""
    outlook, node = _outlook_lines(evidence), evidence.node
    is_down = evidence.node_seen in ("unknown", "gone", "fence") or evidence.ha_seen in ("fence", "recovery")
    then = f"; {outlook[0]}" if outlook and is_down else ": look there"
    sentence = f"the VM is on node {node} now and not on {evidence.here or 'this one'}{then}"
    why = f"the VM is on node {node} now: look there"
    if outlook and is_down:
        later = f"node {node} has the VM and is down: HA fences it first, so look again in three minutes"
        why = outlook[0] if len(outlook[0]) <= WHY_CHARS else DEAD_HA if evidence.ha_dead else later
    lines = (f"/etc/pve/.vmlist names {node}", *outlook, *optional_line(evidence.source))
    return advise_nothing(evidence, "other-node", sentence, *lines, why=why)


def _outlook_lines(evidence: Evidence) -> tuple[str, ...]:
    """Return what HA will do with a VM on another node; without a quorum this node's copy of HA's state is old."""
    if evidence.quorate is False:
        return ("this node has no quorum, so it can't tell what HA does with the VM",)
    seen = (evidence.ha_seen, evidence.node, evidence.node_seen, evidence.ha_goal, evidence.ha_dead)
    return optional_line(ha_outlook(evidence.ha, *seen))


def _judge_leftover(evidence: Evidence) -> Verdict:
    """Judge leftover processes: one that waits in the kernel needs the storage, but any other can be killed."""
    left = count_noun(len(evidence.leftovers), "process")
    if not evidence.remains or any(", state D" in line for line in evidence.remains):
        cure = short = "repair the host's storage, or reboot the host if you can't"
    else:
        alone = len(evidence.leftovers) == 1
        cure = f"kill {'it' if alone else 'them'} by hand first"
        short = f"kill process {evidence.leftovers[0]} first" if alone else cure
    sentence = f"the VM is stopped and {left} of it did not end, so a start would fail: {cure}"
    why, lines = f"{left} of it did not end: {short}", leftover_lines(evidence.leftovers, evidence.remains)
    return advise_nothing(evidence, "leftover", sentence, *lines, why=why)


def _locked_sentence(evidence: Evidence) -> str:
    if evidence.starter:
        return f"the VM is being started, by process {evidence.starter}: look again when that process has ended"
    if evidence.owners:
        return "the VM is stopped and another process works on it: wait until that process has ended, then start"
    if evidence.lock_alive is False:
        return f"the VM is stopped and locked ({evidence.lock}) by a task that is dead: unlock it by hand, then start"
    return f"the VM is stopped and locked ({evidence.lock}): check whether its task still runs before a start"
