"""What HA will do with a VM, from the state that is requested and the state that its manager sees. Pure.

For a VM under HA `qm stop` and `qm start` only ask; the manager and the node's LRM act some ten seconds later. A QEMU
that ends while HA wants it started is started again, here or on another node. `ignored` is direct control. docs/ha.md
has every state, and the lines of pve-ha-manager behind each rule.
"""

HA_SERVICES = ("pve-ha-crm", "pve-ha-lrm")
# Of `requested` (resources.cfg) and of `state` (manager_status).
_HANDS_OFF = ("", "ignored", "disarmed")
AT_REST = ("stopped", "disabled")
MOVING = ("migrate", "relocate", "request_start_balance")
UNDER_WAY = ("migrate", "relocate", "fence", "recovery")  # HA completes these before it is disarmed
_STUCK = ("error", "freeze", "fence", "recovery", *MOVING)
# In these states HA forgets a request to stop a VM that it wants to run, and starts the VM afterwards.
_DEAF = ("stopped", "request_start", "request_stop", "freeze", "fence", "recovery")


def ha_manages(requested: str) -> bool:
    """Tell whether `qm stop` and `qm start` only ask HA."""
    return requested not in _HANDS_OFF


def ha_restarts(requested: str, state: str) -> bool:
    """Tell whether HA would start the VM again, or move it, when its QEMU ends."""
    return ha_manages(requested) and requested not in AT_REST and state != "error"


def ha_stuck(requested: str, state: str) -> bool:
    """Tell whether HA acts on no request now, so that no start can follow a stop."""
    return ha_manages(requested) and state in _STUCK


def ha_drops_stop(requested: str, state: str) -> bool:
    """Tell whether HA would forget a request to stop the VM, so that the VM runs on, or again."""
    return (ha_manages(requested) and state in MOVING) or (ha_restarts(requested, state) and state in _DEAF)
