"""A real Linux kernel in each condition. No living guest is ever called hung, and each hung guest is named."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from breakglass.agents.pve.forensics.vcpus import sample_vcpus
from breakglass.agents.pve.host.paths import Host
from breakglass.agents.pve.host.qmp import Qmp
from breakglass.cli.guest_return import tell_return
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import execute
from ..support.guests import BOOTS, BROKEN, DISK_BYTES, HALT_OFF, SPIN_OFF, SPIN_ON, Guest, plug_in, unplug
from ..support.selection import sampled
from ..support.stages import until

pytestmark = [pytest.mark.slow, pytest.mark.real("guest", "tun")]

OLD = 21.0  # in seconds; if an answer is this old, the guest is watched for longer


@dataclass(frozen=True)
class Row:
    """A guest's condition and the report of a capture about it.

    Attributes:
        does: the guest's action, a word of guests.DOES, or the loader that is booted instead, one of guests.BOOTS.
        code, advice: of the verdict.
        says: texts in the verdict's sentence and its evidence.
        act: an action on the VM from outside.
        balloon, card: the VM has a balloon device, a network card.
        may_hang: the guest may also be found hung, because a vCPU without interrupts can wait for ever for another.
        listed: its state in the host's table, for some rows.
        vcpu: the state of the first vCPU by its registers, a letter of vcpus.py, if that is always the same.
        tries: the number of captures in which an intermittent condition must be seen.
    """

    does: str
    code: str
    advice: str = ""
    says: tuple[str, ...] = ()
    act: Callable[[Guest], None] = lambda guest: None
    balloon: bool = True
    card: bool = False
    may_hang: bool = False
    listed: str = ""
    vcpu: str = ""
    tries: int = 1


HUNG = "guest-hung", "reset"
ANSWERED = ("the guest's kernel answered ",)
SILENT = "not answered for 3", "0 disk requests completed"


def wait(guest: Guest) -> None:
    guest.until_old(OLD)


def send(code: bytes, *vcpus: int) -> Callable[[Guest], None]:
    """Make these vCPUs, or all, run this machine code in the guest's kernel."""

    def act(guest: Guest) -> None:
        guest.until_says(guest.does)
        guest.have_vcpus_run(code, *vcpus)
        guest.until_old(OLD)

    return act


def stop_and_continue(guest: Guest) -> None:
    guest.world.monitor("stop")
    guest.until_old(OLD)
    guest.world.monitor("cont")


def inflate(guest: Guest) -> None:
    guest.world.monitor("balloon", value=160 << 20)
    until(lambda: guest.world.monitor("query-balloon") == {"actual": 160 << 20}, "a balloon that is inflated")


def back_up(guest: Guest) -> None:
    """Begin a backup into a target that takes one byte a second, so that each write of the guest waits for its copy."""
    world, slow = guest.world, {"bps-total": 1}
    world.monitor("object-add", **{"qom-type": "throttle-group", "id": "slow", "limits": slow})
    null = {"driver": "null-co", "size": DISK_BYTES, "read-zeroes": True}
    world.monitor(
        "blockdev-add", **{"driver": "throttle", "node-name": "target", "throttle-group": "slow", "file": null}
    )
    world.monitor("blockdev-backup", **{"job-id": "backup", "device": "virtio0", "target": "target", "sync": "full"})


def dump(guest: Guest) -> None:
    guest.until_says("dumping")
    guest.until_old(OLD)


def stop_asking(guest: Guest) -> None:
    guest.have_asked_every(0)
    guest.until_old(OLD)


