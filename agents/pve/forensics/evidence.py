"""The evidence of a capture, as the verdict reads it: plain facts that can be kept and judged again. Pure.

A fact that could not be determined has its default, so the verdict then says less, never more.
"""

from dataclasses import asdict, dataclass, fields

WATCHED_SECONDS = 1.5  # a healthy disk or thread may stand still for a shorter time


@dataclass(frozen=True)
class Queue:
    """One virtio queue of a disk at one moment.

    `inuse` counts the requests that QEMU holds, `used` those that it has completed (modulo 65536).
    """

    disk: str
    number: int
    inuse: int
    used: int


@dataclass(frozen=True)
class Heartbeat:
    """One look at the balloon device, by which the guest's kernel answers QEMU.

    Attributes:
        at: when, by the host's clock.
        last: when the kernel answered last; 0 if it has not answered since the last reset.
        seconds: since the first look of a watch, 0 without one.
        every: how often QEMU asks, in seconds; 0: never.
        device: the VM has a balloon device.
        driver: the guest has loaded a driver that answers; None where QEMU can't tell.
        running: QEMU said running.
        disk: disk requests of the guest that QEMU has completed.
        packets: packets from the guest; None where no network card can be watched.
        total, available: the guest's memory, in bytes; None where its kernel does not say.
        kills, stalls: how often its kernel killed a process because memory ran out, or waited for memory.
        held: bytes that the balloon has taken.
    """

    at: float
    last: int = 0
    seconds: float = 0.0
    every: int = 0
    device: bool = True
    driver: bool | None = None
    running: bool = True
    disk: int | None = None
    packets: int | None = None
    total: int | None = None
    available: int | None = None
    kills: int | None = None
    stalls: int | None = None
    held: int | None = None


@dataclass(frozen=True)
class Evidence:
    """The facts of a capture.

    Attributes:
        state: see vmstate.vm_state.
        source: the sources of the state, one line.
        pid: QEMU's process.
        threads: one state letter for each thread of QEMU.
        stuck: threads that were in one uninterruptible sleep from the first sample to the second.
        queues: each sample of the disks' queues, oldest first.
        seconds: the time between the samples of the threads, and of the queues if `queue_seconds` is None.
        cpu: seconds of processor time that QEMU used meanwhile.
        lock: the configuration's `lock:`.
        owners: the holders of the lock file.
        starter: the process that starts the VM and holds the lock file, 0 if there is none.
        lock_alive: whether the task that took the lock still runs, None where that is not known.
        lock_owner: lines about that task.
        last_backup: the newest backup's task on this node, and whether it still runs, one line.
        node: the other node that has the configuration.
        container: the number belongs to a container.
        ha: the state requested of HA.
        ha_seen: the state that HA's manager sees.
        ha_goal: the node to which HA moves the VM, or moves it back after that node's maintenance.
        node_seen: the state in which HA's manager sees `node`.
        ha_dead: why HA, which manages the VM, acts on no request: which of its daemons is dead, and since when.
        qm_says: the state that `qm status` prints.
        pending: options that wait for a new QEMU.
        leftovers: the processes left of a stopped VM, by pid.
        disk_errors: disks with an I/O error, one line each.
        block_jobs: QEMU's block jobs, one line each.
        agent: `answers`, `frozen` (it answers, and the guest's file systems are frozen), `silent` (the guest has opened
            its port) or empty (not known).
        dead_storages: storages of the VM's own disks that don't answer.
        late_storages: how long the probe waited for each storage that is late, one line each.
        late_commands: commands about all storages that did not end in time, which proves nothing about this VM.
        pve: why /etc/pve can't be read (obstacles.TROUBLES), empty where it answers or was not read.
        quorate: whether this node has a quorum, None where that is not known.
        config: whether the VM's configuration is on this node, None where that is not known.
        remains: `leftovers` by name and state.
        queue_seconds: the time between the samples of the queues, if that is not `seconds`.
        vmid: the VM's number.
        placeless: this node can't know which node has the VM (cluster.is_placeless).
        here: this node.
        stale: the QEMU here is a stale copy (cluster.is_stale_copy): `node` has the VM.
        heartbeats: looks at the guest's heartbeat, oldest first.
        vcpus: samples of what the vCPUs do, a letter for each (see vcpus.py).
        before: what Proxmox's statistics show from before the fault, one line each (see before_fault.py).
        changes: what changed within 24 hours, one line each (see changes.py).
        last_words: the end of the guest's kernel log, which is its own word.
        screen_text: the rows of a console in VGA's text mode.
        cause: the line of the guest's kernel log that says why the guest hangs, if any.
    """

    state: str
    source: str = ""
    pid: int | None = None
    threads: str = ""
    stuck: tuple[str, ...] = ()
    queues: tuple[tuple[Queue, ...], ...] = ()
    seconds: float = 0.0
    cpu: float | None = None
    lock: str = ""
    owners: tuple[str, ...] = ()
    lock_alive: bool | None = None
    lock_owner: tuple[str, ...] = ()
    node: str = ""
    container: bool = False
    ha: str = ""
    ha_seen: str = ""
    qm_says: str = ""
    pending: tuple[str, ...] = ()
    leftovers: tuple[int, ...] = ()
    disk_errors: tuple[str, ...] = ()
    block_jobs: tuple[str, ...] = ()
    agent: str = ""
    dead_storages: tuple[str, ...] = ()
    late_commands: tuple[str, ...] = ()
    pve: str = ""
    quorate: bool | None = None
    config: bool | None = None
    remains: tuple[str, ...] = ()
    queue_seconds: float | None = None
    ha_goal: str = ""
    node_seen: str = ""
    ha_dead: str = ""
    placeless: bool = False
    starter: int = 0
    vmid: int = 0
    late_storages: tuple[str, ...] = ()
    here: str = ""
    stale: bool = False
    heartbeats: tuple[Heartbeat, ...] = ()
    vcpus: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    last_backup: str = ""
    last_words: tuple[str, ...] = ()
    cause: str = ""
    screen_text: tuple[str, ...] = ()

    @property
    def watched(self) -> float:
        """The seconds between the samples of the queues."""
        return self.seconds if self.queue_seconds is None else self.queue_seconds

    def as_json(self) -> dict[str, object]:
        """Return the facts as a JSON object."""
        return asdict(self)


def parse_evidence(facts: dict[str, object]) -> Evidence:
    """Return the evidence in a JSON object, without keys that are not facts."""
    known = {field.name: facts[field.name] for field in fields(Evidence) if field.name in facts}
    for name, value in known.items():
        if isinstance(value, list | tuple):
            known[name] = tuple(value)
    samples = known.get("queues", ())
    if isinstance(samples, tuple):
        known["queues"] = tuple(tuple(Queue(**queue) for queue in sample) for sample in samples)
    beats = known.get("heartbeats", ())
    if isinstance(beats, tuple):
        known["heartbeats"] = tuple(Heartbeat(**beat) for beat in beats)
    return Evidence(**known)  # type: ignore[arg-type]  # as_json's own shape, or that of the probes
