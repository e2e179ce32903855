"""The lines of a capture about the host's changes of the last day, and none of another VM."""

import json
import os
import time
from pathlib import Path

from breakglass.agents.pve.forensics import changes
from breakglass.agents.pve.forensics.changes import Change
from breakglass.agents.pve.forensics.on_changes import read_edits
from breakglass.agents.pve.forensics.probe import ok_reply
from breakglass.agents.pve.host.paths import Host
from breakglass.demo.proxmox.world import VMID

NOW = float(int(time.time()))
KILLED = "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset={},mems_allowed=0,{},task={},pid=32969,uid=0"
OWN = f"/qemu.slice/{VMID}.scope"
FORGED = f"/lxc/103/ns/a,global_oom,task_memcg={OWN},task=x"
HARDWARE = "the host's processor or memory reported a hardware error (machine check)"
MEMORY = "the host ran out of memory, and its kernel killed"
OTHER = f"{MEMORY} a process that is not this VM's"
# Lines of the journal with their writer, each with the evidence. A container chooses the names of its processes and
# cgroups, so no such name may pose as another line, and no number may name another VM.
JOURNAL = [
    ("pve-ha-crm", "service 'vm:102': state changed from 'started' to 'fence'", "HA put the VM into state fence"),
    ("pve-ha-crm", "recover service 'vm:102' from fenced node 'a' to node 'pve1'", "HA moved the VM to node pve1"),
    ("pve-ha-crm", "service 'vm:103': state changed from 'started' to 'fence'", ""),
    ("pve-ha-crm", "recover service 'vm:103' from fenced node 'a' to node 'pve1'", ""),
    ("kernel", KILLED.format("/", "global_oom,task_memcg=/system.slice", "java"), f"{OTHER} (java)"),
    ("kernel", KILLED.format("ns", f"global_oom,task_memcg={OWN}", "kvm"), f"{MEMORY} this VM's QEMU"),
    ("kernel", KILLED.format("ns", f"oom_memcg=/lxc/103,task_memcg={FORGED}", "a"), ""),
    ("kernel", KILLED.format("ns", f"global_oom,task_memcg={FORGED}", "vm 103"), f"{OTHER} (vm N)"),
    ("kernel", KILLED.format("ns", "oom_memcg=/lxc/103,task_memcg=/lxc/103/[Hardware Error]: ", "a"), ""),
    ("kernel", "mce: [Hardware Error]: Machine check events logged", HARDWARE),
    ("kernel", "EDAC MC0: 1 CE memory read error on CPU_SrcID#0_MC#0_Chan#0", HARDWARE),
    ("kernel", "EDAC MC0: 1 CE [4242]: segfault at 0 ip 0000000000401106 sp 00007ffc error 6 in a[401000+1000]", ""),
    (
        "kernel",
        "WARNING: Pool 'tank' has encountered an uncorrectable I/O failure and has been suspended.",
        "ZFS suspended the pool tank because reads or writes failed",
    ),
    ("zed", "eid=2 class=statechange pool='a' vdev_state=FAULTED", "ZFS put a disk of the pool a into state FAULTED"),
    ("zed", "eid=2 class=io pool='vm-103' vdev=sdd1", "ZFS reported io in the pool vm-N"),
    ("kernel", "nfs: server x not responding, still trying", "the NFS server x did not answer the host"),
    ("kernel", "nfs: server nas OK", "the NFS server nas answered the host again"),
    (
        "kernel",
        "critical medium error, dev nvme0n1, sector 1 op 0x0:(READ)",
        "the host's disk nvme0n1 had an I/O error",
    ),
    ("sshd", "nfs: server x not responding, still trying", ""),
]


def test_each_line_of_the_journal() -> None:
    for writer, message, text in JOURNAL:
        found = changes.journal_changes(
            f"{NOW:.6f} pve1 {writer}{'' if writer == 'kernel' else '[77]'}: {message}", VMID
        )
        assert [(change.at, change.text) for change in found] == ([(NOW, text)] if text else []), message


