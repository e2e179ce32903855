"""Asks a host for its own check, of itself and of each VM that it has, and passes the findings on."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from ..budget import READ_SECONDS
from ..config.model import Host, Vm
from ..findings import Finding, error
from ..proxmox.wire import where_line
from .host_agent import pass_on
from .host_session import AgentSession, AgentSilent
from .key_rights import NO_CHANNEL, check_there
from .vm_place import VmFindings, read_place

AT_ONCE = 8  # VMs of one host that are checked at once


async def ask_for_checks(
    host: Host, session: AgentSession, vms: Sequence[Vm], found: list[Finding], of_vms: dict[str, VmFindings]
) -> None:
    """Add what the host's check finds to `found`, and what the host says about each of its VMs to `of_vms`."""
    at_once = asyncio.Semaphore(AT_ONCE)
    served = [vm for vm in vms if session.serves(vm.vmid)]
    checks = [_look_at_vm(session, host, vm, of_vms.setdefault(vm.name, VmFindings()), at_once) for vm in served]
    await asyncio.gather(_check_host(session, host, found), *checks)


async def _check_host(session: AgentSession, host: Host, found: list[Finding]) -> None:
    place = f"host {host.name}"
    try:
        result = await session.ask_for_check()
    except AgentSilent as failure:
        sentence = f"the host's own check brings no answer: {failure}"
        fix = NO_CHANNEL.format(host.ssh.host) if "refused a channel" in str(failure) else check_there(host)
        found.append(error(place, "check-silent", sentence, fix))
        return
    found += pass_on(place, "host-check", result.get("findings"))


async def _look_at_vm(session: AgentSession, host: Host, vm: Vm, said: VmFindings, at_once: asyncio.Semaphore) -> None:
    """Ask where a VM is, and for its check unless another node surely has it, because the host of that node is asked.

    A host that does not say where is asked for the check of the VMs whose first host it is.
    """
    async with at_once:
        with suppress(AgentSilent):
            said.place = read_place(await session.ask(where_line(vm.vmid), READ_SECONDS))
        if said.place.has_vm or (not said.place.sure and (said.place.here or vm.host == host)):
            await _check_vm(session, host, vm, said.checked)


async def _check_vm(session: AgentSession, host: Host, vm: Vm, found: list[Finding]) -> None:
    place = f"VM {vm.name}"
    try:
        result = await session.ask_for_check(vm.vmid)
    except AgentSilent as failure:
        sentence = f"the host's check of this VM brings no answer: {failure}"
        fix = f"as root on {host.ssh.host}: qm status {vm.vmid} --verbose"
        fix = NO_CHANNEL.format(host.ssh.host) if "refused a channel" in str(failure) else fix
        found.append(error(place, "check-silent", sentence, fix))
        return
    found += pass_on(place, "vm-check", result.get("findings"))
