"""The probes of a capture, from those that can't hang to those that can, each with its own deadline.

T0 reads /proc, /sys and /run. T1 speaks QMP and samples the disks' queues. T2 is Proxmox's own view, from files where
possible. T3 is the journal, T4 the storage, where a timeout is the finding.

A verb that is about to act looks briefly. It starts no command and reads no disk, because the verb destroys nothing
that those would show. If its two samples show a thread or a disk that stands still, it looks a second time, for long
enough to be certain.
"""

from ..host.paths import Host
from .heartbeat import heartbeat_probe
from .last_words import LAST_WORDS_SECONDS, SHORT_LAST_WORDS_SECONDS, last_words_probe
from .on_changes import read_edits, read_journal, read_packages
from .on_host import READ_SECONDS, host_probes, thread_probe
from .on_proxmox import cluster_probe, log_probes, perl_probes
from .on_qemu import qemu_probes
from .on_storage import all_storages_probe, block_layer_probes, own_storage_probes
from .probe import Probe, Reply, command_probe
from .together import FollowUp

SAMPLES_APART = 2.0
SHORT_APART = 0.5  # between the samples that a verb takes before it acts, because they must not delay a rescue
SHORT_CLUSTER_SECONDS = 1.5
JOURNAL_SECONDS = 5.0
AGAIN_APART = 1.5  # from the second of a verb's samples to the third, which is then 2 s after the first sample

_JOURNAL = ("journalctl", "-n", "200", "--no-pager", "--utc", "-o", "short-iso")
_UNITS = ("pvedaemon", "pve-ha-lrm", "qmeventd", "pve-cluster", "corosync")


def capture_probes(host: Host, pid: int | None) -> list[Probe]:
    """Return the first probes of a capture of the VM whose QEMU is `pid`."""
    return [
        *host_probes(host, pid, SAMPLES_APART),
        *qemu_probes(host, pid, SAMPLES_APART),
        *heartbeat_probe(host, pid, SAMPLES_APART),
        *last_words_probe(host, pid, LAST_WORDS_SECONDS),
        cluster_probe(host),
        *log_probes(host),
        Probe(2, "packages", READ_SECONDS, lambda _: read_packages(host)),
        Probe(3, "journal", JOURNAL_SECONDS, lambda seconds: read_journal(host, seconds)),
        command_probe(3, "kernel", JOURNAL_SECONDS, *_JOURNAL, "-k"),
        command_probe(3, "services", JOURNAL_SECONDS, *_JOURNAL, "--since", "-1h", *(f"-u{unit}" for unit in _UNITS)),
        *block_layer_probes(),
    ]


def after_cluster(host: Host) -> FollowUp:
    """Return the probes that follow once /etc/pve has answered: Proxmox's commands, all of which need it."""

    def follow_up(reply: Reply) -> list[Probe]:
        if reply.probe != "cluster" or reply.outcome != "ok":
            return []
        first, *commands = perl_probes(host)
        edits = Probe(2, "edits", READ_SECONDS, lambda _: read_edits(host))
        storages = own_storage_probes(host, find_storages([reply]))
        return [edits, first, *storages, *commands, all_storages_probe()]

    return follow_up


def short_probes(host: Host, pid: int | None, qemu_answers: bool) -> list[Probe]:
    """Return the probes that a verb takes before it acts; they skip a QEMU that was silent a moment ago."""
    of_qemu = [
        *qemu_probes(host, pid, SHORT_APART),
        *heartbeat_probe(host, pid, 0),
        *last_words_probe(host, pid, SHORT_LAST_WORDS_SECONDS, may_scan=False),
    ]
    return [
        *host_probes(host, pid, SHORT_APART),
        *(of_qemu if qemu_answers else []),
        cluster_probe(host, SHORT_CLUSTER_SECONDS),
    ]


def second_probes(host: Host, pid: int, qemu_answers: bool, storages: list[str]) -> list[Probe]:
    """Return the probes that a verb takes again if its short look found a thread or a disk that stands still."""
    return [
        thread_probe(host, pid, AGAIN_APART),
        *(qemu_probes(host, pid, AGAIN_APART) if qemu_answers else []),
        *own_storage_probes(host, storages),
    ]


def find_storages(replies: list[Reply]) -> list[str]:
    """Return the storages of the VM's own disks, by the probe `cluster`."""
    found = [reply.facts["storages"] for reply in replies if "storages" in reply.facts]
    return [str(name) for name in found[-1]] if found and isinstance(found[-1], list) else []
