"""The obstacles that are certain to refuse a verb now, read from evidence, so that no such verb is advised. Pure.

The rules are those of power/preflight.py and power/locked.py. A fact that is missing in the evidence is not an
obstacle.
"""

from ..host.vm_config import ha_stuck
from .evidence import Evidence
from .outlook import HA_CURE

# The ways in which pmxcfs, the file system on /etc/pve, can fail, each with its symptom and its cure.
_RESTART = (
    "by hand: systemctl restart pve-cluster; that restarts only the file system on /etc/pve; running VMs and their "
    "disks are not touched"
)
TROUBLES = {
    "pmxcfs-hung": ("/etc/pve does not answer: pmxcfs hangs", _RESTART),
    "pmxcfs-not-mounted": ("/etc/pve is not mounted: pmxcfs does not run", _RESTART),
    "pmxcfs-dead": (
        "/etc/pve has lost its server, pmxcfs: transport endpoint is not connected",
        f"{_RESTART}; if that fails, run umount -l /etc/pve and restart pve-cluster again",
    ),
}

DEAD_HA = f"HA does nothing with the VM now: {HA_CURE}"
NO_QUORUM = "this node has no quorum"
# Tasks and commands that release the VM's lock file once QEMU has ended.
_END_WITH_QEMU = ("qmstop", "qmshutdown", "qmreboot", "qm stop", "qm shutdown", "qm reboot", "qm cleanup")


def obstacle_to(verb: str, evidence: Evidence) -> str:
    """Return the obstacle that is certain to refuse `verb` now, and what to do first; empty without one."""
    if verb == "cycle" or (verb == "start" and evidence.state == "stopped"):
        return _obstacle_to_new_process(evidence) or _blocking_lock(evidence, () if verb == "cycle" else ("suspended",))
    if verb == "start":
        return _on_other_node(evidence) or _blocking_lock(evidence, ("backup", "suspended"))
    if verb == "reset":
        return _on_other_node(evidence) or (
            "" if evidence.lock_alive is False else _blocking_lock(evidence, ("backup", "suspended"))
        )
    return ""


def pve_obstacle(evidence: Evidence) -> str:
    """Return why no VM can start because of /etc/pve; empty if VMs can start."""
    if evidence.pve:
        return TROUBLES.get(evidence.pve, ("/etc/pve does not answer", ""))[0].partition(":")[0]
    return NO_QUORUM if evidence.quorate is False else ""


def pve_cure(evidence: Evidence) -> str:
    """Return the cure of that obstacle as an instruction."""
    return "run systemctl restart pve-cluster" if evidence.pve else "restore the quorum (see pvecm status)"


def _obstacle_to_new_process(evidence: Evidence) -> str:
    if away := pve_obstacle(evidence):
        return f"{away}: {pve_cure(evidence)} first"
    if elsewhere := _on_other_node(evidence):
        return elsewhere
    if evidence.config is False:
        return "the VM's configuration is on no node"
    if evidence.ha_dead:
        return f"HA does nothing now: {HA_CURE} first"
    if ha_stuck(evidence.ha, evidence.ha_seen):
        return f"HA starts nothing in state {evidence.ha_seen}: see ha-manager status first"
    others = [owner for owner in evidence.owners if not any(word in owner for word in _END_WITH_QEMU)]
    return "a task works on the VM: wait for that task, or end it" if others else ""


def dead_ha_clause(evidence: Evidence) -> str:
    """Return the clause that says that HA does nothing with the VM, why, and the cure."""
    return f"HA does nothing with the VM now, because {evidence.ha_dead}; {HA_CURE}"


def _on_other_node(evidence: Evidence) -> str:
    return f"its configuration is on node {evidence.node}: look there" if evidence.node else ""


def _blocking_lock(evidence: Evidence, harmless: tuple[str, ...]) -> str:
    if not evidence.lock or evidence.lock in harmless:
        return ""
    if evidence.lock_alive is False:
        return f"the VM is locked ({evidence.lock}) by a dead task: unlock it by hand first"
    return f"the VM is locked ({evidence.lock}): first check whether its task runs"
