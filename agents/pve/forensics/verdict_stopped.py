"""The verdict on a VM that is stopped. Pure."""

from ..host.ha import ha_stuck
from ..host.process import leftover_lines
from ..jobs.result import Verdict
from ..words import CONTAINER, CONTAINER_SENTENCE, PLACE_UNKNOWN
from .advice import advise_nothing, advise_verb
from .evidence import Evidence
from .obstacles import pve_cure, pve_obstacle
from .outlook import HA_CURE, ha_outlook
from .proof import count_noun, host_lines, lock_lines, optional_line


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
        return advise_nothing(evidence, PLACE_UNKNOWN, sentence, pve_cure(evidence), *source)
    if away := pve_obstacle(evidence):
        code = evidence.pve or "no-quorum"
        sentence = f"the VM is stopped, and a start would be refused because {away}: {pve_cure(evidence)} first"
        return advise_nothing(evidence, code, sentence, *lines)
    if evidence.config is False:
        return advise_nothing(evidence, "no-config", "the VM is stopped and has no configuration on any node", *source)
    if evidence.ha_dead or ha_stuck(evidence.ha, evidence.ha_seen):
        state = f"in state {evidence.ha_seen}: see ha-manager status before a start"
        why = f"now, because one of its daemons does not work: {HA_CURE} first" if evidence.ha_dead else state
        sentence = f"the VM is stopped and HA starts nothing {why}"
        return advise_nothing(evidence, "ha-stuck", sentence, *host_lines(evidence), *lock_lines(evidence))
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
    lines = (f"/etc/pve/.vmlist names {node}", *outlook, *optional_line(evidence.source))
    return advise_nothing(evidence, "other-node", sentence, *lines)


def _outlook_lines(evidence: Evidence) -> tuple[str, ...]:
    """Return what HA will do with a VM on another node; without a quorum this node's copy of HA's state is old."""
    if evidence.quorate is False:
        return ("this node has no quorum, so it can't tell what HA does with the VM",)
    seen = (evidence.ha_seen, evidence.node, evidence.node_seen, evidence.ha_goal, evidence.ha_dead)
    return optional_line(ha_outlook(evidence.ha, *seen))


def _judge_leftover(evidence: Evidence) -> Verdict:
    """Judge leftover processes: one that waits in the kernel needs the storage, any other can be killed."""
    left = count_noun(len(evidence.leftovers), "process")
    if not evidence.remains or any(", state D" in line for line in evidence.remains):
        cure = "mend the host's storage, or reboot the host if you can't"
    else:
        cure = f"kill {'it' if len(evidence.leftovers) == 1 else 'them'} by hand first"
    sentence = f"the VM is stopped and {left} of it did not end, so a start would fail: {cure}"
    return advise_nothing(evidence, "leftover", sentence, *leftover_lines(evidence.leftovers, evidence.remains))


def _locked_sentence(evidence: Evidence) -> str:
    if evidence.starter:
        return f"the VM is being started, by process {evidence.starter}: look again when that process has ended"
    if evidence.owners:
        return "the VM is stopped and another process works on it: wait until that process has ended, then start"
    if evidence.lock_alive is False:
        return f"the VM is stopped and locked ({evidence.lock}) by a task that is dead: unlock it by hand, then start"
    return f"the VM is stopped and locked ({evidence.lock}): check whether its task still runs before a start"
