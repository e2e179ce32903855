"""Tier 2 of a capture: Proxmox's own view, a second source, which knows less when /etc/pve hangs.

Files are read instead of running Proxmox's commands where that is possible: each command starts a Perl interpreter and
costs up to a second of processor time, so ten commands at once would be late even on a healthy host.
"""

import glob
import os
import re
import time
from collections.abc import Iterator

from ..host.cluster import CLUSTER_SECONDS, NOT_ASKED, Cluster, cluster_view, is_placeless, is_stale_copy, node_name
from ..host.paths import Host, read_json
from ..host.process import process_ticks
from ..host.pve_tasks import TASK_SECONDS, find_lock_owner, parse_task, read_index
from ..host.vm_config import current_options, pending_options
from .before_fault import before_lines
from .ha_daemons import find_dead_ha
from .obstacles import TROUBLES
from .on_changes import own_work
from .probe import Probe, Reply, command_probe, ok_reply, read_last, read_text

PERL_SECONDS = 8.0  # `qm status` waits 3 s for a silent QEMU, and a busy host needs several seconds to run it
_LAST_TASKS = 10
_DISK = re.compile(r"(?:ide|sata|scsi|virtio|efidisk|tpmstate)[0-9]+")
_LAST_HOUR = ("--timeframe", "hour", "--output-format", "json")
_SECRETS = re.compile(r"^(cipassword):.*$", re.MULTILINE)


def cluster_probe(host: Host, seconds: float = CLUSTER_SECONDS) -> Probe:
    """Return the probe of /etc/pve, which counts as hung without an answer in `seconds`."""
    return Probe(2, "cluster", seconds + 2 * TASK_SECONDS + 1, lambda _: _ask_cluster(host, seconds))


def log_probes(host: Host) -> list[Probe]:
    """Return the probes of the host's own disk: the tasks' log, and Proxmox's version."""
    return [Probe(2, "tasks", 3, lambda _: _read_tasks(host)), Probe(2, "version", 3, lambda _: _read_version(host))]


def perl_probes(host: Host) -> list[Probe]:
    """Return the probes that need Proxmox's own commands: `qm status`, and the statistics."""
    vmid = str(host.vmid)
    statistics = f"/nodes/{node_name()}/qemu/{vmid}/rrddata"
    return [
        command_probe(
            2, "qm status", PERL_SECONDS, "qm", "status", vmid, "--verbose", learn=parse_qm_status, is_perl=True
        ),
        command_probe(
            2, "rrddata", PERL_SECONDS, "pvesh", "get", statistics, *_LAST_HOUR, learn=_parse_statistics, is_perl=True
        ),
    ]


# --- /etc/pve ---


def _ask_cluster(host: Host, seconds: float) -> Iterator[Reply]:
    """Report what /etc/pve says, and whether the task that took a lock still runs."""
    began = time.monotonic()
    view = cluster_view(host, seconds)
    if view.trouble:
        yield _cluster_away(view.trouble, is_placeless(host, view), began)
        return
    facts = {**cluster_facts(view), "stale": is_stale_copy(host, view)}
    lines = [f"quorum: {'yes' if view.quorate else 'no'}", f"lock: {view.lock or 'none'}"]
    lines += [f"the configuration is on node {view.node}"] if view.node else []
    lines += [f"HA: requested {view.ha}, now {view.ha_seen or 'not known'}"] if view.ha else []
    yield ok_reply("cluster", began, "\n".join(lines), facts, "/etc/pve")
    if view.config:
        yield ok_reply("configuration", began, redact_config(view.config_text), command=f"{host.vmid}.conf")
    yield _read_members(host)
    if view.ha:
        yield ok_reply("ha", began, "\n".join(ha_status_lines(view, time.time())), command="manager_status, lrm_status")
    if view.lock:
        began = time.monotonic()
        owner = find_lock_owner(host, view.lock)
        yield ok_reply(
            "lock", began, "\n".join(owner.lines), {"lock_alive": owner.alive, "lock_owner": owner.lines}, "tasks"
        )


def _cluster_away(trouble: str, placeless: bool, began: float) -> Reply:
    text = "\n".join([*TROUBLES[trouble], "Proxmox's commands need /etc/pve, so they were not run"])
    outcome, facts = "timed out" if trouble == "pmxcfs-hung" else "failed", {"pve": trouble, "placeless": placeless}
    return Reply("cluster", "/etc/pve", outcome, round(time.monotonic() - began, 3), text, facts)


def cluster_facts(view: Cluster) -> dict[str, object]:
    """Return a look at /etc/pve as facts of Evidence; no facts if it was not read."""
    if view is NOT_ASKED:
        return {}
    if view.trouble:
        return {"pve": view.trouble}
    return {
        "quorate": view.quorate,
        "placeless": not view.quorate,
        "config": view.config,
        "node": view.node,
        "container": view.container,
        "lock": view.lock,
        "ha": view.ha,
        "ha_seen": view.ha_seen,
        "ha_goal": view.ha_goal,
        "ha_dead": find_dead_ha(view),
        "node_seen": view.node_seen,
        "pending": pending_options(view.config_text),
        "storages": disk_storages(view.config_text),
    }


