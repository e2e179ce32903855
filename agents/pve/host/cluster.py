"""What /etc/pve says of the VM: quorum, configuration, lock, the node that has it, HA.

/etc/pve is FUSE and may hang, so one forked child with a deadline reads all of it. If that fails, the view names the
trouble, and the caller decides. A start is then refused, but a reset or a stop is not.
"""

import json
import os
import stat
import time
from dataclasses import asdict, dataclass, field
from functools import reduce
from operator import getitem

from .bounded import ask_or_none
from .paths import Host, read_json
from .vm_config import HA_SERVICES, UNDER_WAY, current_options
from .vmstate import is_here

CLUSTER_SECONDS = 3.0
CONFIG_CHARS = 64 * 1024
HUNG_SECONDS = 30.0
AGAIN_SECONDS = 1.0

_hung_at = float("-inf")  # when /etc/pve last gave this process no answer


@dataclass(frozen=True)
class Cluster:
    """One look at /etc/pve.

    Attributes:
        trouble: why /etc/pve can't be read, one of obstacles.TROUBLES, else empty.
        cluster: the name of the cluster to which this node belongs; empty if it belongs to none.
        quorate: the owner's write bit of /etc/pve/local, which PVE's own check_cfs_quorum reads.
        config: the VM's configuration is on this node.
        config_text: the text of that configuration.
        name: the VM's name, empty if it has none; None if no configuration was found, on whichever node.
        node: the other node that has the configuration.
        container: the number belongs to a container, on whichever node.
        lock: its `lock:` property.
        migrating: the configuration, on any node, has `lock: migrate`, or is moving to another node now.
        ha: the state requested of HA, empty where HA does not know the VM, `disarmed` where HA as a whole leaves its
            resources alone.
        ha_seen: the state that HA's manager sees.
        ha_goal: the node to which HA moves the VM, or moves it back after that node's maintenance.
        node_seen: the state in which HA's manager sees `node`.
        manager: HA's manager_status, without its services.
        lrm: the lrm_status of the VM's node, without its results.
        ended: HA's services that don't run on this node: systemd removes the pid file of a killed service, too.
    """

    trouble: str = ""
    cluster: str = ""
    quorate: bool = False
    config: bool = False
    config_text: str = ""
    name: str | None = None
    node: str = ""
    container: bool = False
    lock: str = ""
    migrating: bool = False
    ha: str = ""
    ha_seen: str = ""
    ha_goal: str = ""
    node_seen: str = ""
    manager: dict[str, object] = field(default_factory=dict)
    lrm: dict[str, object] = field(default_factory=dict)
    ended: tuple[str, ...] = ()

    @property
    def answers(self) -> bool:
        """Whether /etc/pve could be read."""
        return not self.trouble


NOT_ASKED = Cluster()


def cluster_view(host: Host, seconds: float = CLUSTER_SECONDS) -> Cluster:
    """Return what /etc/pve says, or a view with its `trouble` where it gives an error or no answer in time.

    After a failed answer a moment ago, one second is enough to see whether it answers now, because a verb looks several
    times.
    """
    global _hung_at
    if time.monotonic() - _hung_at < HUNG_SECONDS:
        seconds = min(seconds, AGAIN_SECONDS)
    answer = ask_or_none(lambda: asdict(_read_cluster(host)), seconds)
    if answer is not None:
        return Cluster(**answer)
    if seconds >= CLUSTER_SECONDS or _hung_at > float("-inf"):  # a shorter look proves nothing
        _hung_at = time.monotonic()
    return Cluster("pmxcfs-hung")


def is_placeless(host: Host, view: Cluster) -> bool:
    """Tell whether this node can't know which node has the VM, because it has no quorum, or /etc/pve does not answer.

    A node outside of a cluster always knows. If the disk with corosync's configuration does not answer, the node counts
    as one of a cluster.
    """
    if view.answers:
        return not view.quorate
    return ask_or_none(lambda: os.path.exists(host.path("/etc/corosync/corosync.conf")), AGAIN_SECONDS) is not False


def is_stale_copy(host: Host, view: Cluster) -> bool:
    """Tell whether a QEMU of the VM is here although another node has the VM, and no migration moves it.

    The process is looked for after /etc/pve, because a migration ends the QEMU here before it removes its lock
    (QemuMigrate.pm, phase3_cleanup), so a process that is here after the lock was removed belongs to no migration.
    """
    return view.quorate and view.node != "" and not view.migrating and is_here(host) is True


def node_name() -> str:
    """Return the name under which Proxmox knows this node."""
    return os.uname().nodename.partition(".")[0]


