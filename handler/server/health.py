"""/health and /ready: the state of this handler, its hosts, VMs and chat. No host is asked."""

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..agents.pve.vm_list import VmList, parse_vm_list
from ..agents.pve.words import ELSEWHERE, VERSION
from ..auth.signing import bearer_token, verify_bearer
from ..base.errors import Unauthorized
from ..base.proven import describe_openly
from ..base.times import rfc3339
from ..chat.service import ChatService
from ..config.model import Vm, is_host_name, is_vm_name
from ..proxmox.host import HostConnection
from ..service import Service
from ..web.gate import proving_headers
from .condition import GENERAL, REACHED, Condition
from .telling import TellingService

Places = Mapping[str, VmList] | None  # the VMs that each node has, by the node's name
_parse_list = lru_cache(4096)(parse_vm_list)  # because the lists of many hosts rarely change between two requests

# --- GET /health: the state of the configuration, of each host and VM, and of chat ---


async def health(request: Request) -> Response:
    """Answer with the state. Needs no authentication."""
    service: Service = request.state.service
    chatting: ChatService = request.state.chatting
    return JSONResponse(
        {
            "ok": True,
            "time": rfc3339(time.time()),
            "version": VERSION,
            "config": find_condition(service, chatting).config_state,
            "reloads": service.reloads,
            "hosts": _hosts(service),
            "vms": _vms(service) + _vms_off(service),
            "chat": chatting.state,
            "chat_isolated": chatting.fault is None or None,  # chat is enabled only if its sandboxes work
            "chat_started_by": chatting.started_by,
            "notify": _notify_state(service),
        }
    )


def find_condition(service: Service, chatting: ChatService) -> Condition:
    """Return what the handler knows now about itself. It sends nothing to a host."""
    return Condition(
        config=service.config,
        at=time.time(),
        hosts={name: str(host["state"]) for name, host in _hosts(service).items()},
        vms={str(vm["name"]): str(vm["proxmox"]) for vm in _vms(service) + _vms_off(service)},
        chat=chatting.state,
        chat_why=chatting.why,
        rejected_since=service.rejected_since,
        not_told=_not_told(service),
    )


def _notify_state(service: Service) -> str:
    return "failed" if _not_told(service) else "on" if service.config.notify else "none"


def _not_told(service: Service) -> Mapping[str, str]:
    return service.telling.faults if isinstance(service, TellingService) else {}


def _hosts(service: Service) -> dict[str, dict[str, object]]:
    """Return each host's state and agent version. Leaves out a host whose name is invalid."""
    found: dict[str, dict[str, object]] = {}
    for name, host in service.hosts.items():
        since, agent, proven = _time_or_none(host.since), host.handshake.version, describe_openly(host.handshake.proven)
        found[name] = {"state": host.health(), "since": since, "agent": agent or None, "proven": proven}
    for name in filter(is_host_name, service.config.hosts_off):
        found[name] = {"state": "disabled", "since": None, "agent": None, "proven": None}
    return found


def _vms(service: Service) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    nodes = {host.node for host in service.hosts.values()}
    places = {name: _read_places(host.handshake.places, nodes) for name, host in service.hosts.items()}
    for vm in service.config.vms.values():
        host, state = _find_vm(service, vm, places)
        since = _time_or_none(host.since)
        found.append({"name": vm.name, "vmid": vm.vmid, "host": host.host.name, "proxmox": state, "since": since})
    return found


def _find_vm(service: Service, vm: Vm, places: Mapping[str, Places]) -> tuple[HostConnection, str]:
    """Return the host that has a VM, and the state of the connection to the VM.

    The host where the VM was last seen knows which node has the VM. If no host of the VM is that node, or no node has
    the VM, the state is `elsewhere`. This is not judged until the node of each of these hosts is known.
    """
    known, hosts = service.hosts[service.places.host_of(vm)], [service.hosts[host.name] for host in vm.hosts]
    state, nodes = known.health(vm.vmid), places[known.host.name]
    if state not in REACHED or nodes is None or not all(host.node for host in hosts):
        return known, state
    there = next((host for host in hosts if vm.vmid in nodes.get(host.node, ())), None)
    return (there, there.health(vm.vmid)) if there else (known, ELSEWHERE)


def _read_places(told: object, nodes: Iterable[str]) -> Places:
    """Return the VMs of these nodes as a host agent told them; None if it did not tell them as host-agent.md says."""
    if not isinstance(told, Mapping):
        return None
    with suppress(ValueError):
        return {node: _parse_list(str(told[node])) for node in nodes if node in told}
    return None


def _vms_off(service: Service) -> list[dict[str, object]]:
    """Return the VMs with a faulty entry. Leaves out invalid names, because they can be any text."""
    off = {name: vmid for name, vmid in service.config.vms_off.items() if is_vm_name(name)}
    return [
        {"name": name, "vmid": vmid, "host": None, "proxmox": "disabled", "since": None} for name, vmid in off.items()
    ]


def _time_or_none(at: float | None) -> str | None:
    return rfc3339(at) if at else None


# --- GET /ready: tells a monitor whether all parts work. A liveness check must use /health, because a restart does not
# repair a part that /ready finds faulty.

MOST_REASONS = 100


async def ready(request: Request) -> Response:
    """Answer 200, or 503 with the reasons. Only with the metrics' token do the reasons name hosts, VMs and callers."""
    service: Service = request.state.service
    faults = find_condition(service, request.state.chatting).faults
    if not faults:
        return JSONResponse({"ready": True})
    is_named = _may_know_names(request, service)
    reasons = list(dict.fromkeys(fault.sentence if is_named else GENERAL[fault.code] for fault in faults))
    return JSONResponse({"ready": False, "reasons": reasons[:MOST_REASONS]}, 503)


def _may_know_names(request: Request, service: Service) -> bool:
    """Return whether a request has the metrics' token. Another token is ignored, so an old probe still works."""
    token = bearer_token(proving_headers(request.scope))
    if token is None:
        return False
    try:
        verify_bearer(service.config.metrics, token)
    except Unauthorized:
        return False
    return True
