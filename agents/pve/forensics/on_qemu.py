"""Tier 1 of a capture: QEMU's answers, and two samples of the queues of its virtio disks."""

import itertools
import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict

from ..host.paths import Host
from ..host.qmp import Qmp, QmpError
from .evidence import Queue
from .guest_agent import AGENT_SECONDS, ask_guest_agent, guest_agent_path, is_agent_port_open
from .probe import PROBE_BYTES, Probe, Reply, ok_reply

QMP_STEP_SECONDS = 3.0

_QUERIES = (
    *("query-status", "query-version", "query-block", "query-blockstats", "query-block-jobs", "query-jobs"),
    *("query-iothreads", "query-chardev"),
)
_FREEZE_STATUS = "guest-fsfreeze-status"  # one of the few commands that an agent answers while it has frozen the guest
_NEWEST_TRIED = (11, 1)
_DISK_QUEUES_FROM = {"virtio-blk": 0, "virtio-scsi": 2}  # virtio-scsi's first two queues are for control and events


def qemu_version(answer: object) -> tuple[int, int]:
    """Return major and minor version from the answer to query-version."""
    version = answer["qemu"] if isinstance(answer, dict) else {}
    return int(version["major"]), int(version["minor"])


def was_tried(version: tuple[int, int]) -> bool:
    """Tell whether commands that begin with x- may be sent to this version of QEMU.

    QEMU does not keep them stable, and one can end the VM: QEMU 11.1 aborts at x-query-virtio-status.
    """
    return version <= _NEWEST_TRIED


def qemu_probes(host: Host, pid: int | None, apart: float) -> list[Probe]:
    """Return the probe of QEMU, with samples `apart` seconds from each other; none without a process."""
    if pid is None:
        return []
    return [Probe(1, "qmp", apart + 2 * QMP_STEP_SECONDS, lambda _: _ask_qemu(host, apart))]


def _ask_qemu(host: Host, apart: float) -> Iterator[Reply]:
    """Query QEMU, and sample the queues of its virtio disks twice; the monitor is free for others in between."""
    answers: dict[str, object] = {}
    with Qmp(host.qmp, QMP_STEP_SECONDS) as qmp:
        for name in _QUERIES:
            yield _query(qmp, name, answers)
        tried = was_tried(qemu_version(answers.get("query-version")))
        if tried:
            yield _query(qmp, "x-query-virtio", answers)
        devices = _list_disks(answers)
        first, at = _sample_queues(qmp, devices), time.monotonic()
    yield from _ping_agent(host, answers, apart)
    time.sleep(max(0.0, at + apart - time.monotonic()))
    with Qmp(host.qmp, QMP_STEP_SECONDS) as qmp:
        second, seconds = _sample_queues(qmp, devices), time.monotonic() - at
    facts = {"queues": [[asdict(queue) for queue in sample] for sample in (first, second)], "queue_seconds": seconds}
    lines = [f"{queue.disk} queue {queue.number}: {queue.inuse} in flight, used {queue.used}" for queue in first]
    lines += [f"{queue.disk} queue {queue.number}: {queue.inuse} in flight, used {queue.used}" for queue in second]
    none = "no virtio disk to watch" if tried else "not asked, because this QEMU is newer than those we tried"
    text = "\n".join(lines) or none
    yield ok_reply("queues", at, text, facts, "x-query-virtio-queue-status")


def _query(qmp: Qmp, name: str, answers: dict[str, object]) -> Reply:
    began = time.monotonic()
    try:
        answers[name] = qmp.command(name)
    except QmpError as error:
        return Reply(name, name, "failed", round(time.monotonic() - began, 3), str(error))
    return ok_reply(name, began, json.dumps(answers[name])[:PROBE_BYTES], _facts_of(name, answers[name]), name)


