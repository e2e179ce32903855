"""What a capture asks, from what can't hang to what may: a table of probes, each with its own deadline.

T0 reads /proc, /sys and /run. T1 speaks QMP and watches the disks' queues. T2 asks Proxmox and needs /etc/pve. T3 is
the journal, T4 the storage: there a timeout is the finding. A probe is asked in a forked child and yields findings as
it comes to know them.
"""

import glob
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

from .evidence import Queue
from .host import Host
from .preflight import cluster_view
from .probe import run
from .qmp import Qmp, QmpError

SAMPLES_APART = 2.0
QMP_STEP_SECONDS = 3.0
PROBE_BYTES = 64 * 1024
ABSENT = "not installed"

_QUERIES = (
    *("query-status", "query-version", "query-block", "query-blockstats", "query-block-jobs", "query-jobs"),
    *("query-iothreads", "query-chardev"),
)
_DISK_QUEUES_FROM = {"virtio-blk": 0, "virtio-scsi": 2}  # virtio-scsi's first two are for control and events
_REMOTE = re.compile(r" (?:nfs4?|cifs|smb3|ceph|glusterfs|fuse\S*) ")


@dataclass(frozen=True)
class Reply:
    """One answer: `facts` are those of Evidence that it settles."""

    probe: str
    command: str
    outcome: str
    seconds: float
    text: str
    facts: dict[str, object] = field(default_factory=dict)


Asking = Callable[[float], Iterator[Reply]]


@dataclass(frozen=True)
class Probe:
    """One question of a capture. `ask` is called in a child of its own with the seconds that it may take."""

    tier: int
    name: str
    seconds: float
    ask: Asking


def probes(host: Host, pid: int | None, apart: float = SAMPLES_APART) -> list[Probe]:
    """Return what a capture asks of the VM whose QEMU is `pid`."""
    vmid = str(host.vmid)
    return [
        Probe(0, "host", 1, _files(host, "host", "/proc/uptime", "/proc/loadavg")),
        Probe(0, "pressure", 1, _files(host, "pressure", *(f"/proc/pressure/{of}" for of in ("cpu", "io", "memory")))),
        Probe(0, "memory", 1, _files(host, "memory", "/proc/meminfo", lines=5)),
        Probe(0, "scope", 1, _files(host, "scope", *_scope_files(host))),
        *_process_probes(host, pid, apart),
        Probe(0, "waiting", 2, lambda _: _waiting(host)),
        Probe(0, "mounts", 1, lambda _: _mounts(host)),
        Probe(0, "lock file", 1, lambda _: _lock_file(host)),
        Probe(0, "tasks", 2, lambda _: _tasks(host)),
        _command(2, "qm status", 5, "qm", "status", vmid, "--verbose"),
        _command(2, "qm config", 5, "qm", "config", vmid),
        _command(2, "qm pending", 5, "qm", "pending", vmid),
        _command(2, "ha", 5, "ha-manager", "status"),
        Probe(2, "cluster", 4, lambda _: _cluster(host)),
        _command(3, "kernel", 5, "journalctl", "-k", "-n", "200", "--no-pager", "--utc", "-o", "short-iso"),
        _command(3, "services", 5, *_JOURNAL, *(f"-u{unit}" for unit in _UNITS)),
        _command(4, "pvesm", 5, "pvesm", "status"),
        _command(4, "zpool", 5, "zpool", "status", "-x"),
        _command(4, "lvs", 5, "lvs"),
        _command(4, "df", 5, "df", "-hT", "-x", "fuse"),
    ]


_JOURNAL = ("journalctl", "-n", "200", "--no-pager", "--utc", "-o", "short-iso", "--since", "-1h")
_UNITS = ("pvedaemon", "pve-ha-lrm", "qmeventd", "pve-cluster", "corosync")


def _process_probes(host: Host, pid: int | None, apart: float) -> list[Probe]:
    if pid is None:
        return []
    names = ("stat", "status", "wchan", "io")
    return [
        Probe(0, "process", 1, _files(host, "process", *(f"/proc/{pid}/{name}" for name in names))),
        Probe(0, "threads", apart + 2, lambda _: _threads(host, pid, apart)),
        Probe(1, "qmp", apart + 2 * QMP_STEP_SECONDS, lambda _: _qmp(host, apart)),
    ]