def _read_cluster(host: Host) -> Cluster:
    try:
        quorate = _is_writable(host.path("/etc/pve/local"))
        text = _read_text(host, f"/etc/pve/qemu-server/{host.vmid}.conf")
    except FileNotFoundError:
        return Cluster("pmxcfs-not-mounted")
    except OSError:  # ENOTCONN, EIO
        return Cluster("pmxcfs-dead")
    entries = parse_vmlist(_read_text(host, "/etc/pve/.vmlist") or "") if text is None else {}
    entry = entries.get(host.vmid, VmlistEntry("", is_container=False))
    there = _read_text(host, f"/etc/pve/nodes/{entry.node}/qemu-server/{host.vmid}.conf") if entry.node else text
    status = read_json(host.path("/etc/pve/ha/manager_status")) or {}
    lrm = read_json(host.path(f"/etc/pve/{f'nodes/{entry.node}' if entry.node else 'local'}/lrm_status")) or {}
    requested = parse_ha_requested(_read_text(host, "/etc/pve/ha/resources.cfg") or "", host.vmid)
    service = ("service_status", f"vm:{host.vmid}")
    ha_state = ha_word(status, *service, "state")
    disarmed = ha_word(status, "disarm", "mode") if requested and ha_state not in UNDER_WAY else ""
    return Cluster(
        cluster=parse_cluster_name(_read_text(host, "/etc/pve/corosync.conf") or ""),
        quorate=quorate,
        config=text is not None,
        config_text=(text or "")[:CONFIG_CHARS],
        name=None if there is None else current_options(there).get("name", "")[:253],
        node="" if entry.is_container else entry.node,
        container=entry.is_container,
        lock=parse_lock(text or ""),
        migrating=parse_lock(there or "") == "migrate" or (there is None and entry.node != ""),
        ha="disarmed" if disarmed == "ignore" else requested,
        ha_seen="freeze" if disarmed == "freeze" and ha_state != "error" else ha_state,
        ha_goal=ha_word(status, *service, "target") or ha_word(status, *service, "maintenance_node"),
        node_seen=ha_word(status, "node_status", entry.node),
        manager={name: said for name, said in status.items() if name != "service_status"},
        lrm={name: said for name, said in lrm.items() if name != "results"},
        ended=tuple(name for name in HA_SERVICES if _read_text(host, f"/run/{name}.pid") is None),
    )


def _is_writable(path: str) -> bool:
    """Tell whether the owner's write bit is set on the link, as PVE reads it, and on its target if that exists."""
    modes = [os.lstat(path).st_mode]
    if os.path.exists(path):
        modes.append(os.stat(path).st_mode)
    return all(mode & stat.S_IWUSR for mode in modes)


def _read_text(host: Host, path: str) -> str | None:
    """Return a file's text, None without such a file."""
    try:
        with open(host.path(path), encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20)
    except (FileNotFoundError, NotADirectoryError):
        return None


def parse_lock(conf: str) -> str:
    """Return the `lock:` of a VM's configuration; snapshots after it are ignored."""
    for line in conf.splitlines():
        if line.startswith("["):
            break
        if line.startswith("lock:"):
            return line[5:].strip()
    return ""


def parse_cluster_name(corosync: str) -> str:
    """Return the name of the cluster in corosync.conf; an empty text if there is none."""
    words = (line.partition(":") for line in corosync.splitlines())
    return next((name.strip() for key, _, name in words if key.strip() == "cluster_name"), "")


def parse_ha_requested(resources: str, vmid: int) -> str:
    """Return the state requested of HA in its resources.cfg; a resource without a state counts as started."""
    found = ""
    mine = False
    for line in resources.splitlines():
        if line[:1].strip():  # a section begins at the line's start, its properties are indented
            mine = line.split() == ["vm:", str(vmid)]
            found = "started" if mine else found
        elif mine and line.split()[:1] == ["state"]:
            found = line.split()[-1]
    return "started" if found == "enabled" else found


def ha_word(manager: dict[str, object], *keys: str) -> str:
    """Return a value from HA's manager_status, or an empty text.

    `disarm` is there since pve-ha-manager 5.1.3. Its mode `freeze` holds every resource as it is; `ignore` leaves them
    alone, and `qm` acts directly. HA first completes actions under way, such as a move or the recovery from a node's
    failure.
    """
    try:
        return str(reduce(getitem, keys, manager))  # type: ignore[arg-type]  # what is no object raises TypeError
    except (KeyError, TypeError):
        return ""


@dataclass(frozen=True)
class VmlistEntry:
    """A VM or a container of the cluster, and the node that has its configuration."""

    node: str
    is_container: bool


def parse_vmlist(vmlist: str) -> dict[int, VmlistEntry]:
    """Return the VMs and containers of the cluster by number, from /etc/pve/.vmlist; an invalid entry is skipped."""
    try:
        found = json.loads(vmlist)["ids"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {
        int(vmid): VmlistEntry(entry["node"], entry.get("type") == "lxc")
        for vmid, entry in found
        if vmid.isdecimal() and len(vmid) < 10 and isinstance(entry, dict) and isinstance(entry.get("node"), str)
    }
