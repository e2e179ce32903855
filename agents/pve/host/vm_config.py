"""What Proxmox's files say of a VM: its configuration, and what HA will do with it. Pure."""

import re

# --- Reads a VM's configuration text: options, pending options, the time that a start may take.
#
# Pure: cluster.py reads the file.
#
# The format is qemu-server's (QemuConfig.pm, parse_vm_config): `key: value` lines, then sections in square brackets,
# of which [PENDING] has the options that wait for a new QEMU process and the others are snapshots.

START_BASE_SECONDS = 30.0
SUSPENDED_SECONDS = 300.0
HUGEPAGES_SECONDS = 150.0
HUGEPAGES_LOCK_SECONDS = 60.0
NIC_SECONDS = 5.0
DEFAULT_MEMORY_MIB = 512

_OPTION_LINE = re.compile(r"([a-z][a-z_0-9]*):\s*(.*)")


def current_options(text: str) -> dict[str, str]:
    """Return the options in force, which come before the first section."""
    return _options_in(_sections(text).get("", []))


def pending_options(text: str) -> list[str]:
    """Return the names of the options that wait for a new QEMU process, set or deleted, as `qm pending` shows them."""
    pending = _options_in(_sections(text).get("PENDING", []))
    deleted = re.split(r"[,;\s]+", pending.pop("delete", ""))
    return [*pending, *(name.lstrip("!") for name in deleted if name)]


def start_seconds(text: str) -> tuple[float, list[str]]:
    """Return how long Proxmox waits for QEMU to start, in seconds, and the reasons why that is more than usual.

    A start applies the pending options, unless an earlier stop has applied them. The longer of the two possible times
    is returned.
    """
    current = current_options(text)
    pending = _options_in(_sections(text).get("PENDING", []))
    deleted = pending_options(text)
    applied = {name: value for name, value in current.items() if name not in deleted} | pending
    return max(_start_seconds(current), _start_seconds(applied))


def _start_seconds(options: dict[str, str]) -> tuple[float, list[str]]:
    """Compute that time as qemu-server 9.2.6 does (Helpers.pm, config_aware_timeout)."""
    why = []
    seconds = START_BASE_SECONDS
    if (memory := _memory_mib(options)) > 30 * 1024:
        seconds = float(memory // 1024)
        why.append(f"{memory // 1024} GiB of memory")
    if any(re.fullmatch("hostpci[0-9]+", name) for name in options):
        seconds *= 4
        why.append("passed-through PCI devices")
    if options.get("lock") == "suspended":
        seconds = max(seconds, SUSPENDED_SECONDS)
        why.append("it resumes from disk")
    if options.get("hugepages"):
        seconds = max(seconds, HUGEPAGES_SECONDS) + HUGEPAGES_LOCK_SECONDS
        why.append("hugepages")
    if cards := sum(bool(re.fullmatch("net[0-9]+", name)) for name in options):
        seconds += cards * NIC_SECONDS
        why.append(f"{cards} network cards" if cards > 1 else "a network card")
    return seconds, why


def _memory_mib(options: dict[str, str]) -> int:
    words = dict(word.partition("=")[::2] for word in options.get("memory", "").split(","))
    value = words.get("current") or options.get("memory", "").partition(",")[0]
    return int(value) if value.isdecimal() else DEFAULT_MEMORY_MIB


def _sections(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in text.splitlines():
        if header := re.fullmatch(r"\[([^]]+)\]\s*", line):
            name = header[1]
            found.setdefault(name, [])
        else:
            found[name].append(line)
    return found


def _options_in(lines: list[str]) -> dict[str, str]:
    return {match[1]: match[2].strip() for line in lines if (match := _OPTION_LINE.fullmatch(line))}


# --- What HA will do with a VM, from the state that is requested and the state that its manager sees. Pure ---
#
# For a VM under HA `qm stop` and `qm start` only ask HA; its manager and the node's LRM act ten seconds later. A
# QEMU that ends while HA wants it started is started again, here or on another node. In the state `ignored`, HA does
# nothing. docs/ha.md has every state, and the lines of pve-ha-manager behind each rule.

HA_SERVICES = ("pve-ha-crm", "pve-ha-lrm")
# Values of `requested` (resources.cfg) and of `state` (manager_status).
_HANDS_OFF = ("", "ignored", "disarmed")
AT_REST = ("stopped", "disabled")
MOVING = ("migrate", "relocate", "request_start_balance")
UNDER_WAY = ("migrate", "relocate", "fence", "recovery")  # HA completes these before it is disarmed
_STUCK = ("error", "freeze", "fence", "recovery", *MOVING)
# In these states HA forgets a request to stop a VM that it wants to run, and then starts the VM.
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
    """Tell whether HA would forget a request to stop the VM, so that the VM keeps running, or starts again."""
    return (ha_manages(requested) and state in MOVING) or (ha_restarts(requested, state) and state in _DEAF)