LOADERS = [name for name, loader in BOOTS.items() if name != BROKEN and loader.letter is None]
ROWS = {
    # living guests
    "idle": Row("idle", "guest-alive", says=ANSWERED, listed="alive"),
    "busy": Row("busy", "guest-alive", says=ANSWERED),
    "busy in the kernel": Row("kernel-busy", "guest-alive", says=ANSWERED),
    "real-time loops": Row("real-time", "guest-alive", says=ANSWERED),
    "every process is stopped": Row("all-stopped", "guest-alive", says=ANSWERED),
    "uses its disk": Row("writes", "healthy", says=ANSWERED, tries=20),
    "uses its network": Row("talks", "guest-alive", says=ANSWERED, card=True),
    "out of memory": Row("out-of-memory", "guest-starved", says=("memory: ", "kill"), tries=20),
    "inflated balloon": Row("idle", "guest-alive", says=("the balloon holds 96 MiB",), act=inflate),
    "its file system is frozen": Row(
        "frozen", "guest-alive", says=ANSWERED, act=lambda guest: guest.until_says("frozen")
    ),
    "stopped and continued": Row("idle", "guest-alive", says=ANSWERED, act=stop_and_continue),
    "reboots": Row(
        "reboots",
        "guest-silent",
        act=lambda guest: until(lambda: not guest.stats()["last-update"], "a reset"),
        tries=20,
    ),
    "driver unloaded": Row("driver-unloaded", "guest-silent", says=("driver is gone", "idle"), act=wait),
    "no balloon": Row("idle", "guest-silent", says=("the VM has no balloon device",), balloon=False),
    "QEMU does not ask": Row("idle", "guest-silent", says=("QEMU does not ask",), act=stop_asking),
    **{name: Row(name, "guest-silent", says=("not loaded the driver",), vcpu=BOOTS[name].vcpu) for name in LOADERS},
    # guests that a reset does not help
    "a backup starves it": Row(
        "writes", "backup-starves", says=("backup_cancel", "block job: backup"), act=back_up, tries=20
    ),
    # guests that are not certainly hung
    "one vCPU is halted": Row("idle", "heartbeat-lost", act=send(HALT_OFF, 0), may_hang=True),
    "one vCPU is halted, a disk is used": Row("writes", "heartbeat-lost", act=send(HALT_OFF, 0), may_hang=True),
    "crash dump": Row("dumps", "heartbeat-lost", says=("driver is gone", "crash dump", "continue"), act=dump),
    # hung guests
    "panic": Row("panic", *HUNG, says=(*SILENT, "its last words: Kernel panic - not"), act=wait, listed="lost"),
    "panic, a network card": Row("panic", *HUNG, says=("0 packets from the guest",), act=wait, card=True),
    "halted": Row("halt", *HUNG, says=("every vCPU",), act=wait),  # from 6.12.118 on, the driver is gone too
    "spins with interrupts off": Row("idle", *HUNG, says=("every vCPU",), act=send(SPIN_OFF)),
    "halted with interrupts off": Row("idle", *HUNG, says=("every vCPU",), act=send(HALT_OFF)),
    BROKEN: Row(BROKEN, "qemu-internal-error", "reset"),
    # a boot sector on KVM, which answers in place of a kernel; its firmware has halted the second vCPU
    "answers, KVM": Row("answers, KVM", "guest-alive", says=ANSWERED, listed="alive"),
    **{
        name: Row(name, code, advice, says=(says,), act=wait)
        for name, code, advice, says in (
            ("answers no more and is idle, KVM", "heartbeat-lost", "", "vCPU 0 idle"),
            ("answers no more and spins, KVM", *HUNG, "vCPU 0 in the kernel"),
            ("answers no more and spins with interrupts off, KVM", *HUNG, "every vCPU"),
            ("answers no more and halts with interrupts off, KVM", *HUNG, "every vCPU"),
        )
    },
    "soft lockup": Row("idle", *HUNG, says=("0 disk requests completed",), act=send(SPIN_ON)),
}


@pytest.fixture
def guest_of(short_dir: Path) -> Iterator[Callable[[Row], Guest]]:
    world, card = World(short_dir), ""

    def boot(row: Row) -> Guest:
        nonlocal card
        card = plug_in(world) if row.card else ""
        guest = Guest(world, row.does, card=card, balloon=row.balloon)
        guest.boot()
        row.act(guest)
        return guest

    try:
        yield boot
    finally:
        world.close()
        if card:
            unplug(card)


def list_guests(world: World, *which: str) -> subprocess.CompletedProcess[str]:
    """Print the table of heartbeats, as a person on the host does."""
    command = [sys.executable, "-IS", str(world.agent), "heartbeat", *which, "--root", str(world.root)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


ON_KVM = [name for name, loader in BOOTS.items() if loader.accel == "kvm"]
KVM = [pytest.param(name, marks=[pytest.mark.all, pytest.mark.real("kvm")]) for name in ON_KVM]
OTHERS = [name for name in ROWS if name not in ON_KVM]


@pytest.mark.parametrize("name", [*KVM, *sampled(OTHERS)])
def test_each_condition_of_a_guest_gets_its_verdict(guest_of: Callable[[Row], Guest], name: str) -> None:
    """The heartbeat, the disk, the network and the vCPUs together distinguish a living guest from a hung one."""
    row = ROWS[name]
    guest = guest_of(row)
    for _ in range(row.tries):
        verdict = execute(guest.world, "forensics").trailer["verdict"]
        if verdict["code"] == row.code:
            break
    if row.may_hang and verdict["code"] == "guest-hung":
        assert "vCPU 1 idle" not in "".join(verdict["evidence"])
        return
    assert (verdict["code"], verdict["advice"]) == (row.code, row.advice), verdict
    if row.vcpu:
        with Qmp(Host(VMID, str(guest.world.root)).qmp, 5) as qmp:
            assert sample_vcpus(qmp)[0] == row.vcpu
    told = "\n".join([verdict["sentence"], *verdict["evidence"]])
    assert [words for words in row.says if words not in told] == [], told
    if row.listed:
        shown = list_guests(guest.world)
        assert (shown.returncode, shown.stdout.split()[3:5]) == (row.listed == "lost", [str(VMID), row.listed]), shown


@pytest.mark.all
def test_a_guest_is_back_with_its_first_heartbeat_after_a_verb(guest_of: Callable[[Row], Guest]) -> None:
    """Before that, a status says that no heartbeat came yet. An answer from before the reset does not count."""
    world = guest_of(ROWS["idle"]).world
    assert execute(world, "status").trailer["heartbeat"]["state"] == "fresh"
    done = execute(world, "reset").trailer
    status = execute(world, "status").trailer
    assert (status["heartbeat"]["state"] in ("awaited", "unloaded"), status["heartbeat"]["at"]) == (True, None)
    told: list[str] = []

    def is_told() -> bool:
        told.append(tell_return({**done, "verb": "reset"}, execute(world, "status").trailer, False, False))
        return told[-1] != ""

    until(is_told, "the guest's first heartbeat", 180)
    assert re.fullmatch(r"the guest's kernel answers, [1-9]\d* s after the reset", told[-1]), told[-1]
