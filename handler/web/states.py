"""Makes a request for `states`. It goes to one host, and may tell of each VM there that its caller may look at."""

from collections import defaultdict
from dataclasses import replace

from ..config.model import Config
from ..proxmox.request import VerbRequest


def ask_about_host(request: VerbRequest, name: str, config: Config) -> VerbRequest:
    """Return the request as one about the host of that name, whichever other hosts its VM may run on."""
    [host] = [host for host in request.vm.hosts if host.name == name]
    seen: dict[int, dict[str, str]] = defaultdict(dict)
    for vm in config.vms.values():
        if vm.may_run_at(host) and request.caller.refusal("status", vm.name, request.received) is None:
            seen[vm.vmid][vm.name] = vm.proxmox_name
    return replace(request, vm=replace(request.vm, hosts=(host,), hosts_off=(), proxmox_name=""), seen=seen)
