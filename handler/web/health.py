"""GET /health: the state of the configuration, of each host and VM, and of chat."""

import time
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..agents.pve.words import VERSION
from ..config.model import is_host_name, is_vm_name
from ..service import Service


async def health(request: Request) -> Response:
    """Answer with the state. Needs no authentication."""
    service: Service = request.state.service
    return JSONResponse(
        {
            "ok": True,
            "time": _rfc3339(time.time()),
            "version": VERSION,
            "config": _config_state(service),
            "hosts": _hosts(service),
            "vms": _vms(service) + _vms_off(service),
            "chat": service.chatting.state,
            "chat_isolated": service.chatting.isolated,
        }
    )


def _config_state(service: Service) -> str:
    count = len(service.config.problems)
    found = [f"rejected since {_rfc3339(service.rejected_since)}"] if service.rejected_since else []
    found += [f"degraded: {count} problem{'s' * (count > 1)}"] if count else []
    return "; ".join(found) or "ok"


def _hosts(service: Service) -> dict[str, dict[str, object]]:
    """Return each host's state and its agent's version, without a host whose name is the fault."""
    found: dict[str, dict[str, object]] = {}
    for name, host in service.hosts.items():
        since, agent = host.since, host.agent_version
        found[name] = {"state": host.health(), "since": _rfc3339(since) if since else None, "agent": agent or None}
    for name in filter(is_host_name, service.config.hosts_off):
        found[name] = {"state": "config-error", "since": None, "agent": None}
    return found


def _vms(service: Service) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for vm in service.config.vms.values():
        host = service.hosts[vm.host.name]
        state, since = host.health(vm.vmid), host.since
        found.append({"name": vm.name, "vmid": vm.vmid, "proxmox": state, "since": _rfc3339(since) if since else None})
    return found


def _vms_off(service: Service) -> list[dict[str, object]]:
    """Return the VMs whose entry has a fault, without those whose name is the fault: it can be any text."""
    off = {name: vmid for name, vmid in service.config.vms_off.items() if is_vm_name(name)}
    return [{"name": name, "vmid": vmid, "proxmox": "config-error", "since": None} for name, vmid in off.items()]


def _rfc3339(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
