"""What a capture asks, from what can't hang to what may: a table of probes, each with its own deadline.

T0 reads /proc, /sys and /run. T1 speaks QMP and watches the disks' queues. T2 asks Proxmox and needs /etc/pve. T3 is
the journal, T4 the storage: there a timeout is the finding.
"""

from .asking import Probe, Reply, command_probe
from .host import Host
from .tier_host import host_probes
from .tier_proxmox import proxmox_probes
from .tier_qemu import qemu_probes

SAMPLES_APART = 2.0

_JOURNAL = ("journalctl", "-n", "200", "--no-pager", "--utc", "-o", "short-iso")
_UNITS = ("pvedaemon", "pve-ha-lrm", "qmeventd", "pve-cluster", "corosync")


def probes(host: Host, pid: int | None, apart: float = SAMPLES_APART) -> list[Probe]:
    """Return what a capture asks of the VM whose QEMU is `pid`."""
    return [
        *host_probes(host, pid, apart),
        *qemu_probes(host, pid, apart),
        *proxmox_probes(host),
        command_probe(3, "kernel", 5, *_JOURNAL, "-k"),
        command_probe(3, "services", 5, *_JOURNAL, "--since", "-1h", *(f"-u{unit}" for unit in _UNITS)),
        command_probe(4, "pvesm", 5, "pvesm", "status"),
        command_probe(4, "zpool", 5, "zpool", "status", "-x"),
        command_probe(4, "lvs", 5, "lvs"),
        command_probe(4, "df", 5, "df", "-hT", "-x", "fuse"),
    ]


def silent_storage(findings: list[Reply]) -> list[str]:
    """Return the storage commands that did not end; where /etc/pve hangs too, `pvesm` says nothing of the storage."""
    late = {finding.probe for finding in findings if finding.outcome == "timed out"}
    told = ("zpool", "lvs", "df") if late & {"cluster", "qm config"} else ("pvesm", "zpool", "lvs", "df")
    return [name for name in told if name in late]
