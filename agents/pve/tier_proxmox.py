"""Tier 2 of a capture: Proxmox's own view, a second source that needs /etc/pve and says less when that hangs."""

import glob
import json
import os
import re
import time
from collections.abc import Iterator

from .asking import Probe, Reply, command_probe, replied
from .cluster import CLUSTER_SECONDS, cluster_view, node_name
from .host import Host
from .locks import TASK_SECONDS, owner_of, task_lines

_LAST_TASKS = 10


def proxmox_probes(host: Host) -> list[Probe]:
    vmid = str(host.vmid)
    vm = f"/nodes/{node_name()}/qemu/{vmid}"
    return [
        command_probe(2, "qm status", 5, "qm", "status", vmid, "--verbose", learn=word_of_qm),
        command_probe(2, "qm config", 5, "qm", "config", vmid),
        command_probe(2, "qm pending", 5, "qm", "pending", vmid, learn=staged),
        command_probe(2, "pvesh status", 5, "pvesh", "get", f"{vm}/status/current", "--output-format", "json"),
        command_probe(2, "rrddata", 5, "pvesh", "get", f"{vm}/rrddata", *_LAST_HOUR, learn=quiet_minutes),
        command_probe(2, "ha", 5, "ha-manager", "status"),
        command_probe(2, "pvecm", 5, "pvecm", "status"),
        command_probe(2, "pveversion", 5, "pveversion"),
        Probe(2, "cluster", CLUSTER_SECONDS + 2 * TASK_SECONDS + 1, lambda _: _cluster(host)),
        Probe(2, "tasks", 2, lambda _: _tasks(host)),
    ]


_LAST_HOUR = ("--timeframe", "hour", "--output-format", "json")


def _cluster(host: Host) -> Iterator[Reply]:
    """Say what /etc/pve says, and of a lock whether the task that took it still lives."""
    began = time.monotonic()
    view = cluster_view(host)
    if view.trouble:
        yield Reply("cluster", "/etc/pve", "timed out", round(time.monotonic() - began, 3), "/etc/pve does not answer")
        return
    facts: dict[str, object] = {"lock": view.lock, "ha": view.ha, "ha_seen": view.ha_seen, "node": view.node}
    lines = [f"quorum: {'yes' if view.quorate else 'no'}", f"lock: {view.lock or 'none'}"]
    lines += [f"the configuration is on node {view.node}"] if view.node else []
    lines += [f"HA: requested {view.ha}, now {view.ha_seen or 'not known'}"] if view.ha else []
    if view.lock:
        owner = owner_of(host, view.lock)
        facts |= {"lock_alive": owner.alive, "lock_owner": owner.lines}
        lines += owner.lines
    yield replied("cluster", began, "\n".join(lines), facts, "/etc/pve")


def _tasks(host: Host) -> Iterator[Reply]:
    """Show the last tasks of the VM, and the end of the newest one's log."""
    began = time.monotonic()
    mine = task_lines(host)[-_LAST_TASKS:]
    logs = glob.glob(host.path(f"/var/log/pve/tasks/?/UPID:*:{host.vmid}:*"))
    newest = sorted(logs, key=os.path.getmtime)[-1:]
    with_end = [f"{os.path.basename(log)}\n{_end_of(log)}" for log in newest]
    text = "\n".join([*mine, *with_end]) or "no task of this VM is known"
    yield replied("tasks", began, text, command="/var/log/pve/tasks")


def _end_of(path: str) -> str:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 4096))
        return file.read().decode("utf-8", "replace")


# --- what the commands say, as facts ---


def word_of_qm(text: str) -> dict[str, object]:
    """Return `qm status`'s own word. It says `running` of a QEMU that is silent, too: then running-qemu is missing."""
    found = dict(re.findall(r"^([a-z-]+): (.*)$", text, re.MULTILINE))
    word = found.get("qmpstatus") or found.get("status", "")
    silent = word == "running" and "running-qemu" not in found
    return {"qm_says": f"{word}, and that QEMU is silent" if silent else word}


def staged(text: str) -> dict[str, object]:
    """Return the options that wait for a new QEMU process: `qm pending` marks them `new` or `del`."""
    return {"pending": re.findall(r"^(?:new|del) ([A-Za-z0-9_]+)", text, re.MULTILINE)}


def quiet_minutes(text: str) -> dict[str, object]:
    """Return for how many minutes Proxmox's own statistics know of no disk write, when there was one in that hour."""
    try:
        rows = [row for row in json.loads(text) if isinstance(row.get("diskwrite"), int | float)]
        wrote = [row["time"] for row in rows if row["diskwrite"] > 0]
        return {"quiet_minutes": int(rows[-1]["time"] - wrote[-1]) // 60} if wrote else {}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
