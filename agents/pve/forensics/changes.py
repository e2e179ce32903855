"""What changed on the host within 24 hours that bears on the VM: at most five lines, with times. Pure.

A line is made of single words of the host's logs, never of a whole line, because it can contain another VM's number,
and a container chooses the names of its processes and cgroups.
"""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ..grammar import escape
from ..host.pve_tasks import Task, parse_task
from ..words import DAY
from .before_fault import moment
from .probe import Reply

MOST_CHANGES = 5
_MOST_PACKAGES = 3
_WORD_CHARS = 60

# The probes that find changes, and what each of them reads.
SOURCES = {
    "rrddata": "Proxmox's statistics",
    "tasks": "the task log",
    "edits": "/etc/pve",
    "packages": "dpkg's log",
    "journal": "the journal",
}


class Change(NamedTuple):
    """One change: its time, its kind, of which only the newest is shown, and a clause to which the time is added."""

    at: float
    kind: str
    text: str


def change_lines(replies: Iterable[Reply], booted: Change, now: float) -> list[str]:
    """Return the newest changes and the sources that gave no answer; nothing if no source was asked."""
    asked = [reply for reply in replies if reply.probe in SOURCES]
    if not asked:
        return []
    found = [booted]
    for reply in asked:
        each = reply.facts.get("changes", [])
        found += [Change(*change) for change in each] if isinstance(each, list) else []
    answered = {reply.probe for reply in asked if reply.outcome == "ok"}
    unknown = [words for name, words in SOURCES.items() if name not in answered]
    note = [f"the host could not read what changed within 24 h from {', '.join(unknown)}"] if unknown else []
    return [*describe_changes(found, now)[: MOST_CHANGES - len(note)], *note]


def describe_changes(changes: Iterable[Change], now: float) -> list[str]:
    """Return a line for each kind of change within 24 hours, the newest first."""
    kinds: dict[str, list[Change]] = {}
    for change in sorted((change for change in changes if now - change.at < DAY), reverse=True):
        kinds.setdefault(change.kind, []).append(change)
    counts = [f", the last of {len(others) + 1}" if others else "" for _, *others in kinds.values()]
    newest = [(escape(kind[0].text), moment(kind[0].at, now)) for kind in kinds.values()]
    return [f"{text} at {at}{count}" for (text, at), count in zip(newest, counts, strict=True)]


_NUMBER = re.compile(r"(?<!\d)(?<!\d[.:])\d{3,9}(?!\d|[.:]\d)")  # not part of an address or a version


def _quote(words: str) -> str:
    """Return a log's words, shortened, without any number that could name another VM."""
    return _NUMBER.sub("N", words)[:_WORD_CHARS]


# --- the task log ---

_OF_THE_HOST = ("vzdump", "startall", "stopall", "suspendall", "migrateall")
_CONSOLES = ("vncproxy", "spiceproxy", "termproxy")
_END = re.compile(r"UPID:\S+ (?:[01] )?([0-9A-F]{8})\b")


@dataclass(frozen=True)
class Work:
    """A task for the VM, or for all VMs of its host; `ended` is None where the log has no end."""

    task: Task
    began: float
    ended: float | None

    def covers(self, at: float) -> bool:
        """Tell whether the task was running at that time. Its last write may come a moment after its end."""
        return self.began <= at and (self.ended is None or at <= self.ended + 2)

    def as_change(self, is_away: bool = False) -> Change:
        """Return the change that the task made; `is_away` is whether another node ran it."""
        where = f" on node {self.task.upid.split(':')[1]}" if is_away else ""
        of = "this VM" if self.task.id else "the host"
        what = f"the task {self.task.type} of {of} by {_quote(self.task.user)}{where}"
        how = f"ended with {_quote(self.task.end)}" if self.ended else "has no end yet and began"
        return Change(self.ended or self.began, f"task {self.task.type}", f"{what} {how}")


def find_work(lines: Iterable[str], vmid: int) -> list[Work]:
    """Return the tasks in the task index that affect the VM, each by its last line. A console task does not count."""
    found = {}
    for line in lines:
        task, end = parse_task(line), _END.search(line)
        is_ours = task and (task.id == str(vmid) or (not task.id and task.type in _OF_THE_HOST))
        if task and is_ours and task.type not in _CONSOLES:
            began = int(task.upid.split(":")[4], 16)
            found[task.upid] = Work(task, began, int(end[1], 16) if end else None)
    return list(found.values())


# --- dpkg's log: `2026-11-30 14:02:11 upgrade qemu-server:amd64 9.2.5 9.2.6`, in local time ---

_PACKAGE = re.compile(r"([\d-]{10} [\d:]{8}) (install|upgrade|remove) ([^\s:]+)\S* (\S+) (\S+)")
_WANTED = {
    "kernel": re.compile(r"(?:proxmox-kernel|pve-kernel|linux-image)-\d.*"),
    "packages": re.compile(
        r"pve-.*|qemu-server|libpve-.*|corosync|lib(?:knet|quorum|zpool|zfs).*|zfs.*|ceph.*|librbd.*|lvm2|swtpm.*|udev"
        r"|.*-microcode|openvswitch.*|ifupdown2|nfs-common|open-iscsi|multipath-tools|systemd"
    ),
}


