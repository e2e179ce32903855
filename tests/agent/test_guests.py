"""A real Linux kernel in each condition. No living guest is ever called hung, and each hung guest is named."""

import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from breakglass.agents.pve.forensics.vcpus import sample_vcpus
from breakglass.agents.pve.host.paths import Host
from breakglass.agents.pve.host.qmp import Qmp
from breakglass.cli.guest_return import tell_return
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import execute
from ..support.guests import BOOTS, BROKEN, DISK_BYTES, HALT_OFF, INTERVAL, SPIN_OFF, SPIN_ON, Guest, plug_in, unplug
from ..support.selection import sampled
from ..support.stages import until

pytestmark = [pytest.mark.slow, pytest.mark.real("guest", "tun")]

OLD = 21.0  # in seconds; if an answer is this old, the guest is watched for longer


@dataclass(frozen=True)
class Row:
    """A guest's condition and the report of a capture about it.

    Attributes:
        code, advice: of the verdict.
        says: texts in the verdict's sentence and its evidence.
        act: an action on the VM from outside.
        may_hang: the guest may also be found hung, because a vCPU without interrupts can wait for ever for another.
        listed: its state in the host's table, for some rows.
        vcpu: the state of the first vCPU by its registers, a letter of vcpus.py, if that is always the same.
        tries: the number of captures in which an intermittent condition must be seen.
    """

    code: str
    advice: str = ""
    says: tuple[str, ...] = ()
    act: Callable[[Guest], None] = lambda guest: None
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


def use_disk(guest: Guest) -> None:
    """Use the disk without the driver, as a crash kernel does that writes a dump."""
    guest.until_says("unloaded")
    guest.tell("writes\n")
    guest.until_says("driver-unloaded")


def stop_asking(guest: Guest) -> None:
    guest.have_asked_every(0)
    guest.until_old(OLD)


def lock_up(guest: Guest) -> None:
    """Let the guest answer again, and then make it spin with interrupts enabled."""
    guest.have_asked_every(INTERVAL)
    send(SPIN_ON)(guest)


LOADERS = [name for name, loader in BOOTS.items() if name != BROKEN and loader.letter is None]
ALIVE = Row("guest-alive", says=ANSWERED)
LOCKED_UP = Row(*HUNG, says=("0 disk requests completed",), act=lock_up)
SPINNING = Row(*HUNG, says=("every vCPU",), act=send(SPIN_OFF))
DEAD = ("0 packets from the guest", "its last words: Kernel panic - not")

# By what the guest does (a word of guests.DOES, or a loader of guests.BOOTS), its conditions, one after the other.
GUESTS = {
    # living guests
    "idle": [
        Row("guest-alive", says=ANSWERED, listed="alive"),
        Row("guest-alive", says=("the balloon holds 96 MiB",), act=inflate),
        Row("guest-alive", says=ANSWERED, act=stop_and_continue),
        Row("guest-silent", says=("QEMU does not ask",), act=stop_asking),
        LOCKED_UP,
    ],
    "busy and frozen": [Row("guest-alive", says=ANSWERED, act=lambda guest: guest.until_says("busy and frozen"))],
    "real-time": [ALIVE],
    "all-stopped": [ALIVE],
    "writes": [
        Row("healthy", says=ANSWERED, tries=20),
        Row("backup-starves", says=("backup_cancel", "block job: backup"), act=back_up, tries=20),
    ],
    "out-of-memory": [Row("guest-starved", says=("memory: ", "kill"), tries=20)],
    "reboots": [Row("guest-silent", tries=20)],
    "driver-unloaded": [
        Row("guest-silent", says=("driver is gone", "idle"), act=wait),
        Row("heartbeat-lost", says=("driver is gone", "crash dump", "continue"), act=use_disk, tries=20),
    ],
    **{name: [Row("guest-silent", says=("not loaded the driver",), vcpu=BOOTS[name].vcpu)] for name in LOADERS},
    # guests that are not certainly hung
    "writes (one vCPU is halted)": [Row("heartbeat-lost", act=send(HALT_OFF, 0), may_hang=True)],
    # hung guests
    "panic": [Row(*HUNG, says=(*SILENT, *DEAD), act=wait, listed="lost")],
    "halt": [Row(*HUNG, says=("every vCPU",), act=wait)],  # from 6.12.118 on, the driver is gone too
    "idle (spins with interrupts off)": [SPINNING],
    BROKEN: [Row("qemu-internal-error", "reset")],
    # a boot sector on KVM, which answers in place of a kernel; its firmware has halted the second vCPU
    "answers, KVM": [Row("guest-alive", says=ANSWERED, listed="alive")],
    "answers no more and is idle, KVM": [Row("heartbeat-lost", says=("vCPU 0 idle",), act=wait)],
    "answers no more and spins, KVM": [Row(*HUNG, says=("vCPU 0 in the kernel",), act=wait)],
    "answers no more and spins with interrupts off, KVM": [Row(*HUNG, says=("every vCPU",), act=wait)],
    "answers no more and halts with interrupts off, KVM": [Row(*HUNG, says=("every vCPU",), act=wait)],
}
ON_KVM = [name for name, loader in BOOTS.items() if loader.accel == "kvm"]
KVM = [pytest.param(name, marks=[pytest.mark.all, pytest.mark.real("kvm")]) for name in ON_KVM]


@pytest.mark.parametrize("name", [*KVM, *sampled([name for name in GUESTS if name not in ON_KVM])])
def test_each_condition_of_a_guest_gets_its_verdict(short_dir: Path, name: str) -> None:
    """The heartbeat, the disk, the network and the vCPUs together distinguish a living guest from a hung one."""
    with closing(World(short_dir)) as world, ExitStack() as stack:
        card = ""
        if name in ("busy and frozen", "panic"):
            stack.callback(unplug, card := plug_in(world))
        guest = Guest(world, name.partition(" (")[0], card=card)
        guest.boot()
        for row in GUESTS[name]:
            row.act(guest)
            assert_verdict(guest, row)
            if row is LOCKED_UP:
                assert_return(guest.world)


def assert_verdict(guest: Guest, row: Row) -> None:
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
        command = [sys.executable, "-IS", str(guest.world.agent), "heartbeat", "--root", str(guest.world.root)]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (shown.returncode, shown.stdout.split()[3:5]) == (row.listed == "lost", [str(VMID), row.listed]), shown


def assert_return(world: World) -> None:
    """Reset a guest. It is back with its first heartbeat, and an answer from before the reset does not count."""
    done = execute(world, "reset").trailer
    status = execute(world, "status").trailer
    assert (status["heartbeat"]["state"] in ("awaited", "unloaded"), status["heartbeat"]["at"]) == (True, None)
    told: list[str] = []

    def is_told() -> bool:
        told.append(tell_return({**done, "verb": "reset"}, execute(world, "status").trailer, False, False))
        return told[-1] != ""

    until(is_told, "the guest's first heartbeat", 180)
    assert re.fullmatch(r"the guest's kernel answers, [1-9]\d* s after the reset", told[-1]), told[-1]
