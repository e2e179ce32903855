"""What /etc/pve says of the VM: quorum, configuration, lock, the node that has it, HA.

/etc/pve is FUSE and may hang, so all of it is read by one forked child with a deadline. No answer is None, and the
caller decides what that means: no quorum for a start, nothing for a reset or a stop.
"""

import json
import os
import stat
from dataclasses import asdict, dataclass

from .host import Host
from .vmstate import in_time

CLUSTER_SECONDS = 3.0


@dataclass(frozen=True)
class Cluster:
    """`quorate`: the owner's write bit of /etc/pve/local, which is what PVE's own check_cfs_quorum reads. `config`:
    the VM's configuration is on this node; `node`: the other node that has it. `lock`: its `lock:` property. `ha`: the
    state requested of HA, empty where HA does not know the VM; `ha_seen`: the state that HA's manager sees."""

    quorate: bool = False
    config: bool = False
    node: str = ""
    lock: str = ""
    ha: str = ""
    ha_seen: str = ""


def cluster_view(host: Host, seconds: float = CLUSTER_SECONDS) -> Cluster | None:
    """Return what /etc/pve says, or None when it gives no answer in time."""
    answer = in_time(lambda: asdict(_seen_in_cluster(host)), seconds)
    return Cluster(**answer) if isinstance(answer, dict) else None


def node_name() -> str:
    return os.uname().nodename.partition(".")[0]


def _seen_in_cluster(host: Host) -> Cluster:
    mode = os.stat(host.path("/etc/pve/local")).st_mode
    conf = host.path(f"/etc/pve/qemu-server/{host.vmid}.conf")
    config = os.path.exists(conf)
    return Cluster(
        quorate=bool(mode & stat.S_IWUSR),
        config=config,
        node="" if config else node_in(_text_in(host, "/etc/pve/.vmlist"), host.vmid),
        lock=lock_in(_text_in(host, f"/etc/pve/qemu-server/{host.vmid}.conf")),
        ha=ha_requested(_text_in(host, "/etc/pve/ha/resources.cfg"), host.vmid),
        ha_seen=ha_seen_in(_text_in(host, "/etc/pve/ha/manager_status"), host.vmid),
    )


def _text_in(host: Host, path: str) -> str:
    try:
        with open(host.path(path), encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20)
    except OSError:
        return ""


def lock_in(conf: str) -> str:
    """Return the `lock:` of a VM's configuration; its snapshots, which follow, can't be locked."""
    for line in conf.splitlines():
        if line.startswith("["):
            break
        if line.startswith("lock:"):
            return line[5:].strip()
    return ""


def ha_requested(resources: str, vmid: int) -> str:
    """Return the state requested of HA in its resources.cfg; a resource without one is to be started."""
    found = ""
    mine = False
    for line in resources.splitlines():
        if line[:1].strip():  # a section begins at the line's start, its properties are indented
            mine = line.split() == ["vm:", str(vmid)]
            found = "started" if mine else found
        elif mine and line.split()[:1] == ["state"]:
            found = line.split()[-1]
    return "started" if found == "enabled" else found


def ha_seen_in(manager_status: str, vmid: int) -> str:
    """Return the state of the VM in HA's manager_status."""
    try:
        return str(json.loads(manager_status)["service_status"][f"vm:{vmid}"]["state"])
    except (ValueError, KeyError, TypeError):
        return ""


def node_in(vmlist: str, vmid: int) -> str:
    """Return the node that has the VM by /etc/pve/.vmlist."""
    try:
        return str(json.loads(vmlist)["ids"][str(vmid)]["node"])
    except (ValueError, KeyError, TypeError):
        return ""