def _finding(name: str, began: float, text: str, facts: dict[str, object] | None = None, command: str = "") -> Reply:
    return Reply(name, command, "ok", round(time.monotonic() - began, 3), text, facts or {})


# --- T0: what can't hang ------------------------------------------------------------------------------------------


def _files(host: Host, name: str, *paths: str, lines: int = 100) -> Asking:
    def answer(_: float) -> Iterator[Reply]:
        began = time.monotonic()
        yield _finding(name, began, "\n".join(f"{path}: {_text(host, path, lines)}" for path in paths))

    return answer


def _text(host: Host, path: str, lines: int = 100) -> str:
    try:
        with open(host.path(path), encoding="utf-8", errors="replace") as file:
            return "\n".join(file.read(16384).strip().splitlines()[:lines])
    except OSError as error:
        return str(error.strerror)


def _scope_files(host: Host) -> list[str]:
    names = ("cgroup.procs", "io.pressure", "memory.pressure", "io.stat", "memory.events")
    return [f"/sys/fs/cgroup/qemu.slice/{host.vmid}.scope/{name}" for name in names]


@dataclass(frozen=True)
class _Thread:
    name: str
    state: str
    switches: int


def _threads(host: Host, pid: int, apart: float) -> Iterator[Reply]:
    """Watch QEMU's threads twice. One that is in uninterruptible sleep both times, without a single context switch
    in between, sits in the same sleep: it waits for the host's storage."""
    began = time.monotonic()
    before, ticks = _sampled_threads(host, pid), _ticks(host, pid)
    time.sleep(apart)
    after, used = _sampled_threads(host, pid), _ticks(host, pid) - ticks
    seconds = time.monotonic() - began
    lines = [
        f"thread {tid} ({thread.name}) waits uninterruptibly in {_text(host, f'/proc/{pid}/task/{tid}/wchan')}"
        for tid, thread in after.items()
        if thread.state == "D"
    ]
    stuck = [line for line in lines if _same_sleep(before, after, int(line.split()[1]))]
    stacks = [_text(host, f"/proc/{pid}/task/{line.split()[1]}/stack") for line in stuck[:8]]
    letters = "".join(thread.state for thread in after.values())
    cpu = used / os.sysconf("SC_CLK_TCK")
    text = "\n".join(
        [f"{len(after)} threads: {letters}", f"{cpu:.2f} s of processor in {seconds:.1f} s", *lines, *stacks]
    )
    yield _finding("threads", began, text, {"threads": letters, "stuck": stuck, "cpu": cpu, "seconds": seconds})


def _same_sleep(before: dict[int, _Thread], after: dict[int, _Thread], tid: int) -> bool:
    return tid in before and before[tid] == after[tid]


def _sampled_threads(host: Host, pid: int) -> dict[int, _Thread]:
    found = {}
    for tid in sorted(int(name) for name in os.listdir(host.proc(pid, "task"))):
        try:
            with open(host.proc(pid, f"task/{tid}/status"), encoding="utf-8", errors="replace") as file:
                status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        except OSError:  # it ended meanwhile
            continue
        switches = int(status["voluntary_ctxt_switches"]) + int(status["nonvoluntary_ctxt_switches"])
        found[tid] = _Thread(status["Name"], status["State"][0], switches)
    return found


def _ticks(host: Host, pid: int) -> int:
    """Return the processor time that a process has used, in clock ticks (proc(5), fields 14 and 15)."""
    with open(host.proc(pid, "stat"), encoding="utf-8", errors="replace") as file:
        values = file.read().rpartition(")")[2].split()
    return int(values[11]) + int(values[12])


def _waiting(host: Host) -> Iterator[Reply]:
    """Name the processes of the whole host that are in uninterruptible sleep."""
    began = time.monotonic()
    found = []
    for pid in os.listdir(host.path("/proc")):
        if pid.isdigit():
            head, _, tail = _text(host, f"/proc/{pid}/stat").rpartition(")")
            if tail.split()[:1] == ["D"]:
                found.append(f"{head}) in {_text(host, f'/proc/{pid}/wchan')}")
    yield _finding("waiting", began, "\n".join([f"{len(found)} processes wait uninterruptibly", *found[:50]]))