def _facts_of(name: str, answer: object) -> dict[str, object]:
    if name == "query-block":
        bad = [item for item in _objects(answer) if item.get("io-status", "ok") != "ok"]
        return {"disk_errors": [f"{disk_name(item)}: {item['io-status']}" for item in bad]}
    if name == "query-block-jobs":
        return {"block_jobs": [f"{job.get('type')} on {disk_name(job)}" for job in _objects(answer)]}
    return {}


def disk_name(item: dict[str, object]) -> str:
    """Return the configuration's name for a disk in query-block.

    `qdev` is its device's id or path, `device` the drive's, which is empty since Proxmox uses -blockdev. A device
    without an id has no name in its path.
    """
    names = [part for part in str(item.get("qdev") or "").split("/") if part and part != "virtio-backend"]
    if names and "peripheral-anon" not in names:
        return names[-1]
    return str(item.get("device") or "").removeprefix("drive-") or "a disk without a name"


def controller_name(path: str, disks: list[str]) -> str:
    """Return the name for the queues of a disk's device or of a SCSI controller, by its path.

    `virtioscsi1` carries scsi1 alone (virtio-scsi-single), `scsihw0` carries every SCSI disk (qemu-server).
    """
    name = path.removesuffix("/virtio-backend").rpartition("/")[2]
    if re.fullmatch("virtioscsi[0-9]+", name):
        return name.removeprefix("virtio")
    carried = [disk for disk in disks if re.fullmatch("scsi[0-9]+", disk)]
    return f"{name} ({', '.join(carried)})" if name.startswith("scsihw") and carried else name


def _objects(answer: object) -> list[dict[str, object]]:
    return [item for item in answer if isinstance(item, dict)] if isinstance(answer, list) else []


def _list_disks(answers: dict[str, object]) -> list[tuple[str, str, int]]:
    """Return path, name and first queue of each virtio disk or disk controller."""
    disks = {str(block.get("qdev")): disk_name(block) for block in _objects(answers.get("query-block"))}
    found = []
    for device in _objects(answers.get("x-query-virtio")):
        path = str(device["path"])
        if (kind := str(device["name"])) in _DISK_QUEUES_FROM:
            name = disks.get(path) or controller_name(path, list(disks.values()))
            found.append((path, name, _DISK_QUEUES_FROM[kind]))
    return found


def _sample_queues(qmp: Qmp, devices: list[tuple[str, str, int]]) -> list[Queue]:
    """Return one sample of the disks' queues. How many there are is not asked: see heartbeat._has_driver."""
    sample = []
    for path, disk, first in devices:
        for number in itertools.count(first):
            try:
                status = qmp.command("x-query-virtio-queue-status", path=path, queue=number)
            except QmpError:  # behind the last queue
                break
            if isinstance(status, dict):
                sample.append(Queue(disk, number, int(status["inuse"]), int(status["used-idx"])))
    return sample


def _ping_agent(host: Host, answers: dict[str, object], apart: float) -> Iterator[Reply]:
    """Ping the guest agent where the guest has opened its port, and ask it whether the file systems are frozen.

    The silence of an agent that was never installed proves nothing, and neither does a silence that is shorter than an
    agent may need.
    """
    began = time.monotonic()
    is_open = is_agent_port_open(answers.get("query-chardev"))
    if is_open is None:
        return
    if not is_open:
        yield ok_reply("guest agent", began, "the guest has not opened its port")
        return
    seconds = min(AGENT_SECONDS, apart)
    answer = name_agent_state(ask_guest_agent(guest_agent_path(host), seconds, _FREEZE_STATUS))
    proves = answer != "silent" or seconds == AGENT_SECONDS
    yield ok_reply("guest agent", began, answer, {"agent": answer} if proves else {}, f"guest-sync; {_FREEZE_STATUS}")


def name_agent_state(answers: list[bytes] | None) -> str:
    """Return what evidence.agent says; an agent that rejects the question or answers it late counts as answering."""
    if answers is None:
        return "silent"
    return "frozen" if b'"frozen"' in b"".join(answers) else "answers"
