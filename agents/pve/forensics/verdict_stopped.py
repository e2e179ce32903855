"""The verdict on a VM that is stopped. Pure."""

from ..host.ha import ha_stuck
from ..host.process import leftover_lines
from ..jobs.result import Verdict
from ..words import CONTAINER, CONTAINER_SENTENCE, PLACE_UNKNOWN
from .advice import advise_nothing, advise_verb
from .evidence import Evidence
from .obstacles import pve_cure, pve_obstacle
from .outlook import ha_outlook
from .proof import count_noun, host_lines, lock_lines, optional_line


def judge_stopped(seen: Evidence) -> Verdict:
    """Return the verdict on a stopped VM: advise a start unless an obstacle is known."""
    source, lines = optional_line(seen.source), (*lock_lines(seen), *host_lines(seen))
    if seen.leftovers:
        return _judge_leftover(seen)
    if seen.container:
        return advise_nothing(seen, CONTAINER, CONTAINER_SENTENCE, "/etc/pve/.vmlist says lxc")
    if seen.node:
        sentence = f"the VM is on node {seen.node} now and not on this one: look there"
        lines = (f"/etc/pve/.vmlist names {seen.node}", *_outlook_lines(seen), *source)
        return advise_nothing(seen, "other-node", sentence, *lines)
    if seen.placeless:
        sentence = f"no process of the VM is on this node, and {pve_obstacle(seen)}: another node may have the VM"
        return advise_nothing(seen, PLACE_UNKNOWN, sentence, pve_cure(seen), *source)
    if away := pve_obstacle(seen):
        code = seen.pve or "no-quorum"
        sentence = f"the VM is stopped, and a start would be refused because {away}: {pve_cure(seen)} first"
        return advise_nothing(seen, code, sentence, *lines)
    if seen.config is False:
        return advise_nothing(seen, "no-config", "the VM is stopped and has no configuration on any node", *source)
    if ha_stuck(seen.ha, seen.ha_seen):
        sentence = (
            f"the VM is stopped and HA starts nothing in state {seen.ha_seen}: see ha-manager status before a start"
        )
        return advise_nothing(seen, "ha-stuck", sentence, *host_lines(seen), *lock_lines(seen))
    if seen.lock == "suspended" and not seen.owners:
        return advise_verb(seen, "stopped", "the VM is suspended to disk", "start resumes it", "start", *lines)
    if seen.lock or seen.owners:
        return advise_nothing(seen, "stopped-locked", _locked_sentence(seen), *lines)
    return advise_verb(seen, "stopped", "the VM is stopped", "start it", "start", *source, *host_lines(seen))


def _outlook_lines(seen: Evidence) -> tuple[str, ...]:
    """Return what HA will do with a VM on another node; without a quorum this node's copy of HA's state is old."""
    if seen.quorate is False:
        return ("this node has no quorum, so it can't tell what HA does with the VM",)
    return optional_line(ha_outlook(seen.ha, seen.ha_seen, seen.node, seen.node_seen, seen.ha_goal))


def _judge_leftover(seen: Evidence) -> Verdict:
    """Judge leftover processes: one that waits in the kernel needs the storage, any other can be killed."""
    left = count_noun(len(seen.leftovers), "process")
    if not seen.remains or any(", state D" in line for line in seen.remains):
        cure = "mend the host's storage, or reboot the host if you can't"
    else:
        cure = f"kill {'it' if len(seen.leftovers) == 1 else 'them'} by hand first"
    sentence = f"the VM is stopped and {left} of it did not end, so a start would fail: {cure}"
    return advise_nothing(seen, "leftover", sentence, *leftover_lines(seen.leftovers, seen.remains))


def _locked_sentence(seen: Evidence) -> str:
    if seen.owners:
        return "the VM is stopped and another process works on it: wait until that process has ended, then start"
    if seen.lock_alive is False:
        return f"the VM is stopped and locked ({seen.lock}) by a task that is dead: unlock it by hand, then start"
    return f"the VM is stopped and locked ({seen.lock}): check whether its task still runs before a start"