def package_changes(text: str, now: float) -> list[Change]:
    """Return one change for the kernels and one for the other packages on which a VM depends."""
    changes: dict[str, list[Change]] = {kind: [] for kind in _WANTED}
    for local, verb, name, old, new in (line.groups() for line in map(_PACKAGE.fullmatch, text.splitlines()) if line):
        at = time.mktime(time.strptime(local, "%Y-%m-%d %H:%M:%S"))
        kind = next((kind for kind, wanted in _WANTED.items() if wanted.fullmatch(name)), "")
        if kind and now - at < DAY:
            how = {"install": f"new {new}", "upgrade": f"{old} to {new}", "remove": "removed"}[verb]
            changes[kind].append(Change(at, kind, f"{name} {how}"))
    return [_join_packages(found) for found in changes.values() if found]


def _join_packages(found: list[Change]) -> Change:
    names = ", ".join(each.text for each in found[-_MOST_PACKAGES:])
    more = f" and {len(found) - _MOST_PACKAGES} more" if len(found) > _MOST_PACKAGES else ""
    return found[-1]._replace(text=f"the host changed its {found[-1].kind} ({names}{more})")


# --- the journal: `1796041234.567890 pve1 kernel: nfs: server 192.0.2.9 not responding, still trying` ---

_JOURNAL_LINE = re.compile(r"(\d+)\.\d+ \S+ (kernel|zed|pve-ha)(?:-crm|-lrm)?(?:\[\d+\])?: (.*)")
# CHANGE_PATTERN is what journalctl looks for. A row has the writer of a journal line, the kind of change, the message
# (VMID is the VM's number), and the clause. In the OOM killer's line, a container can't choose any text before the
# memcg; a cpuset is one name, or / alone. A line about a crash begins with a process's name, which any user can choose.
CHANGE_PATTERN = r"^oom-kill.*global_oom|^\S* ?\[Hardware|^EDAC MC|^nfs: | error, dev |^WARNING: Pool|^eid=|vm:|^node '"
_ROWS = (
    ("kernel", "oom", r"oom-kill:[^/]*,cpuset=/?[^/]*,global_oom,task_memcg=/qemu\.slice/VMID\.scope,task=.*",
     "the host ran out of memory, and its kernel killed this VM's QEMU"),
    ("kernel", "oom", r"oom-kill:[^/]*,cpuset=/?[^/]*,global_oom,task_memcg=/.*,task=(?P<name>.*),pid=\d+,uid=\d+",
     "the host ran out of memory, and its kernel killed a process that is not this VM's ({name})"),
    ("kernel", "hardware", r"(?:(?:\w+: |\{\d+\})?\[Hardware Error\]|EDAC MC\d+: \d+ [CU]E [a-zA-Z]).*",
     "the host's processor or memory reported a hardware error (machine check)"),
    ("kernel", "nfs {server}", r"nfs: server (?P<server>\S+) not responding.*",
     "the NFS server {server} did not answer the host"),
    ("kernel", "nfs {server}", r"nfs: server (?P<server>\S+) OK", "the NFS server {server} answered the host again"),
    ("kernel", "disk", r"(?:blk_update_request: )?(?:I/O|critical \w+) error, dev (?P<dev>[\w-]+), .*",
     "the host's disk {dev} had an I/O error"),
    ("kernel", "zfs {pool}", r"WARNING: Pool '(?P<pool>[^']+)' has encountered an uncorrectable I/O failure.*",
     "ZFS suspended the pool {pool} because reads or writes failed"),
    ("zed", "zfs {pool}", r"eid=\d+ class=statechange pool='(?P<pool>[^']*)'.* vdev_state=(?P<state>[A-Z]+).*",
     "ZFS put a disk of the pool {pool} into state {state}"),
    ("zed", "zfs {what}", r"eid=\d+ class=(?P<what>io|checksum|data|deadman|delay|scrub_start) pool='(?P<pool>[^']*).*",
     "ZFS reported {what} in the pool {pool}"),
    ("pve-ha", "ha", r"(?:\w+ service 'vm:VMID'|service vm:VMID - start) .*node '(?P<node>[\w-]+)'.*",
     "HA moved the VM to node {node}"),
    ("pve-ha", "ha", r"service 'vm:VMID': state changed from '\w+' to '(?P<state>fence|recovery|error)'.*",
     "HA put the VM into state {state}"),
    ("pve-ha", "node", r"node '(?P<node>[\w-]+)': state changed from '\w+' => '(?P<state>unknown|fence|maintenance)'",
     "HA saw node {node} in state {state}"),
)  # fmt: skip


def journal_changes(text: str, vmid: int) -> list[Change]:
    """Return the changes that the host's kernel, ZFS and HA wrote into the journal (`-o short-unix`)."""
    rows = [(by, kind, re.compile(message.replace("VMID", str(vmid))), clause) for by, kind, message, clause in _ROWS]
    found = []
    for at, writer, message in (line.groups() for line in map(_JOURNAL_LINE.fullmatch, text.splitlines()) if line):
        for by, kind, pattern, clause in rows:
            if writer == by and (match := pattern.fullmatch(message)):
                words = {name: _quote(word) for name, word in match.groupdict().items()}
                found.append(Change(float(at), kind.format(**words), clause.format(**words)))
                break
    return found
