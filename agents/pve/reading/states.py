"""What `states` answers: how each VM of the key is that this node has, judged as by a status.

Each VM has its own child, so one that hangs hides no other.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from ..forensics.probe import Probe, Reply, ok_reply
from ..forensics.together import ask_together
from ..host.bounded import ask_or_none
from ..host.paths import Host, Key
from ..jobs.result import Result, Verdict
from ..words import DONE

STATE_SECONDS = 4.0  # for one VM, as for a status; a silent QEMU takes 3 s
STATES_SECONDS = 6.0
NAMES_SECONDS = 0.5  # for reading the names from /etc/pve
_CHILDREN = 64  # at once


def answer_states(key: Key, look: Callable[[Host], Result]) -> tuple[None, Result]:
    """Return the state of each VM of the key that has a process or its configuration here."""
    vmids, until = _vms_here(key), time.monotonic() + STATES_SECONDS
    found = {str(vmid): _fields_of(vmid, _unknown()) for vmid in vmids}
    for first in range(0, len(vmids), _CHILDREN):
        probes = [_state_probe(key.host(vmid), look) for vmid in vmids[first : first + _CHILDREN]]
        found |= {reply.probe: reply.facts for reply in ask_together(probes, until) if reply.facts}
    return None, Result(DONE, stage="states", extra={"states": list(found.values())})


def _vms_here(key: Key) -> list[int]:
    """Return the numbers of the VMs here; those that are off are missing if /etc/pve does not answer."""
    configured = ask_or_none(lambda: _names_in(f"{key.root}/etc/pve/qemu-server"), NAMES_SECONDS) or []
    names = [name.split(".") for name in _names_in(f"{key.root}/run/qemu-server") + configured]
    kinds = (["pid"], ["qmp"], ["conf"])
    return sorted({int(name) for name, *kind in names if kind in kinds and name.isdecimal() and int(name) in key.vms})


def _names_in(directory: str) -> list[str]:
    with suppress(OSError):
        return os.listdir(directory)
    return []


def _state_probe(host: Host, look: Callable[[Host], Result]) -> Probe:
    def ask(_: float) -> Iterator[Reply]:
        began = time.monotonic()
        yield ok_reply(str(host.vmid), began, "", _fields_of(host.vmid, look(host)))

    return Probe(0, str(host.vmid), STATE_SECONDS, ask)


def _fields_of(vmid: int, result: Result) -> dict[str, object]:
    """Return what a list shows of a VM. The evidence belongs to a status."""
    fields = result.as_json()
    verdict = fields["verdict"]
    short = {**verdict, "evidence": []} if isinstance(verdict, dict) else None
    return {
        "vm": vmid,
        **{name: fields.get(name) for name in ("state", "last", "holder", "heartbeat", "proxmox_name")},
        "verdict": short,
    }


def _unknown() -> Result:
    return Result(DONE, verdict=Verdict("not-determined", "the host did not find this VM's state in time", "status"))
