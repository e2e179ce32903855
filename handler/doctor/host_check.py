"""Asks a host for its own check, of itself and of each VM whose first host it is, and passes the findings on."""

import asyncio
from collections.abc import Sequence

from ..config.model import Host, Vm
from .findings import Finding, error, warning
from .host_agent import judge_health, pass_on
from .host_session import AgentSession, AgentSilent
from .key_rights import AGENT_REFUSES, NO_CHANNEL, check_there

AT_ONCE = 8  # VMs of one host that are checked at once


async def ask_for_checks(
    host: Host, session: AgentSession, vms: Sequence[Vm], found: list[Finding], of_vms: dict[str, list[Finding]]
) -> None:
    """Add what the host's check finds to `found`, and what it finds about each VM to `of_vms`."""
    at_once = asyncio.Semaphore(AT_ONCE)
    served = [vm for vm in vms if vm.host == host and session.serves(vm.vmid)]
    checks = [_check_vm(session, host, vm, of_vms.setdefault(vm.name, []), at_once) for vm in served]
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
    if result["exit_code"] == AGENT_REFUSES:
        sentence = "the host agent is too old for the word check, so the host was not looked at from inside"
        found.append(warning(place, "agent-without-check", sentence, f"breakglass host upgrade {host.name}"))
        found += judge_health(host, session.result)
        return
    found += pass_on(place, "host-check", result.get("findings"))


async def _check_vm(
    session: AgentSession, host: Host, vm: Vm, found: list[Finding], at_once: asyncio.Semaphore
) -> None:
    place = f"VM {vm.name}"
    try:
        async with at_once:
            result = await session.ask_for_check(vm.vmid)
    except AgentSilent as failure:
        sentence = f"the host's check of this VM brings no answer: {failure}"
        fix = f"as root on {host.ssh.host}: qm status {vm.vmid} --verbose"
        fix = NO_CHANNEL.format(host.ssh.host) if "refused a channel" in str(failure) else fix
        found.append(error(place, "check-silent", sentence, fix))
        return
    if result["exit_code"] == AGENT_REFUSES:
        sentence = f"the host agent on {host.name} is too old to check it"
        found.append(warning(place, "agent-without-check", sentence, f"breakglass host upgrade {host.name}"))
        return
    found += pass_on(place, "vm-check", result.get("findings"))
