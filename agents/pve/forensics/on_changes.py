"""Tiers 2 and 3 of a capture: the sources that show changes on the host, each in its own probe."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from ..host.cluster import node_name
from ..host.paths import Host, boottime, read_json
from ..host.pve_tasks import read_index
from .changes import CHANGE_PATTERN, Change, Work, describe_changes, find_work, journal_changes, package_changes
from .probe import Reply, ok_reply, read_last, run_command

_LOG_BYTES = 256 * 1024
# Matches entries by the kernel, or by root under these names, because any user of the host can use a name.
_BY_ROOT = ("SYSLOG_IDENTIFIER=zed", "SYSLOG_IDENTIFIER=pve-ha-crm", "SYSLOG_IDENTIFIER=pve-ha-lrm", "_UID=0")
_LAST_DAY = ("-q", "-n", "1000", "--no-pager", "-o", "short-unix", "--since", "-24h", "--grep", CHANGE_PATTERN)
_CHANGE_JOURNAL = ("journalctl", *_LAST_DAY, "_TRANSPORT=kernel", "+", *_BY_ROOT)
_NO_MATCH = "[exit 1]"  # without output, this code means that no entry matches the pattern
_EDITED = {
    "/etc/pve/qemu-server/{}.conf": "the VM's configuration was changed",
    "/etc/pve/firewall/{}.fw": "the VM's firewall rules were changed",
    "/etc/pve/firewall/cluster.fw": "the cluster's firewall rules were changed",
    "/etc/pve/storage.cfg": "the storages' configuration was changed",
    "/etc/pve/corosync.conf": "the configuration of the cluster's network was changed",
    "/etc/network/interfaces": "the configuration of the host's network was changed",
}


def boot_change() -> Change:
    """Return the host's last boot."""
    return Change(time.time() - boottime(), "boot", f"the host booted with kernel {os.uname().release}")


def own_work(host: Host) -> list[Work]:
    """Return the tasks in this node's log that bear on the VM; Proxmox starts a new log at 50,000 bytes."""
    older = host.path("/var/log/pve/tasks/index.1")
    lines = read_last(older, _LOG_BYTES).splitlines() if os.path.exists(older) else []
    return find_work([*lines, *read_index(host)], host.vmid)


def _list_changes(changes: list[Change]) -> str:
    return "\n".join(describe_changes(changes, time.time())) or "nothing that can affect the VM changed within 24 h"


def read_packages(host: Host) -> Iterator[Reply]:
    """Report the upgrades in dpkg's log, and in the one before it, because a new log begins each month."""
    began, log = time.monotonic(), host.path("/var/log/dpkg.log")
    text = read_last(log, _LOG_BYTES)
    if os.path.exists(f"{log}.1"):
        text = f"{read_last(f'{log}.1', _LOG_BYTES)}\n{text}"
    found = package_changes(text, time.time())
    yield ok_reply("packages", began, _list_changes(found), {"changes": found}, "/var/log/dpkg.log")


def read_journal(host: Host, seconds: float) -> Iterator[Reply]:
    """Report what the kernel, ZFS and HA wrote; `seconds` is what journalctl may take."""
    found: list[Change] = []

    def learn(text: str) -> dict[str, object]:
        found.extend(journal_changes(text, host.vmid))
        return {"changes": found}

    reply = run_command("journal", seconds, *_CHANGE_JOURNAL, learn=learn)
    is_read = reply.outcome == "ok" or reply.text == _NO_MATCH
    yield replace(reply, outcome="ok", text=_list_changes(found)) if is_read else reply


def read_edits(host: Host) -> Iterator[Reply]:
    """Report the edited files and the VM's tasks on other nodes, on a host whose /etc/pve answers.

    A change that one of the VM's tasks wrote into the configuration is not an edit.
    """
    began = time.monotonic()
    away = find_work(_read_cluster_log(host), host.vmid)
    found = [work.as_change(is_away=True) for work in away]
    works = [*away, *own_work(host)]
    for path, clause in _EDITED.items():
        with suppress(FileNotFoundError):
            at = os.stat(host.path(path.format(host.vmid))).st_mtime
            if "qemu-server" not in path or not any(work.covers(at) for work in works):
                found.append(Change(at, clause, clause))
    yield ok_reply("edits", began, _list_changes(found), {"changes": found}, "/etc/pve")


def _read_cluster_log(host: Host) -> Iterator[str]:
    """Yield the tasks of other nodes in the cluster's last 50 messages, oldest first, as lines of the task index."""
    known = (read_json(host.path("/etc/pve/.clusterlog")) or {}).get("data")
    for entry in reversed(known if isinstance(known, list) else []):
        verb, _, rest = str(entry["msg"]).partition(" task ")
        upid, _, status = rest.partition(" ")
        if verb in ("starting", "end") and entry["node"] != node_name():
            yield f"{upid} {entry['time']:08X} {status}" if verb == "end" else upid
