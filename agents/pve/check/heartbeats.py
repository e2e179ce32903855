"""`breakglass-pve heartbeat`: the heartbeat of every VM that runs on this host, as a table. It changes nothing."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace

from ..forensics.evidence import Evidence, parse_evidence
from ..forensics.heartbeat import watch_heartbeat
from ..forensics.heartbeat_rule import (
    FRESH,
    GONE,
    LOST,
    NONE,
    UNKNOWN,
    UNLOADED,
    heartbeat_lines,
    heartbeat_state,
    memory_left,
)
from ..forensics.plan import SAMPLES_APART
from ..forensics.probe import Probe, Reply, ok_reply
from ..forensics.together import ask_together
from ..host.paths import Host
from ..host.vmstate import observe, vm_state

_TABLE_SECONDS = 18.0  # the limit for one VM; a QEMU that does not answer takes 5 s of it
_AT_ONCE = 64
_WORD_OF_STATE = {FRESH: "alive", LOST: "lost", GONE: "gone", NONE: "none", UNLOADED: "none", UNKNOWN: "not known"}


def list_heartbeats(root: str, vmid: int | None) -> Iterator[tuple[str, bool]]:
    """Yield a line for each VM, or for one, and whether its heartbeat is lost."""
    vmids = _running_vms(root) if vmid is None else [vmid]
    yield f"{'VM':>6}  {'heartbeat':<10} seen", False
    for first in range(0, len(vmids), _AT_ONCE):
        some = vmids[first : first + _AT_ONCE]
        probes = [_table_probe(Host(number, root)) for number in some]
        replies = {reply.probe: reply for reply in ask_together(probes, time.monotonic() + _TABLE_SECONDS)}
        yield from (_row(number, replies[str(number)]) for number in some)


def _running_vms(root: str) -> list[int]:
    """Return the VMs with a pid file, which qemu-server keeps until the QEMU has ended."""
    try:
        names = os.listdir(f"{root}/run/qemu-server")
    except FileNotFoundError:
        return []
    return sorted(int(name[:-4]) for name in names if name.endswith(".pid") and name[:-4].isdecimal())


def _table_probe(host: Host) -> Probe:
    def ask(_: float) -> Iterator[Reply]:
        began, facts = time.monotonic(), observe(host)
        if vm_state(facts) != "running" or facts.pid is None:
            yield ok_reply(str(host.vmid), began, vm_state(facts))
            return
        for reply in watch_heartbeat(host, facts.pid, SAMPLES_APART):
            yield replace(reply, probe=str(host.vmid))

    return Probe(1, str(host.vmid), _TABLE_SECONDS, ask)


def _row(vmid: int, reply: Reply) -> tuple[str, bool]:
    if not reply.facts:
        return f"{vmid:>6}  {'-' if reply.outcome == 'ok' else 'not known':<10} {reply.text}", False
    evidence = parse_evidence({"state": "running", **reply.facts})
    state = heartbeat_state(evidence)
    told = "; ".join([*heartbeat_lines(evidence), *_told(evidence, state)])
    return f"{vmid:>6}  {_WORD_OF_STATE.get(state, 'late'):<10} {told}", state == LOST


def _told(evidence: Evidence, state: str) -> list[str]:
    """Return since when the heartbeat is lost, or the memory of a guest that answers."""
    beat = evidence.heartbeats[-1]
    if state in (LOST, GONE):
        return [f"since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(beat.last))}"]
    return [memory_left(evidence)] if state == FRESH and beat.total and beat.available is not None else []
