"""What HA does with a VM, in words: both with a VM on this node and with a VM on another node. Pure.

tests/data/ha_status.txt has the sentence for each state, and ha_sources.txt the lines of pve-ha-manager behind it.
"""

from ..host.vm_config import AT_REST, MOVING, ha_manages, ha_restarts, ha_stuck

HA_CURE = "run systemctl start pve-ha-crm pve-ha-lrm"
_FROZEN = "HA leaves the VM as it is until HA is armed again, or the node's pve-ha-lrm runs again"


def ha_line(requested: str, state: str, dead: str = "") -> str:
    """Return one line on HA, empty where it does not manage the VM; `dead` is why HA acts on no request."""
    if requested == "disarmed":
        return "HA is disarmed (ignore), so it leaves every VM alone until it is armed again"
    if not ha_manages(requested):
        return "HA: ignored, so it leaves the VM alone" if requested else ""
    follows = _what_follows_dead(requested, dead) if dead else _what_follows(requested, state)
    return f"HA manages it: requested {requested}, now {state or 'not known'}; {follows}"


def _what_follows_dead(requested: str, dead: str) -> str:
    then = "stops the VM if it runs" if requested in AT_REST else "starts the VM if it is off"
    return f"HA does nothing now, because {dead}; once HA works again, HA {then}"


def _what_follows(requested: str, state: str) -> str:
    if state == "error":
        return "HA does nothing with the VM until you disable the resource"
    if state == "freeze":
        return _FROZEN
    if state in ("fence", "recovery"):
        return f"HA fences the node that had the VM, and then {_after_fencing(requested)}"
    if state in MOVING:
        return "HA is moving the VM to another node, and forgets any request that comes during the move"
    if ha_restarts(requested, state):
        return "when QEMU ends, HA starts it again here or on another node"
    return "HA stops the VM if it runs, and it stays off until a person or tool tells HA to start it"


def _after_fencing(requested: str) -> str:
    if requested in AT_REST:
        return "gives the VM to another node and leaves it stopped"
    return "starts the VM on another node that its rules allow"


def ha_outlook(requested: str, state: str, node: str, node_seen: str, goal: str = "", dead: str = "") -> str:
    """Return what HA will do with a VM that `node` has; empty if HA's manager has not seen that node.

    Args:
        requested: as in `ha_line`.
        state: the VM's state in HA's manager.
        node: the other node.
        node_seen: that node's state in HA's manager.
        goal: the node to which HA moves the VM, or to which it moves the VM back after that node's maintenance.
        dead: why HA acts on no request.
    """
    if requested == "disarmed":
        return f"HA is disarmed (ignore), so the VM stays on node {node} until HA is armed again"
    if not ha_manages(requested):
        return f"HA does not manage the VM, so the VM stays on node {node} even while that node is down"
    if dead:
        return f"HA does nothing now, because {dead}; until HA works again, the VM stays on node {node} as it is"
    if state == "error":
        return "HA has given the VM up (error) and does nothing with it until you disable the resource"
    if state == "freeze":
        return _FROZEN
    if state == "recovery":
        return f"node {node} has been fenced; HA {_after_fencing(requested)}, as soon as one is online"
    if requested == "disabled" and state == "stopped":
        return f"the VM is disabled in HA, so it stays on node {node} even while that node is down"
    if state == "fence" or node_seen == "fence":
        return f"HA fences node {node}; about two minutes after it lost the node, HA {_after_fencing(requested)}"
    if node_seen in ("unknown", "gone"):
        then = f"and about two minutes after it lost the node, HA {_after_fencing(requested)}"
        return f"HA sees node {node} as {node_seen}: after 60 s offline HA fences it, {then}"
    return _outlook_online(requested, state, node, node_seen, "" if goal == node else goal)


def _outlook_online(requested: str, state: str, node: str, node_seen: str, goal: str) -> str:
    if state in MOVING:
        return f"HA is moving the VM from node {node} to {f'node {goal}' if goal else 'another node'}"
    if node_seen == "maintenance":
        if requested in AT_REST:
            return f"node {node} is in maintenance, and HA leaves the stopped VM there"
        return f"node {node} is in maintenance: HA moves the VM to another node that its rules allow"
    if goal:
        return f"HA moves the VM back from node {node} to node {goal} when maintenance of node {goal} is over"
    if requested in AT_REST and state != "stopped":
        return f"HA is stopping the VM on node {node}"
    if state in ("request_stop", "stopped") and requested not in AT_REST:
        return f"the VM is stopped on node {node}, or is being stopped; HA then starts it"
    kept = "keeps the VM running there unless a rule, a rebalancing or a person moves it"
    do = "leaves the VM stopped there" if requested in AT_REST else kept
    return f"HA sees node {node} as {node_seen}, and {do}" if node_seen else ""


def ha_proof(vmid: int, requested: str, state: str, dead: str = "") -> tuple[str, ...]:
    """Return the line on HA, and what a person can do about it."""
    return (ha_line(requested, state, dead), *ha_by_hand(vmid, requested, state, dead))


def ha_by_hand(vmid: int, requested: str, state: str, dead: str = "") -> tuple[str, ...]:
    """Return what a person at the host can do about HA, as lines; the host agent never runs them."""
    if not ha_manages(requested):
        return ()
    sid = f"vm:{vmid}"
    direct = f"for direct control, run ha-manager set {sid} --state ignored, and afterwards --state {requested}"
    if dead:
        return (f"by hand: systemctl start pve-ha-crm pve-ha-lrm, then ha-manager status; {direct}",)
    if state == "error":
        change = f"ha-manager set {sid} --state"
        return (f"by hand: {change} disabled, fix the cause, then {change} started",)
    if ha_stuck(requested, state):
        return ("by hand: ha-manager status, and wait until HA has finished",)
    return (f"by hand: ha-manager status; {direct}",)