def _mounts(host: Host) -> Iterator[Reply]:
    began = time.monotonic()
    mounts = [line for line in _text(host, "/proc/mounts", 1000).splitlines() if _REMOTE.search(line)]
    yield _finding("mounts", began, "\n".join(mounts) or "no network or FUSE file system is mounted")


def _lock_file(host: Host) -> Iterator[Reply]:
    """Name who holds the flock that a running `qm start` or `qm stop` keeps for its whole life."""
    began = time.monotonic()
    try:
        seen = os.stat(host.path(f"/var/lock/qemu-server/lock-{host.vmid}.conf"))
    except OSError:
        yield _finding("lock file", began, "there is none")
        return
    name = f"{os.major(seen.st_dev):02x}:{os.minor(seen.st_dev):02x}:{seen.st_ino}"
    held = [line.split() for line in _text(host, "/proc/locks", 10000).splitlines()]
    pids = [words[4] for words in held if name in words and "->" not in words]
    owners = [f"lock-{host.vmid}.conf is held by {pid} ({_command_line(host, pid)})" for pid in pids]
    yield _finding("lock file", began, "\n".join(owners) or "nobody holds it", {"owners": owners})


def _command_line(host: Host, pid: str) -> str:
    return _text(host, f"/proc/{pid}/cmdline").replace("\0", " ").strip()[:200]


def _tasks(host: Host) -> Iterator[Reply]:
    """Show the last tasks of the VM, and the end of the newest one's log."""
    began = time.monotonic()
    active = _text(host, "/var/log/pve/tasks/active", 1000).splitlines()
    mine = [line for line in active if f":{host.vmid}:" in line][:20]
    logs = glob.glob(host.path(f"/var/log/pve/tasks/?/UPID:*:{host.vmid}:*"))
    newest = sorted(logs, key=os.path.getmtime)[-1:]
    with_end = [f"{os.path.basename(log)}\n{_end_of(log)}" for log in newest]
    yield _finding("tasks", began, "\n".join([*mine, *with_end]) or "no task of this VM is known")


def _end_of(path: str) -> str:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 4096))
        return file.read().decode("utf-8", "replace")


# --- T1: QEMU's own word ------------------------------------------------------------------------------------------


def _qmp(host: Host, apart: float) -> Iterator[Reply]:
    """Ask QEMU, and watch the queues of its virtio disks twice; the monitor is free for others in between."""
    answers: dict[str, object] = {}
    with Qmp(host.qmp, QMP_STEP_SECONDS) as qmp:
        for name in _QUERIES:
            yield _said(qmp, name, answers)
        yield _said(qmp, "x-query-virtio", answers)
        devices = _disks(qmp, answers)
        first, at = _sampled_queues(qmp, devices), time.monotonic()
    yield from _agent(host, answers)
    time.sleep(max(0.0, at + apart - time.monotonic()))
    with Qmp(host.qmp, QMP_STEP_SECONDS) as qmp:
        second, seconds = _sampled_queues(qmp, devices), time.monotonic() - at
    facts = {"queues": [[asdict(queue) for queue in sample] for sample in (first, second)], "seconds": seconds}
    lines = [f"{queue.disk} queue {queue.number}: {queue.inuse} in flight, used {queue.used}" for queue in first]
    lines += [f"{queue.disk} queue {queue.number}: {queue.inuse} in flight, used {queue.used}" for queue in second]
    text = "\n".join(lines) or "no virtio disk to watch"
    yield _finding("queues", at, text, facts, "x-query-virtio-queue-status")


def _said(qmp: Qmp, name: str, answers: dict[str, object]) -> Reply:
    began = time.monotonic()
    try:
        answers[name] = qmp.command(name)
    except QmpError as error:
        return Reply(name, name, "failed", round(time.monotonic() - began, 3), str(error))
    return _finding(name, began, json.dumps(answers[name])[:PROBE_BYTES], _facts_of(name, answers[name]), name)


def _facts_of(name: str, answer: object) -> dict[str, object]:
    if name == "query-block":
        bad = [(item["device"], item["io-status"]) for item in _objects(answer) if item.get("io-status", "ok") != "ok"]
        return {"disk_errors": [f"{device}: {status}" for device, status in bad]}
    if name == "query-block-jobs":
        return {"block_jobs": [f"{job.get('type')} on {job.get('device')}" for job in _objects(answer)]}
    return {}