def upid(kind: str, ago: float, node: str = "demo") -> str:
    """Return the UPID of a task, such as `vzdump:102`, that began this many minutes ago."""
    return f"UPID:{node}:0000ABCD:0001E240:{int(NOW - 60 * ago):08X}:{kind}:root@pam:"


def test_each_task_of_the_vm_or_of_its_host() -> None:
    """Another VM's task, and a console, are none."""
    others = [f"{upid(kind, 9)} {int(NOW):08X} OK" for kind in ("qmstop:103", "vncproxy:102")]
    lines = [f"{upid('qmstart:102', 9)} {int(NOW):08X} qm start 103: failed", f"{upid('vzdump:', 9)} 0", *others]
    ended, runs = (work.as_change().text for work in changes.find_work(lines, VMID))
    assert [text for text in ("qmstart of this VM", "root@pam", "qm start N: failed") if text not in ended] == []
    assert [text for text in ("vzdump of the host", "root@pam", "no end yet") if text not in runs] == []


def test_the_packages_on_which_a_vm_depends() -> None:
    def at(seconds: float) -> str:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))

    kernel = "install proxmox-kernel-6.17.4-2-pve-signed:amd64 <none> 6.17.4-2"
    upgrades = ("pve-qemu-kvm:amd64 10.1.2-3 11.0.0-2", "vim:amd64 2:9.1 2:9.2", "qemu-server:amd64 9.2.5 9.2.6")
    lines = [f"{at(NOW - 200_000)} upgrade lvm2:amd64 1 2", f"{at(NOW)} startup archives unpack", f"{at(NOW)} {kernel}"]
    text = "\n".join([*lines, *(f"{at(NOW)} upgrade {each}" for each in upgrades)])
    assert [change.text.partition("(")[2] for change in changes.package_changes(text, NOW)] == [
        "proxmox-kernel-6.17.4-2-pve-signed new 6.17.4-2)",
        "pve-qemu-kvm 10.1.2-3 to 11.0.0-2, qemu-server 9.2.5 to 9.2.6)",
    ]


def test_edited_files_and_tasks_on_other_nodes(tmp_path: Path) -> None:
    """What one of the VM's tasks wrote into the configuration is not an edit."""
    away = upid("hamigrate:102", 10, "pve2")
    messages = [f"end task {upid('qmigrate:103', 9, 'pve2')} OK", f"end task {away} OK", f"starting task {away}"]
    data = [{"time": int(NOW - 540), "node": "pve2", "msg": message} for message in messages]
    for name, at in ((f"qemu-server/{VMID}.conf", NOW - 560), (f"firewall/{VMID}.fw", NOW), ("firewall/103.fw", NOW)):
        path = tmp_path / "etc/pve" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (at, at))
    (tmp_path / "etc/pve/.clusterlog").write_text(json.dumps({"data": data}))

    for found in (["on node pve2", "firewall"], ["on node pve2", "configuration", "firewall"]):
        [reply] = read_edits(Host(VMID, str(tmp_path)))
        texts = [change.text for change in reply.facts["changes"]]  # type: ignore[attr-defined]
        assert [word in text for word, text in zip(found, texts, strict=True)] == [True] * len(found)
        os.utime(tmp_path / f"etc/pve/qemu-server/{VMID}.conf", (NOW, NOW))


def test_at_most_five_lines() -> None:
    """The newest of each kind, with its time, its text escaped; and the sources that did not answer."""
    aged = ((60, "a", "\x1b[31m\u202e"), (120, "a", "older"), (90_000, "b", "old"))
    [line] = changes.describe_changes([Change(NOW - age, kind, text) for age, kind, text in aged], NOW)
    assert (line.startswith(r"\x1b[31m\u202e at "), line.endswith("last of 2")) == (True, True), line
    many = [Change(NOW - number, str(number), "x") for number in range(9)]
    lines = changes.change_lines(
        [ok_reply("tasks", 0.0, "", {"changes": many}, "")], Change(NOW, "boot", "booted"), NOW
    )
    assert lines[0].startswith("booted at ")
    assert (len(lines), lines[4].endswith("Proxmox's statistics, /etc/pve, dpkg's log, the journal")) == (5, True)
