"""Asks a host for its own check, over the connection that the handler would use."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress

from ..base.budget import CHECK_SECONDS, READ_SECONDS
from ..base.errors import Lost, Unreached
from ..base.findings import Finding, error
from ..config.model import Host, Vm
from ..proxmox.handshake import Handshake, read_handshake
from ..proxmox.link import Link
from ..proxmox.outcome import Message
from ..proxmox.wire import CHECK_LINE, PING_LINE, line_of
from .host_agent import VmFindings, judge_name, pass_on, read_place
from .key_rights import NO_CHANNEL, check_there
from .login import FAILURES, SshConnection

# --- Talk to the host agent behind one key, over a connection as the handler would use it ---


class AgentSilent(Exception):
    """The host agent did not answer; the text says why."""


class AgentSession:
    """The host agent behind one key. `agent` is its description of itself, and `time` is its clock at that moment."""

    def __init__(self, connection: SshConnection, host: Host) -> None:
        self._link = Link(connection, host)
        self.agent = Handshake()
        self.time: object = None
        self.sent = self.received = 0.0  # this machine's clock before the request and after the answer

    async def open(self) -> None:
        """Open the resident session, and ask the host agent who it is; raise AgentSilent."""
        try:
            await self._link.open_session()
        except FAILURES as error:
            raise AgentSilent(f"no session opens ({error})") from None
        self.sent = time.time()
        result = await self.ask(PING_LINE, READ_SECONDS)
        self.received = time.time()
        if result["exit_code"] != 0:
            raise AgentSilent(f"it refuses a ping with exit {result['exit_code']}")
        self.agent, self.time = read_handshake(result), result.get("time")

    async def ask(self, line: str, seconds: float) -> Message:
        """Return the result of a request that changes nothing; raise AgentSilent."""
        try:
            async with asyncio.timeout(seconds):
                return [message async for message in self._link.ask(line)][-1]
        except TimeoutError:
            raise AgentSilent(f"nothing came within {seconds:g} s") from None
        except (Lost, Unreached) as failure:
            raise AgentSilent(failure.message) from None


# --- Ask a host to check itself and each VM that it has, and pass the findings on ---

AT_ONCE = 8  # VMs of one host that are checked in parallel


async def ask_for_checks(
    host: Host, session: AgentSession, vms: Sequence[Vm], found: list[Finding], of_vms: dict[str, VmFindings]
) -> None:
    """Add the findings of the host's own check to `found`, and those about each of its VMs to `of_vms`."""
    at_once = asyncio.Semaphore(AT_ONCE)
    served = [vm for vm in vms if vm.vmid in session.agent.vms]
    checks = [_look_at_vm(session, host, vm, of_vms.setdefault(vm.name, VmFindings()), at_once) for vm in served]
    await asyncio.gather(_check(session, host, found), *checks)


async def _check(session: AgentSession, host: Host, found: list[Finding], vm: Vm | None = None) -> None:
    """Ask the host to check itself or a VM."""
    place, its, code, line, fix = f"host {host.name}", "own check", "host-check", CHECK_LINE, check_there(host)
    if vm is not None:
        place, its, code, line = f"VM {vm.name}", "check of this VM", "vm-check", f"{CHECK_LINE} vm={vm.vmid}"
        fix = f"as root on {host.ssh.host}: qm status {vm.vmid} --verbose"
    try:
        result = await session.ask(line, CHECK_SECONDS)
        if result["exit_code"] != 0:
            raise AgentSilent(f"it ended with exit {result['exit_code']}")
    except AgentSilent as failure:
        fix = NO_CHANNEL.format(host.ssh.host) if "refused a channel" in str(failure) else fix
        found.append(error(place, "check-silent", f"the host's {its} gave no answer: {failure}", fix))
        return
    found += pass_on(place, code, result.get("findings"))
    if vm is not None:
        found += judge_name(vm, result.get("proxmox_name"))


async def _look_at_vm(session: AgentSession, host: Host, vm: Vm, said: VmFindings, at_once: asyncio.Semaphore) -> None:
    """Ask where a VM is, and for its check unless another node certainly has it.

    If a host does not say where the VM is, it is asked for the check only if it is the VM's first host.
    """
    async with at_once:
        with suppress(AgentSilent):
            said.place = read_place(await session.ask(line_of("where", vm.vmid), READ_SECONDS))
        if said.place.has_vm or (not said.place.sure and (said.place.here or vm.host == host)):
            await _check(session, host, said.checked, vm)
