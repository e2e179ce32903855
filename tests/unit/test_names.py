"""Disks under the names that people know them by, with the devices as Proxmox 9 makes them (-blockdev, no drive)."""

from breakglass.agents.pve.forensics.on_qemu import controller_name, disk_name

from ..support.rows import each_row


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
