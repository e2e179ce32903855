"""Disks under the names that people know them by, with the devices as Proxmox 9 makes them (-blockdev, no drive)."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from breakglass.agents.pve.forensics.on_qemu import controller_name, disk_name
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import execute
from ..support.rows import each_row
from ..support.selection import sampled
from ..support.stages import until

# What qemu-server puts on the command line for each kind of controller, and the name of the disk's queues.
DEVICES = {
    "virtio-scsi-single": (
        ("virtio-scsi-pci,id=virtioscsi0", "scsi-hd,bus=virtioscsi0.0,drive=drive-scsi0,id=scsi0,rerror=stop"),
        "scsi0",
        "scsi0",
    ),
    "virtio-scsi-pci": (
        ("virtio-scsi-pci,id=scsihw0", "scsi-hd,bus=scsihw0.0,drive=drive-scsi0,id=scsi0,rerror=stop"),
        "scsihw0 (scsi0)",
        "scsi0",
    ),
    "virtio-blk": (("virtio-blk-pci,drive=drive-scsi0,id=virtio0,rerror=stop",), "virtio0", "virtio0"),
}


@pytest.fixture
def place(short_dir: Path) -> Iterator[Callable[[str, str], World]]:
    """Return a host whose VM has its disk on a kind of controller, in the state that a scenario names."""
    worlds: list[World] = []

    def make(scenario: str, kind: str) -> World:
        world = World(short_dir / str(len(worlds)), scenario=scenario)
        worlds.append(world)
        command = world.root / "vm.json"
        words = json.loads(command.read_text())
        at = words.index("-drive")
        drive = words[at + 1].replace(",if=virtio", "").replace(",rerror=stop", "").replace(",cache=unsafe", "")
        if not drive.startswith("driver="):
            drive = f"driver=raw,file.driver=file,file.filename={world.root}/disk.raw"
        devices = [word for device in DEVICES[kind][0] for word in ("-device", device)]
        words[at : at + 2] = ["-blockdev", f"{drive},node-name=drive-scsi0", *devices]
        command.write_text(json.dumps(words))
        world.qm("start", str(VMID))
        return world

    yield make
    for world in worlds:
        world.close()


@pytest.mark.slow
@pytest.mark.real("qemu")
@pytest.mark.parametrize("kind", sampled(DEVICES, "virtio-scsi-single"))
def test_a_queue_has_the_name_of_its_disk(place: Callable[[str, str], World], kind: str) -> None:
    """`scsi0`, as in the configuration, and not the controller that carries it alone."""
    world = place("healthy", kind)
    answer = execute(world, "forensics")
    job = world.root / f"run/breakglass/{VMID}/jobs/{answer.trailer['job']}"
    queues = json.loads((job / "evidence.json").read_text())["evidence"]["queues"]
    assert {queue["disk"] for queue in queues[0]} == {DEVICES[kind][1]}


@pytest.mark.slow
@pytest.mark.real("qemu")
@pytest.mark.parametrize("kind", sampled(DEVICES, "virtio-blk"))
def test_a_failed_request_has_the_name_of_its_disk(place: Callable[[str, str], World], kind: str) -> None:
    """QEMU gives no name for the drive then, but one for the device."""
    world = place("io-error", kind)
    until(lambda: world.monitor("query-status")["status"] == "io-error", "the failed request")  # type: ignore[index]
    verdict = execute(world, "forensics").trailer["verdict"]
    assert (verdict["code"], verdict["evidence"][0]) == ("qemu-io-error", f"{DEVICES[kind][2]}: nospace")


@each_row(
    ("item", "name"),
    [
        ({"device": "", "qdev": "scsi0"}, "scsi0"),
        ({"device": "", "qdev": "/machine/peripheral/virtio0/virtio-backend"}, "virtio0"),
        ({"device": "drive-ide2", "qdev": "ide2"}, "ide2"),
        ({"device": "drive-scsi3"}, "scsi3"),
        ({"device": "virtio0", "qdev": "/machine/peripheral-anon/device[1]/virtio-backend"}, "virtio0"),
        ({"device": ""}, "a disk without a name"),
    ],
)
def test_a_disk_has_one_name(item: dict[str, object], name: str) -> None:
    """It is named by the device's id, by its path, or by the drive where the device has no id."""
    assert disk_name(item) == name


def test_a_controller_of_many_disks_names_them() -> None:
    """Its queues can't be told apart by disk."""
    path = "/machine/peripheral/{}/virtio-backend"
    assert controller_name(path.format("virtioscsi12"), ["scsi12", "ide2"]) == "scsi12"
    assert controller_name(path.format("scsihw0"), ["scsi0", "ide2", "scsi1"]) == "scsihw0 (scsi0, scsi1)"
    assert controller_name(path.format("scsihw0"), []) == "scsihw0"
    assert controller_name("/machine/peripheral-anon/device[1]/virtio-backend", ["scsi0"]) == "device[1]"
