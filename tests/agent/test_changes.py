"""A capture names the host's changes of the last day, and none of another VM."""

import os
import re
import shutil
from collections.abc import Iterator

import pytest

from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import booted_an_hour_ago, execute, set_constants
from ..support.host_logs import cluster_log, dpkg_log, edited, ended, journal, quiet_logs, task_log, upid

KILLED = "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset={},mems_allowed=0,{},task={},pid=32969,uid=0"
OWN = f"/qemu.slice/{VMID}.scope"
CONF = f"etc/pve/nodes/demo/qemu-server/{VMID}.conf"
AT = r"\d\d:\d\d UTC \(\d+ (?:min|h) ago\)"
FAILED = "critical medium error, dev {}, sector 1234 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2"


@pytest.fixture
def world(world: World) -> Iterator[World]:
    """A host on which nothing has changed since it booted an hour ago."""
    booted_an_hour_ago(world)
    shutil.rmtree(world.root / "var/log/pve", ignore_errors=True)
    planted = quiet_logs(world)
    yield world
    for path in planted:
        path.unlink(missing_ok=True)
    shutil.rmtree(world.root / "etc/pve/firewall", ignore_errors=True)


def changes_of(world: World) -> list[str]:
    """Return the lines of a capture's evidence about changes, and the sources that are not known."""
    evidence = execute(world, "forensics").trailer["verdict"]["evidence"]
    return [line for line in evidence if line[:8] != "Proxmox'" and ("UTC (" in line or "could not read" in line)]


# Files that were edited, and lines of the journal with their writer, each with the evidence, to which a time is added.
EDITED = {
    CONF: "the VM's configuration was changed",
    f"etc/pve/firewall/{VMID}.fw": "the VM's firewall rules were changed",
    "etc/pve/storage.cfg": "the storages' configuration was changed",
}
HARDWARE = "the host's processor or memory reported a hardware error (machine check)"
MEMORY = "the host ran out of memory, and its kernel killed"
NFS = "the NFS server"
JOURNAL = [
    ("pve-ha-crm", "service 'vm:102': state changed from 'started' to 'fence'", "HA put the VM into state fence"),
    (
        "kernel",
        KILLED.format("/", "global_oom,task_memcg=/system.slice", "java"),
        f"{MEMORY} a process that is not this VM's (java)",
    ),
    ("kernel", "mce: [Hardware Error]: Machine check events logged", HARDWARE),
    (
        "kernel",
        "WARNING: Pool 'tank' has encountered an uncorrectable I/O failure and has been suspended.",
        "ZFS suspended the pool tank because reads or writes failed",
    ),
    *[("kernel", "nfs: server x not responding, still trying", f"{NFS} x did not answer the host, the last of 3")] * 3,
    ("kernel", FAILED.format("nvme0n1"), "the host's disk nvme0n1 had an I/O error"),
]
# Lines of the same kinds as two of these, which would be counted with them.
LATER = [
    ("pve-ha-crm", "recover service 'vm:102' from fenced node 'pve2' to node 'pve1'", "HA moved the VM to node pve1"),
    ("kernel", KILLED.format("ns", f"global_oom,task_memcg={OWN}", "kvm"), f"{MEMORY} this VM's QEMU"),
]
OTHERS = {
    f"the host booted with kernel {os.uname().release}",
    "the task qmsnapshot of this VM by root@pam ended with VM is locked (backup), the last of 2",
    "the task vzdump of the host by root@pam has no end yet and began",
    "the task hamigrate of this VM by root@pam on node pve2 ended with OK",
    "the host changed its packages (pve-qemu-kvm 10.1.2-3 to 11.0.0-2, qemu-server 9.2.5 to 9.2.6)",
    "the host changed its kernel (proxmox-kernel-6.17.4-2-pve-signed new 6.17.4-2)",
}


