"""A VM's configuration, read by Proxmox's own rules: pending options, storages, the time that a start may take."""

from breakglass.agents.pve.forensics.on_proxmox import disk_storages
from breakglass.agents.pve.host.vm_config import current_options, pending_options, start_seconds

from ..support.rows import each_row, read_rows

CONF = """#a comment
boot: order=scsi0;ide2
efidisk0: nvme:vm-102-disk-1,size=4M
ide2: iso:iso/debian.iso,media=cdrom,size=400M
memory: 4096
net0: virtio=BC:24:11:00:00:01,bridge=vmbr0
scsi0: local-lvm:vm-102-disk-0,iothread=1,size=32G
scsi1: local-lvm:vm-102-disk-2,size=32G
scsi2: /dev/disk/by-id/ata-thing,size=1T
scsi3: none
unused0: old:vm-102-disk-9
virtio0: file=nas:102/vm-102-disk-3.qcow2

[PENDING]
memory: 8192
delete: serial0,!net1

[before-upgrade]
memory: 1024
scsi5: gone:vm-102-disk-5
snaptime: 1700000000
"""


def test_pending_options_are_those_of_their_section() -> None:
    """They are the set and deleted ones, by name. A forced deletion loses its mark."""
    assert pending_options(CONF) == ["memory", "serial0", "net1"]
    assert pending_options("memory: 512\n") == []


def test_options_in_force_end_at_the_first_section() -> None:
    assert current_options(CONF)["memory"] == "4096"
    assert "snaptime" not in current_options(CONF)


def test_the_storages_of_the_vms_own_disks() -> None:
    """Each is listed once, without CD-ROMs, devices of the host, unused volumes and snapshots."""
    assert disk_storages(CONF) == ["nvme", "local-lvm", "nas"]


@each_row(
    ("conf", "seconds", "why"),
    read_rows("vm_files.yaml")["starts"],
)
def test_a_start_gets_the_time_that_proxmox_gives_it(conf: str, seconds: float, why: list[str]) -> None:
    """The time depends on memory, passed-through devices, hugepages, sleep on disk and network cards."""
    assert start_seconds(conf) == (seconds, why)
