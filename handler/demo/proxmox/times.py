"""The table of durations in Proxmox (in seconds), and the durations on this host.

`<root>/scale` contains the divisor for all durations. Without that file it is 1. With a divisor, a test runs a whole
night in seconds, in proportion. `<root>/cost` contains the processor time in seconds that each command uses before it
does anything, because Perl uses such time. Without that file it is 0.
"""

import time

SECONDS = {
    # qemu-server 9.2.6: QemuConfig's lock_config; QMPClient.pm; QemuServer.pm, _do_vm_stop; CLI/qm.pm, cleanup
    "flock": 10.0,
    "qmp": 5.0,  # every QMP command without its own limit
    "qmp-status": 3.0,  # vmstatus, with a silent monitor
    "qmp-quit": 60.0,
    "stop": 60.0,  # from the answer to `quit` or to the ACPI request until the process ends, without --timeout
    "sigterm": 10.0,
    "sigkill": 1.0,  # the process is not checked a second time
    "look": 1.0,  # the time between two checks of a process that must end, or of a silent worker
    "cleanup-flock": 60.0,
    "cleanup": 30.0,  # qmeventd's `qm cleanup` holds the flock this long while a QEMU runs
    "cleanup-warns": 10.0,
    "systemd": 20.8,  # a start while the scope is not empty (measured; the source says 20)
    "start": 30.0,  # Helpers.pm, config_aware_timeout, for up to 30 GiB of memory
    "start-suspended": 300.0,
    "start-hugepages": 150.0,
    "start-nic": 5.0,
    # pve-common 9.2.1: RESTEnvironment.pm
    "kill-group": 5.0,
    # pve-storage 9.1.7: NFSPlugin.pm gives showmount 10 s
    "storage": 10.0,
}

# Live processes need this machine's own time, which does not scale. These are the shortest times to wait for such
# processes.
LEAST_FOR_QMP = 0.5  # for a QEMU that was stopped by a signal
LEAST_FOR_QEMU = 10.0  # for QEMU to go into the background, to answer, and to end on request
LEAST_FOR_KILL = 1.0  # for the kernel to end a QEMU after SIGKILL, if it can
LEAST_FOR_CLEANUP = 10.0  # for the cleanup to start waiting for the flock


def seconds(root: str, name: str) -> float:
    """Return how long an entry of the table takes on this host."""
    return scaled(root, SECONDS[name])


def scaled(root: str, original: float) -> float:
    """Return the original's seconds, scaled for this host."""
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