def test_each_change_is_named(world: World) -> None:
    """Each has one line with its time, and there are no others. There is room for all of them here."""
    set_constants(world, MOST_CHANGES=100)
    task_log(world, ended("qmsnapshot:102", 900), ended("qmsnapshot:102", 9, "VM is locked (backup)"))
    task_log(world, f"{upid('vzdump:', 9)} 0", name="active")
    hamigrate = upid("hamigrate:102", 10, "pve2")
    cluster_log(world, (10, "pve2", f"starting task {hamigrate}"), (9, "pve2", f"end task {hamigrate} OK"))
    packages = ("pve-qemu-kvm:amd64 10.1.2-3 11.0.0-2", "vim:amd64 2:9.1 2:9.2", "qemu-server:amd64 9.2.5 9.2.6")
    dpkg_log(world, *((9, f"upgrade {package}") for package in packages))
    kernel = "install proxmox-kernel-6.17.4-2-pve-signed:amd64 <none> 6.17.4-2"
    dpkg_log(world, (9, kernel), name="dpkg.log.1")
    for name in EDITED:
        edited(world, name, 30)  # when no task ran, because a task of the VM changes its configuration too
    for entries in (JOURNAL, LATER):
        (world.root / "journal.json").unlink(missing_ok=True)
        journal(world, *((30 - number, writer, message) for number, (writer, message, _) in enumerate(entries)))
        lines = [re.sub(f" at {AT}", "", line) for line in changes_of(world)]
        assert sorted(lines) == sorted({*EDITED.values(), *OTHERS, *(expected for *_, expected in entries)})


def test_nothing_of_another_vm_and_no_forged_line(world: World) -> None:
    """Numbers in logs, a container's names, control characters, old entries and a task's own changes add no line."""
    task_log(world, ended("qmstop:103", 8), ended("qmstart:102", 7, "qm start 103: \x1b[31mfailed\u202e"))
    task_log(world, ended("qmstart:102", 3000, "old"), ended("vncproxy:102", 6))
    cluster_log(world, (8, "pve2", f"end task {upid('qmigrate:103', 9, 'pve2')} OK"))
    edited(world, "etc/pve/firewall/103.fw", 8)
    edited(world, CONF, 7.5)  # while that start ran
    dpkg_log(world, (3000, "upgrade qemu-server:amd64 9.2.5 9.2.6"))
    forged = f"/lxc/103/ns/a,global_oom,task_memcg={OWN},task=x"
    journal(
        world,
        (8, "kernel", KILLED.format("ns", f"oom_memcg=/lxc/103,task_memcg={forged}", "a")),
        (7.2, "kernel", KILLED.format("ns", f"global_oom,task_memcg={forged}", "vm 103 \x1b")),
        (7, "kernel", KILLED.format("ns", "oom_memcg=/lxc/103,task_memcg=/lxc/103/[Hardware Error]: ", "a")),
        (7, "kernel", "EDAC MC0: 1 CE [4242]: segfault at 0 ip 0000000000401106 sp 00007ffc error 6 in a[401000+1000]"),
        (6, "pve-ha-crm", "service 'vm:103': state changed from 'started' to 'fence'"),
        (6, "pve-ha-crm", "recover service 'vm:103' from fenced node 'pve2' to node 'pve1'"),
        (5, "zed", "eid=2 class=io pool='vm-103' vdev=sdd1"),
        (3000, "kernel", "nfs: server 192.0.2.9 not responding, still trying"),
    )
    journal(world, (4, "kernel", FAILED.format("sdx")), (4, "zed", "eid=2 class=io pool='forged'"), uid=1000)
    lines = changes_of(world)
    assert [re.sub(f" at {AT}", "", line) for line in lines] == [
        "ZFS reported io in the pool vm-N",
        r"the task qmstart of this VM by root@pam ended with qm start N: \x1b[31mfailed\u202e",
        r"the host ran out of memory, and its kernel killed a process that is not this VM's (vm N \x1b)",
        lines[-1].partition(" at ")[0],
    ]
    assert lines[-1].startswith("the host booted")
