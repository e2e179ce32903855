"""The guest's heartbeat: when its kernel answered QEMU's balloon device last. No guest agent is needed.

qemu-server gives each VM a balloon device (unless `balloon: 0`) and has QEMU ask it for statistics every 2 s. The
guest's kernel answers, and QEMU keeps the time. A sample costs about 2 ms; only a guest that has not answered for a
while is watched.
"""

import glob
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from ..host.paths import Host, read_small_file
from ..host.qmp import Qmp, QmpError, QmpSilent
from .evidence import Evidence, Heartbeat
from .heartbeat_rule import heartbeat_lines, is_long_enough, is_old, watch_lines
from .on_qemu import QMP_STEP_SECONDS, qemu_version, was_tried
from .probe import Probe, Reply, ok_reply
from .vcpus import has_waiting_thread, sample_vcpus

STATUS_SECONDS_FOR_HEARTBEAT = 0.3
LONGEST_WATCH_SECONDS = 9.5  # the time that a capture has, without the spare time below
SPARE_WATCH_SECONDS = 1.0  # the time to begin a watch, to take its last sample and to report that sample
_STEP_SECONDS = 1.0
_UNKNOWN = 1 << 63  # a larger statistic is -1, so the guest did not report it
_FORGETS_SINCE = (10, 0)  # the first version whose virtio-balloon.c clears stats_last_update at a reset
_BALLOON = "/machine/peripheral/balloon0"
_STATS_QUEUE = 2
_COUNTS = ("rd_operations", "wr_operations", "flush_operations", "unmap_operations")


def heartbeat_probe(host: Host, pid: int | None, apart: float) -> list[Probe]:
    """Return the probe of the heartbeat: one sample if `apart` is 0, else a second or a watch."""
    if pid is None:
        return []
    seconds = apart + QMP_STEP_SECONDS + (LONGEST_WATCH_SECONDS if apart else 0.0)
    return [Probe(1, "heartbeat", seconds, lambda _: watch_heartbeat(host, pid, apart))]


def sample_at_once(host: Host) -> tuple[Heartbeat, ...]:
    """Return one sample for a status; none if QEMU does not give it in a moment."""
    try:
        return (sample_heartbeat(host, STATUS_SECONDS_FOR_HEARTBEAT, whole=False),)
    except (QmpSilent, QmpError, OSError, ValueError, KeyError, TypeError, AttributeError):  # or malformed
        return ()


def watch_heartbeat(host: Host, pid: int, apart: float) -> Iterator[Reply]:
    """Sample the heartbeat once, twice, or for 5 to 10 s where the guest has not answered for a while."""
    began = time.monotonic()
    first = sample_heartbeat(host, whole=apart > 0)
    yield _reply(began, [first])
    if first.running and is_old(first) and apart:
        yield _watch_silence(host, pid, first)
    elif apart:
        time.sleep(max(0.0, began + apart - time.monotonic()))
        yield _reply(began, [first, sample_heartbeat(host)])


def _watch_silence(host: Host, pid: int, first: Heartbeat) -> Reply:
    """Watch a guest that does not answer until it does, or for as long as the whole rule needs."""
    began = time.monotonic()
    samples, vcpus = [first], list[str]()
    while len(samples) == 1 or (_is_silent(samples) and not is_long_enough(samples[-1])):
        time.sleep(_STEP_SECONDS)
        vcpus += _sample_vcpus(host, pid)
        samples.append(sample_heartbeat(host, since=began))
        if samples[-1].seconds > LONGEST_WATCH_SECONDS - _STEP_SECONDS:
            break
    return _reply(began, samples, vcpus)


def _is_silent(samples: list[Heartbeat]) -> bool:
    return samples[-1].running and samples[-1].last == samples[0].last


def _reply(began: float, samples: list[Heartbeat], vcpus: list[str] | None = None) -> Reply:
    facts = {"heartbeats": [asdict(beat) for beat in samples], "vcpus": vcpus or []}
    seen = Evidence("running", heartbeats=tuple(samples), vcpus=tuple(vcpus or ()))
    text = "\n".join((*heartbeat_lines(seen), *watch_lines(seen)))
    return ok_reply("heartbeat", began, text, facts, "qom-get guest-stats; x-query-virtio-queue-status; info registers")