def disk_storages(text: str) -> list[str]:
    """Return the ids of the storages that the VM's own disks are on, in order; a CD-ROM does not count as a disk."""
    found = []
    for name, value in current_options(text).items():
        volume, _, rest = value.removeprefix("file=").partition(",")
        storage, is_volume, _ = volume.partition(":")
        if _DISK.fullmatch(name) and is_volume and "media=cdrom" not in rest and not volume.startswith("/"):
            found.append(storage)
    return list(dict.fromkeys(found))


def redact_config(text: str) -> str:
    """Return a configuration without snapshots and password, as `qm config` and `qm pending` print it."""
    shown, sections = [], ("", "[PENDING]")
    section = ""
    for line in text.splitlines():
        section = line.strip() if line.startswith("[") else section
        shown += [line] if section in sections else []
    return _SECRETS.sub(r"\1: **********", "\n".join(shown))


def _read_members(host: Host) -> Reply:
    began = time.monotonic()
    known = read_json(host.path("/etc/pve/.members")) or {}
    return ok_reply("members", began, "\n".join(member_lines(known)), command="/etc/pve/.members")


def member_lines(members: dict[str, object]) -> list[str]:
    """Return a line for each node of the cluster and whether it is online, by pmxcfs's .members."""
    cluster, nodes = members.get("cluster"), members.get("nodelist")
    if not isinstance(cluster, dict) or not isinstance(nodes, dict):
        return [f"{members.get('nodename', 'this node')} is in no cluster"]
    online = {name: isinstance(node, dict) and bool(node.get("online")) for name, node in sorted(nodes.items())}
    lines = [f"{name}: {'online' if is_online else 'offline'}" for name, is_online in online.items()]
    return [f"cluster {cluster.get('name')}, quorate {cluster.get('quorate')}", *lines]


def ha_status_lines(view: Cluster, now: float) -> list[str]:
    """Return what `ha-manager status` is made of: HA's master, the nodes and the VM's LRM, with the age of both files.

    The first line says that HA is dead, if it is.
    """
    nodes, lrm, dead = view.manager.get("node_status"), view.lrm, find_dead_ha(view, now)
    states = sorted(nodes.items()) if isinstance(nodes, dict) else []
    return [
        *([f"HA does nothing now, because {dead}"] if dead else []),
        f"master {view.manager.get('master_node', 'not known')}, {_age(view.manager, now)}",
        *(f"node {name}: {state}" for name, state in states),
        f"lrm of {f'node {view.node}' if view.node else 'this node'}: {lrm.get('state', 'not known')}, "
        f"mode {lrm.get('mode', 'not known')}, {_age(lrm, now)}",
    ]


def _age(known: dict[str, object], now: float) -> str:
    at = known.get("timestamp")
    return f"written {now - at:.0f} s ago" if isinstance(at, int | float) else "without a time"


# --- the other files ---


def _read_version(host: Host) -> Iterator[Reply]:
    began = time.monotonic()
    text = read_text(host, "/usr/share/perl5/PVE/pvecfg.pm", 1000)
    found = re.search(r"sub version_text\s*\{\s*return '([^']*)'", text)
    version = f"pve-manager/{found[1]}" if found else "pve-manager's version is not known"
    kernel = os.uname().release
    yield ok_reply("version", began, f"{version} (running kernel: {kernel})", command="/usr/share/perl5/PVE/pvecfg.pm")


def _read_tasks(host: Host) -> Iterator[Reply]:
    """Report the VM's last tasks, and the end of the newest one's log."""
    began = time.monotonic()
    index = read_index(host)
    mine = [line for line in index if (task := parse_task(line)) and task.id == str(host.vmid)]
    logs = glob.glob(host.path(f"/var/log/pve/tasks/?/UPID:*:{host.vmid}:*"))
    newest = sorted(logs, key=os.path.getmtime)[-1:]
    with_end = [f"{os.path.basename(log)}\n{read_last(log, 4096)}" for log in newest]
    text = "\n".join([*mine[-_LAST_TASKS:], *with_end]) or "no task of this VM is known"
    facts: dict[str, object] = {
        "changes": [work.as_change() for work in own_work(host)],
        "last_backup": last_backup(index, host.vmid),
    }
    yield ok_reply("tasks", began, text, facts, "/var/log/pve/tasks")


def last_backup(index: list[str], vmid: int) -> str:
    """Return the newest backup of the VM, or a backup whose task does not name its VMs, and whether it still runs."""
    tasks = [task for line in index if (task := parse_task(line)) and task.type == "vzdump"]
    newest = next((task for task in reversed(tasks) if task.id in ("", str(vmid))), None)
    if newest is None:
        return ""
    end = "still runs" if process_ticks(newest.pid) == newest.ticks else f"has ended: {newest.end or 'result unknown'}"
    return f"the last backup here, {newest}, {end}"


# --- the commands' output, as facts ---


def parse_qm_status(text: str) -> dict[str, object]:
    """Return the state by `qm status`, which calls a silent QEMU `running` too, but without running-qemu."""
    found = dict(re.findall(r"^([a-z-]+): (.*)$", text, re.MULTILINE))
    word = found.get("qmpstatus") or found.get("status", "")
    silent = word == "running" and "running-qemu" not in found
    return {"qm_says": f"{word}, and that QEMU is silent" if silent else word}


def _parse_statistics(text: str) -> dict[str, object]:
    return {"before": before_lines(text, time.time())}
