"""What a capture came to know, as the verdict reads it: plain facts that can be kept and judged again. Pure.

A fact that nobody could find out has its default, and the verdict says less for it, never more.
"""

from dataclasses import asdict, dataclass, fields

WATCHED_SECONDS = 1.5  # a healthy disk or thread may stand still for less


@dataclass(frozen=True)
class Queue:
    """One virtio queue of a disk at one moment: requests that QEMU holds, and how many it has completed (modulo
    65536)."""

    disk: str
    number: int
    inuse: int
    used: int


@dataclass(frozen=True)
class Evidence:
    """`state`: see vmstate.vm_state. `threads`: one state letter for each thread of QEMU. `stuck`: threads that sat in
    one uninterruptible sleep from the first sample to the second. `queues`: each sample of the disks' queues, oldest
    first. `seconds`: between the samples of the threads, and of the queues where `queue_seconds` says no other. `cpu`:
    seconds of processor time that QEMU used meanwhile. `lock`: the configuration's `lock:`. `owners`: who holds the
    lock file. `lock_alive`: whether the task that took the lock still runs, None when not known; `lock_owner`: the
    lines that say so. `node`: the other node that has the configuration. `ha`, `ha_seen`: the state requested of HA
    and the one that its manager sees. `qm_says`: the word of `qm status`. `pending`: options that wait for a new QEMU.
    `quiet_minutes`: how long Proxmox's statistics know of no disk write. `agent`: answers, silent (its port is open in
    the guest) or empty (not known). `dead_storages`: storages of the VM's own disks that don't answer.
    `late_commands`: commands about all storages that did not end in time, which says nothing of this VM. `pve`: why
    /etc/pve told nothing (cluster.TROUBLES), empty where it answers or was not asked. `quorate`: whether this node has
    a quorum, `config`: whether the VM's configuration is here, both None when not known. `leftovers`: what is left of
    a stopped VM, by pid, and in `remains` by name and state."""

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
    ha: str = ""
    ha_seen: str = ""
    qm_says: str = ""
    pending: tuple[str, ...] = ()
    quiet_minutes: int | None = None
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

    @property
    def watched(self) -> float:
        """Seconds between the samples of the queues."""
        return self.seconds if self.queue_seconds is None else self.queue_seconds

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def parse_evidence(facts: dict[str, object]) -> Evidence:
    """Return the evidence in a JSON object; what it does not know is left out."""
    known = {field.name: facts[field.name] for field in fields(Evidence) if field.name in facts}
    for name, value in known.items():
        if isinstance(value, list | tuple):
            known[name] = tuple(value)
    samples = known.get("queues", ())
    if isinstance(samples, tuple):
        known["queues"] = tuple(tuple(Queue(**queue) for queue in sample) for sample in samples)
    return Evidence(**known)  # type: ignore[arg-type]  # as_json's own shape, or that of the probes