def sample_heartbeat(
    host: Host, seconds: float | None = None, since: float | None = None, *, whole: bool = True
) -> Heartbeat:
    """Return one sample, with disks, network and balloon if it is `whole`; `since` is when the watch began."""
    with Qmp(host.qmp, QMP_STEP_SECONDS if seconds is None else seconds) as qmp:
        running = qmp.status() == "running"
        stats = _ask_for_stats(qmp)
        seen = Heartbeat(
            time.time(),
            seconds=0.0 if since is None else time.monotonic() - since,
            device=stats is not None,
            running=running,
            disk=_count_disk(qmp) if whole else None,
            packets=_count_packets(host) if whole else None,
        )
        if stats is None:
            return seen
        said = {name: value for name, value in stats["stats"].items() if 0 <= value < _UNKNOWN}
        version = qemu_version(qmp.command("query-version"))
        driver = _has_driver(qmp) if was_tried(version) else None
        return replace(
            seen,
            last=0 if driver is False and version < _FORGETS_SINCE else stats["last-update"],
            every=int(str(qmp.command("qom-get", path=_BALLOON, property="guest-stats-polling-interval"))),
            driver=driver,
            total=said.get("stat-total-memory"),
            available=said.get("stat-available-memory"),
            kills=said.get("stat-oom-kills"),
            stalls=said.get("stat-alloc-stalls"),
            held=_balloon_holds(qmp) if whole else None,
        )


def _ask_for_stats(qmp: Qmp) -> dict[str, Any] | None:
    """Return the last statistics of the guest's kernel and their time; None if the VM has no balloon device."""
    try:
        return _as_object(qmp.command("qom-get", path=_BALLOON, property="guest-stats"))
    except QmpError as error:
        if f"'{_BALLOON}' not found" in str(error):
            return None
        raise


def _as_object(answer: object) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise ValueError("QEMU's answer is not an object")
    return answer


def _has_driver(qmp: Qmp) -> bool | None:
    """Tell whether the guest has loaded a driver that sends statistics; None where QEMU can't tell (before 7.2).

    Such a driver has set up the device's third queue. x-query-virtio-status would tell it too, but ends QEMU 11.1.
    """
    try:
        queue = _as_object(
            qmp.command("x-query-virtio-queue-status", path=f"{_BALLOON}/virtio-backend", queue=_STATS_QUEUE)
        )
    except QmpError:
        return None
    return bool(queue["vring-desc"])


def _balloon_holds(qmp: Qmp) -> int | None:
    """Return the bytes that the balloon has taken from the guest."""
    try:
        memory = _as_object(qmp.command("query-memory-size-summary"))
        balloon = _as_object(qmp.command("query-balloon"))
    except QmpError:
        return None
    return max(0, int(memory["base-memory"]) + int(memory.get("plugged-memory", 0)) - int(balloon["actual"]))


def _count_disk(qmp: Qmp) -> int:
    """Return how many requests of the guest its disks have completed, of any kind of disk."""
    blocks = qmp.command("query-blockstats")
    each = blocks if isinstance(blocks, list) else []
    return sum(int(block["stats"].get(name, 0)) for block in each for name in _COUNTS)


def _count_packets(host: Host) -> int | None:
    """Return how many packets the host's bridges got from the guest; None without a network card that shows it.

    With vhost-net, QEMU itself sees no packets.
    """
    found = glob.glob(host.path(f"/sys/class/net/tap{host.vmid}i*/statistics/rx_packets"))
    return sum(int(read_small_file(path, 32) or 0) for path in found) if found else None


def _sample_vcpus(host: Host, pid: int) -> list[str]:
    """Return one sample of the vCPUs, which stops them for a moment; none while a thread waits uninterruptibly."""
    try:
        if has_waiting_thread(host, pid):
            return []
        with Qmp(host.qmp, _STEP_SECONDS) as qmp:
            return [sample_vcpus(qmp)]
    except (QmpSilent, QmpError, OSError, ValueError):
        return []
