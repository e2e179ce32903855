"""How long Proxmox takes, as one table of the original's seconds, and how long this host takes.

`<root>/scale` holds the divisor for all of them; without that file it is 1. A test then runs a whole night in seconds,
in proportion. `<root>/cost` holds the seconds of processor time that each command uses before it does anything, as
Perl does; without that file it is 0.
"""

import time

SECONDS = {
    # qemu-server 9.2.6: QemuConfig's lock_config; QMPClient.pm; QemuServer.pm, _do_vm_stop; CLI/qm.pm, cleanup
    "flock": 10.0,
    "qmp": 5.0,  # every QMP command without its own limit
    "qmp-status": 3.0,  # vmstatus, with a silent monitor
    "qmp-quit": 60.0,
    "stop": 60.0,  # from an answered quit or ACPI request to the end of the process, without --timeout
    "sigterm": 10.0,
    "sigkill": 1.0,  # and no second look
    "look": 1.0,  # between two looks at a process that must end, and at a silent worker
    "cleanup-flock": 60.0,
    "cleanup": 30.0,  # qmeventd's `qm cleanup` beside a QEMU that runs, inside the flock
    "cleanup-warns": 10.0,
    "systemd": 20.8,  # a start while something is left in the scope: measured; the source says 20
    "start": 30.0,  # Helpers.pm, config_aware_timeout, for up to 30 GiB of memory
    "start-suspended": 300.0,
    "start-hugepages": 150.0,
    "start-nic": 5.0,
    # pve-common 9.2.1: RESTEnvironment.pm
    "kill-group": 5.0,
    # pve-storage 9.1.7: NFSPlugin.pm gives showmount 10 s
    "storage": 10.0,
}

# Live processes need this machine's own time, which does not scale. These are the shortest waits for them.
LEAST_FOR_QMP = 0.5  # of a QEMU that a signal has stopped
LEAST_FOR_QEMU = 10.0  # to put itself into the background, to answer, and to end when it is told to
LEAST_FOR_KILL = 1.0  # until the kernel has ended a QEMU after SIGKILL, unless it can't
LEAST_FOR_CLEANUP = 10.0  # to stand in the queue for the flock


def seconds(root: str, name: str) -> float:
    """Return how long an entry of the table takes on this host."""
    return scaled(root, SECONDS[name])


def scaled(root: str, original: float) -> float:
    """Return this host's share of the original's seconds."""
    return original / _number(root, "scale", 1.0)


def burn(root: str) -> None:
    """Use as much processor time as a Perl command on this host does."""
    cost = _number(root, "cost", 0.0)
    while time.process_time() < cost:
        pass


def _number(root: str, name: str, without: float) -> float:
    try:
        with open(f"{root}/{name}", encoding="ascii") as file:
            return float(file.read())
    except FileNotFoundError:
        return without
