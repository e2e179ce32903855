"""A VM's configuration, read by Proxmox's own rules: pending options, storages, the time that a start may take."""

from breakglass.agents.pve.forensics.on_proxmox import disk_storages
from breakglass.agents.pve.host.vm_config import current_options, pending_options, start_seconds

from ..support.rows import each_row, read_rows

CONF = read_rows("vm_files.yaml")["conf"]


def test_each_option_is_that_of_its_section() -> None:
    """Pending options are the set and deleted ones, by name, and those in force end at the first section.

    A forced deletion loses its mark. Each storage of the VM's own disks is listed once, without CD-ROMs, devices of the
    host, unused volumes and snapshots.
    """
    assert pending_options(CONF) == ["memory", "serial0", "net1"]
    assert pending_options("memory: 512\n") == []
    assert (current_options(CONF)["memory"], "snaptime" in current_options(CONF)) == ("4096", False)
    assert disk_storages(CONF) == ["nvme", "local-lvm", "nas"]


@each_row(("conf", "seconds", "why"), read_rows("vm_files.yaml")["starts"])
def test_a_start_gets_the_time_that_proxmox_gives_it(conf: str, seconds: float, why: list[str]) -> None:
    """The time depends on memory, passed-through devices, hugepages, sleep on disk and network cards."""
    assert start_seconds(conf) == (seconds, why)
