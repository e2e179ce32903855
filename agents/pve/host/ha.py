"""What HA will do with a VM, from the state that is requested and the state that its manager sees. Pure.

For a VM under HA `qm stop` and `qm start` only ask; the manager and the node's LRM act some ten seconds later. A QEMU
that ends while HA wants it started is started again, here or on another node. `ignored` is direct control.
"""

# Of `requested` (resources.cfg) and of `seen` (manager_status).
_HANDS_OFF = ("", "ignored", "disarmed")
_AT_REST = ("stopped", "disabled")
_STUCK = ("error", "freeze", "fence", "recovery")


def ha_manages(requested: str) -> bool:
    """Tell whether `qm stop` and `qm start` only ask HA."""
    return requested not in _HANDS_OFF


def ha_restarts(requested: str, seen: str) -> bool:
    """Tell whether HA would start the VM again, or move it, when its QEMU ends."""
    return ha_manages(requested) and requested not in _AT_REST and seen not in ("error", "request_stop")


def ha_stuck(requested: str, seen: str) -> bool:
    """Tell whether HA ignores requests now, so that no start can follow a stop."""
    return ha_manages(requested) and seen in _STUCK


def ha_line(requested: str, seen: str) -> str:
    """Return one line on HA, empty where it does not manage the VM."""
    if requested == "disarmed":
        return "HA is disarmed (ignore): it leaves every VM alone until it is armed again"
    if not ha_manages(requested):
        return "HA: ignored, so it leaves the VM alone" if requested else ""
    known = f"HA manages it: requested {requested}, now {seen or 'not known'}"
    if seen == "error":
        return f"{known}; HA does nothing with the VM until you disable the resource"
    if seen in _STUCK:
        return f"{known}; HA does nothing with the VM in this state"
    if ha_restarts(requested, seen):
        return f"{known}; when QEMU ends, HA starts it again here or on another node"
    return f"{known}; the VM stays off until a person or tool tells HA to start it"


def ha_by_hand(vmid: int, requested: str, seen: str) -> tuple[str, ...]:
    """Return what a person at the host can do about HA, as lines; the host agent never runs them."""
    if not ha_manages(requested):
        return ()
    sid = f"vm:{vmid}"
    if seen == "error":
        change = f"ha-manager set {sid} --state"
        return (f"by hand: {change} disabled, mend the cause, then {change} started",)
    if seen in _STUCK:
        return ("by hand: ha-manager status, and wait until HA has finished with the node",)
    return (
        f"by hand: ha-manager status; for direct control ha-manager set {sid} --state ignored, and afterwards "
        f"--state {requested}",
    )
