"""Tier 4 of a capture, the storages. Only a storage with a disk of this VM proves anything about this VM.

`pvesm status` asks every storage that is configured and takes 10 s and more while any of them is away; `--storage ID`
only hides the other storages in its output (pve-storage 9.1.7, API2/Storage/Status.pm). `pvesm list ID` touches only
that storage, but may be slow on a large one. So a storage counts as dead if neither command shows that it answers.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from ..host.paths import Host
from .on_proxmox import PERL_SECONDS
from .probe import ABSENT, Probe, Reply, command_probe, run_command

LIST_SECONDS = 4.0
STATUS_SECONDS = 5.0
BLOCK_LAYER_SECONDS = 5.0
_ALL_STORAGES = ("pvesm", "zpool", "lvs", "df")
_OWN = "storage "


def own_storage_probes(host: Host, storages: list[str]) -> list[Probe]:
    """Return a probe for each storage that has a disk of the VM."""
    return [
        Probe(4, _OWN + name, LIST_SECONDS + STATUS_SECONDS, partial(_ask_own_storage, host, name), is_perl=True)
        for name in storages
    ]


def all_storages_probe() -> Probe:
    """Return the probe that asks every storage of the host."""
    return command_probe(4, "pvesm", PERL_SECONDS, "pvesm", "status", is_perl=True)


def block_layer_probes() -> list[Probe]:
    """Return the probes of ZFS, LVM and the mounted file systems."""
    return [
        command_probe(4, "zpool", BLOCK_LAYER_SECONDS, "zpool", "status", "-x"),
        command_probe(4, "lvs", BLOCK_LAYER_SECONDS, "lvs"),
        command_probe(4, "df", BLOCK_LAYER_SECONDS, "df", "-hT", "-x", "fuse"),
    ]


def _ask_own_storage(host: Host, name: str, seconds: float) -> Iterator[Reply]:
    """Ask a storage for the VM's volumes; if that fails or takes long, ask for its status."""
    if seconds < LIST_SECONDS:  # a shorter silence would prove nothing
        yield Reply(_OWN + name, "", "failed", 0.0, "not asked: the time is over")
        return
    volumes = ("pvesm", "list", name, "--vmid", str(host.vmid), "--content", "images")
    first = run_command(_OWN + name, min(LIST_SECONDS, seconds / 2), *volumes)
    if (first.outcome == "ok" and first.text.startswith("Volid")) or first.text == ABSENT:
        yield first
        return
    second = run_command(
        _OWN + name, min(STATUS_SECONDS, seconds - first.seconds), "pvesm", "status", "--storage", name
    )
    state = parse_storage_state(second.text, name) if second.outcome == "ok" else ""
    yield replace(
        second,
        outcome="failed" if state == "inactive" else second.outcome,
        command=f"{first.command}; {second.command}",
        seconds=round(first.seconds + second.seconds, 3),
        text=f"{first.text}\n{second.text}",
        facts={"dead_storage": name} if state == "inactive" else {},
    )


def parse_storage_state(text: str, name: str) -> str:
    """Return a storage's state in the output of `pvesm status`: active, inactive or disabled, else empty."""
    found = re.search(rf"^{re.escape(name)}\s+\S+\s+([a-z]+)\b", text, re.MULTILINE)
    return found[1] if found else ""


def dead_storages(replies: list[Reply]) -> list[str]:
    """Return the storages of the VM's own disks that gave no answer in time, or are inactive."""
    late = [reply.probe.removeprefix(_OWN) for reply in replies if reply.probe.startswith(_OWN) and _is_late(reply)]
    inactive = [str(reply.facts["dead_storage"]) for reply in replies if "dead_storage" in reply.facts]
    return list(dict.fromkeys([*late, *inactive]))


def late_storages(replies: list[Reply]) -> list[str]:
    """Return how long the probe waited for each storage that gave no answer, one line each."""
    late = [reply for reply in replies if reply.probe.startswith(_OWN) and _is_late(reply)]
    return [f"{reply.probe.removeprefix(_OWN)}: gave no answer in {reply.seconds:.1f} s" for reply in late]


def late_commands(replies: list[Reply]) -> list[str]:
    """Return the commands about all storages of the host that did not end in time."""
    return [reply.probe for reply in replies if reply.probe in _ALL_STORAGES and _is_late(reply)]


def _is_late(reply: Reply) -> bool:
    return reply.outcome == "timed out"
