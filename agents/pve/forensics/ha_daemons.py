"""Whether HA's daemons are at work: the manager (CRM), which takes a request, and the LRM of the VM's node, which acts.

Both write a status every 10 s, with the time by the clock of their node. A clock may be wrong, and a service may be
restarted at this moment, so these alone decide only what is shown. Before a verb is refused because of them, it waits
for the daemons to write a new status.
"""

import time
from collections.abc import Iterator, Mapping

from ..budget import HA_TAKES_SECONDS
from ..host.cluster import Cluster, cluster_view, node_name
from ..host.paths import Host
from ..host.pve_tasks import flock_holders
from ..host.vm_config import HA_SERVICES, ha_manages
from .outlook import ha_line, ha_proof

SILENT_SECONDS = 180.0  # another node's manager takes over about two minutes after a dead manager's last status
# For a VM in one of these states an LRM takes no lock, so an LRM that waits for its lock may be healthy (Tools.pm:191).
_IDLE = ("", "stopped", "freeze", "error", "request_start")
_CRM, _LRM = HA_SERVICES
_MANAGER = f"HA's manager {_CRM}"


def find_dead_ha(view: Cluster, now: float | None = None) -> str:
    """Return why HA does nothing with the VM now, although it manages it; empty if it acts, or if that can't be known.

    Without a quorum HA's files are old, so they tell nothing. The LRM of another node counts only while HA's manager
    sees that node as online: otherwise the manager acts without it. `now` is this node's wall clock.
    """
    if not ha_manages(view.ha) or not view.quorate:
        return ""
    at = time.time() if now is None else now
    lrm = f"{_LRM} of node {view.node or node_name()}"
    silent = [find_silence(_MANAGER, view.manager, at)]
    counts = not view.node or view.node_seen == "online"
    silent += [find_silence(lrm, view.lrm, at)] if counts else []
    halt = find_halt(lrm, view.lrm, view.ha_seen) if counts else ""
    return " and ".join(filter(None, silent)) or halt or " and ".join(_find_ended(view))


def _find_ended(view: Cluster) -> Iterator[str]:
    """Yield the daemons of this node that act on the VM and don't run, because systemd knows that at once."""
    if _CRM in view.ended and view.manager.get("master_node") == node_name():
        yield f"{_MANAGER} does not run on this node, which is HA's master"
    if _LRM in view.ended and not view.node:
        yield f"{_LRM} of node {node_name()} does not run"


def describe_ha(view: Cluster) -> str:
    """Return one line on HA, empty where it does not manage the VM."""
    return ha_line(view.ha, view.ha_seen, find_dead_ha(view))


def prove_ha(vmid: int, view: Cluster) -> tuple[str, ...]:
    """Return HA's own words on the state `error`, the line on HA, and what a person can do about it."""
    error = (
        (f"service 'vm:{vmid}' in error state, must be disabled and fixed first",) if view.ha_seen == "error" else ()
    )
    return (*error, *ha_proof(vmid, view.ha, view.ha_seen, find_dead_ha(view)))


def find_silence(daemon: str, status: Mapping[str, object], now: float) -> str:
    """Return a sentence if a daemon has written nothing lately, otherwise an empty text.

    The clock of the node that wrote may differ: so a difference up to the limit is ignored, in both directions.
    """
    written = status.get("timestamp")
    if not isinstance(written, int | float):
        return f"{daemon} seems dead and has no status"
    if now - written > SILENT_SECONDS:
        return f"{daemon} seems dead, silent for {now - written:.0f} s"
    if written - now > SILENT_SECONDS:
        return f"{daemon} may be dead, with a status {written - now:.0f} s ahead of this node's clock"
    return ""


def find_halt(daemon: str, lrm: Mapping[str, object], state: str) -> str:
    """Return why a live LRM acts on no request, empty if it acts; `state` is the VM's state, as HA sees it."""
    if lrm.get("mode") in ("restart", "shutdown"):
        return f"{daemon} is being stopped or restarted (mode {lrm['mode']})"
    waits = lrm.get("state") == "wait_for_agent_lock" and state not in _IDLE
    if waits or lrm.get("state") == "lost_agent_lock":
        return f"{daemon} has no lock (state {lrm['state']}), which can last two minutes after a restart"
    return ""


def is_ha_at_work(host: Host, view: Cluster, seconds_left: float) -> bool:
    """Tell whether both daemons write a new status, within some rounds after `view` was read. No wall clock matters."""
    until = time.monotonic() + min(HA_TAKES_SECONDS, seconds_left)
    while time.monotonic() < until:
        now = cluster_view(host)
        pairs = ((now.manager, view.manager), (now.lrm, view.lrm))
        has_written = all(new.get("timestamp") not in (None, old.get("timestamp")) for new, old in pairs)
        if has_written and not find_halt("", now.lrm, now.ha_seen):
            return True
        time.sleep(0.5)
    return False


def find_no_return(host: Host, view: Cluster, seconds_left: float) -> str:
    """Return why a cycle must not end a QEMU that HA was asked to stop; empty if HA would start it again."""
    stops = [holder for holder in flock_holders(host) if holder.kind == "stop"]
    if stops:
        return f"HA's own stop of the VM still runs (process {stops[0].pid}), so HA can't start the VM yet"
    if is_ha_at_work(host, view, seconds_left):
        return ""
    return "HA could not start it again while pve-ha-crm or this node's pve-ha-lrm writes no status"