def _objects(answer: object) -> list[dict[str, object]]:
    return [item for item in answer if isinstance(item, dict)] if isinstance(answer, list) else []


def _disks(qmp: Qmp, answers: dict[str, object]) -> list[tuple[str, str, range]]:
    """Return path, name and queue numbers of each virtio disk or disk controller."""
    devices = {str(block.get("qdev")): str(block.get("device")) for block in _objects(answers.get("query-block"))}
    found = []
    for device in _objects(answers.get("x-query-virtio")):
        path = str(device["path"])
        if (kind := str(device["name"])) in _DISK_QUEUES_FROM:
            status = qmp.command("x-query-virtio-status", path=path)
            queues = int(str(status["num-vqs"])) if isinstance(status, dict) else 0
            found.append((path, devices.get(path) or path.split("/")[-2], range(_DISK_QUEUES_FROM[kind], queues)))
    return found


def _sampled_queues(qmp: Qmp, devices: list[tuple[str, str, range]]) -> list[Queue]:
    sample = []
    for path, disk, numbers in devices:
        for number in numbers:
            try:
                seen = qmp.command("x-query-virtio-queue-status", path=path, queue=number)
            except QmpError:  # a queue that the guest has not set up
                continue
            if isinstance(seen, dict):
                sample.append(Queue(disk, number, int(seen["inuse"]), int(seen["used-idx"])))
    return sample


def _agent(host: Host, answers: dict[str, object]) -> Iterator[Reply]:
    """Ping the guest agent where its port is open in the guest: an agent that was never installed proves nothing."""
    began = time.monotonic()
    ports = [port for port in _objects(answers.get("query-chardev")) if "qga" in str(port.get("label"))]
    if not ports:
        return
    if not any(port.get("frontend-open") for port in ports):
        yield _finding("guest agent", began, "the guest has not opened its port")
        return
    token = int(time.time())
    answer = "silent"
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.5)
            client.connect(host.path(f"/run/qemu-server/{host.vmid}.qga"))
            request = {"execute": "guest-sync", "arguments": {"id": token}}
            client.sendall(b"\xff" + json.dumps(request).encode() + b"\n")
            with client.makefile("rb") as lines:
                while str(token).encode() not in lines.readline(4096):
                    pass
            answer = "answers"
    except OSError:
        pass
    yield _finding("guest agent", began, answer, {"agent": answer}, "guest-sync")


# --- T2 to T4: commands -------------------------------------------------------------------------------------------


def _command(tier: int, name: str, seconds: float, *argv: str) -> Probe:
    def answer(allowed: float) -> Iterator[Reply]:
        began = time.monotonic()
        ran = run(list(argv), allowed)
        text = _last_bytes(ran.stdout + ran.stderr)
        if ran.code is None:
            outcome, text = "timed out", f"{text}\nno answer in {allowed:g} s: this is a finding"
        elif ran.code == 127 and not ran.stdout:
            outcome, text = "absent", ABSENT
        else:
            outcome = "failed" if ran.code else "ok"
            text = text + (f"[exit {ran.code}]" if ran.code else "")
        yield Reply(name, " ".join(argv), outcome, round(time.monotonic() - began, 3), text)

    return Probe(tier, name, seconds, answer)


def _last_bytes(text: str) -> str:
    return text if len(text) <= PROBE_BYTES else f"[cut to the last {PROBE_BYTES} characters]\n{text[-PROBE_BYTES:]}"


def _cluster(host: Host) -> Iterator[Reply]:
    began = time.monotonic()
    view = cluster_view(host)
    if view is None:
        yield Reply("cluster", "/etc/pve", "timed out", round(time.monotonic() - began, 3), "/etc/pve does not answer")
        return
    text = f"quorum: {'yes' if view['quorate'] else 'no'}\nlock: {view['lock'] or 'none'}"
    yield _finding("cluster", began, text, {"lock": view["lock"]}, "/etc/pve")


def silent_storage(findings: list[Reply]) -> list[str]:
    """Return the storage commands that did not end; where /etc/pve hangs too, `pvesm` says nothing of the storage."""
    late = {finding.probe for finding in findings if finding.outcome == "timed out"}
    told = ("zpool", "lvs", "df") if late & {"cluster", "qm config"} else ("pvesm", "zpool", "lvs", "df")
    return [name for name in told if name in late]
