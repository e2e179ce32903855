"""Checks one Proxmox host, from its name to its own check, within a deadline.

The key is tried only once, because sshd penalises the address for a failed login (login.py).
"""

import asyncio
import socket
from functools import partial

from ..agents.bundle import bundle_digest
from ..base.budget import LOOK_SECONDS
from ..base.errors import Unreached
from ..base.findings import Finding, error, ok, warning
from ..base.threads import run_in_thread
from ..config.model import Host
from ..config.ssh_keys import public_key
from . import host_agent, login
from .host_agent import VmFindings
from .host_check import AgentSession, AgentSilent, ask_for_checks
from .key_rights import (
    NO_CHANNEL,
    Failure,
    judge_answer,
    judge_failure,
    judge_refused_key,
    judge_rights,
    judge_shell,
    print_recipe,
)
from .visit import Visit

NAME_SECONDS = 5.0


class HostLook:
    """The check of one host. `found` is about the host, `of_vms` about its VMs, `identity` tells machines apart.

    Findings are kept, even if the time is over or doctor itself fails.
    """

    def __init__(self, visit: Visit, host: Host) -> None:
        self.host, self.place = host, f"host {host.name}"
        self.found: list[Finding] = []
        self.of_vms: dict[str, VmFindings] = {}
        self.identity = ("", "")  # the host key and the node's name
        self.cluster: str | None = None  # the same meaning as in Handshake
        self._vms = [vm for vm in visit.vms if host in vm.hosts]
        self._own = self._address = ""
        self._step = "looking up its name"
        self._connection: login.SshConnection | None = None

    async def walk(self) -> None:
        """Check the host within the time limit."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self._walk()
        except TimeoutError:
            sentence = f"not everything was checked within {LOOK_SECONDS:g} s; the time ran out while {self._step}"
            fix = f"at the console of {self.host.ssh.host}: uptime, dmesg | tail, breakglass-pve check"
            self.found.append(error(self.place, "no-answer", sentence, fix))
        except Exception as defect:  # a defect in one host's check must not hide the findings about other hosts
            sentence = f"doctor itself failed while {self._step}: {defect!r}"
            self.found.append(error(self.place, "doctor-failed", sentence, "report this line"))
        finally:
            if self._connection is not None:
                self._connection.abort()

    async def _walk(self) -> None:
        if not await self._resolve():
            return
        self._step = "logging in with the power key"
        self._connection = await self._log_in()
        if self._connection is None:
            return
        self._step = "testing what the key can open"
        session = await self._open_session(self._connection)
        if session is None:
            return
        self._judge_session(session)
        if not session.agent.read_only:
            self._step = "waiting for breakglass-pve check"
            await ask_for_checks(self.host, session, self._vms, self.found, self.of_vms)

    @property
    def _recipe(self) -> str:
        return print_recipe(self.host, self._own)

    # --- up to the login ---

    async def _resolve(self) -> bool:
        """Look up the host's name in a thread, because a resolver may hang; return whether it has an address."""
        name, port = self.host.ssh.host, self.host.ssh.port
        setting = f'write the host\'s address in hosts.{self.host.name}.ssh, such as "{self.host.ssh.user}@192.0.2.10"'
        look_up = partial(socket.getaddrinfo, name, port, type=socket.SOCK_STREAM)
        try:
            found = await run_in_thread(look_up, NAME_SECONDS)
        except (OSError, UnicodeError) as failed:
            code, why = "name-not-found", f"{name} has no address"
            if isinstance(failed, TimeoutError):
                code, why = "name-silent", f"the resolver did not answer for {name} within {NAME_SECONDS:g} s"
            self.found.append(error(self.place, code, f"{why}, so no verb reaches its VMs", setting))
            return False
        addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        self._own = login.own_address(addresses[0], port)
        if addresses != [name]:
            self._address = addresses[0]
            sentence = (
                f"{name} is {', '.join(addresses)}; a rescue needs DNS for this name, unless /etc/hosts has the name"
            )
            self.found.append(ok(self.place, "name-found", sentence))
        return True

    async def _log_in(self) -> login.SshConnection | None:
        try:
            connection = await login.log_in(self.host)
        except Unreached as failure:
            if failure.cause == "key-not-accepted":
                fingerprint = login.key_fingerprint(public_key(self.host.key))
                self.found.append(judge_refused_key(self.host, fingerprint, self._recipe))
            else:
                self.found.append(judge_failure(self.host, await self._examine(failure)))
            return None
        self._judge_host_key(connection)
        self.found.append(ok(self.place, "power-key-accepted", f"{self.host.ssh} accepts the power key"))
        return connection

    async def _examine(self, failure: Unreached) -> Failure:
        """After a failed login, read the port's greeting, or the host key that it presents."""
        greeting: bytes | None = b""
        presented = fingerprint = ""
        if failure.cause in ("turned-away", "timeout"):
            self._step = "reading what the port sends"
            greeting = await login.read_greeting(self.host)
        elif failure.cause == "host-key-differs":
            presented = await login.present_host_key(self.host)
            fingerprint = login.key_fingerprint(presented) if presented else ""
        return Failure(
            failure.cause,
            failure.reason,
            str(failure.__cause__),
            greeting,
            presented,
            fingerprint,
            self._own,
            self._address,
        )

    def _judge_host_key(self, connection: login.SshConnection) -> None:
        presented, setting = login.public_text(connection.get_server_host_key()), f"hosts.{self.host.name}.host_key"
        self.identity = (presented, "")
        if self.host.any_host_key:
            sentence = f'the host key is not checked ({setting} is "any"), so another machine could answer instead'
            fix = "compare with ssh-keygen -l -f /etc/ssh/ssh_host_ed25519_key.pub at the host's console, then write "
            its = f'{login.key_fingerprint(presented)}; {setting} = "{presented}"'
            self.found.append(warning(self.place, "host-key-any", sentence, f"{fix}{its}"))
            return
        what = "the pinned one" if self.host.host_keys else "signed by the pinned authority"
        self.found.append(
            ok(self.place, "host-key-pinned", f"the host key is {what}: {login.key_fingerprint(presented)}")
        )

    # --- after the login ---

    async def _open_session(self, connection: login.SshConnection) -> AgentSession | None:
        """Check what the key allows, and ask the host agent to identify itself. None if there is no host agent."""
        ran = await login.open_shell(connection)
        if login.MARK.encode() in ran.stdout:
            self.found.append(judge_shell(self.host, self._recipe))
            return None
        if fault := judge_answer(self.host, self._recipe, ran):
            self.found.append(fault)
            if await login.opens_sftp(connection):
                self.found += judge_rights(self.host, self._recipe, {"allows-sftp": True})
            return None
        tries = {
            "allows-sftp": login.opens_sftp(connection),
            "allows-terminal": login.opens_terminal(connection),
            "allows-forwarding": login.forwards_ports(connection),
        }
        rights = await asyncio.gather(*tries.values())
        self.found += judge_rights(self.host, self._recipe, dict(zip(tries, rights, strict=True)))
        session = AgentSession(connection, self.host)
        try:
            await session.open()
        except AgentSilent as failure:
            sentence = f"the host agent does not identify itself to the power key: {failure}"
            fix = f"at the console of {self.host.ssh.host}: uptime, free, dmesg | tail; then run breakglass-pve check"
            is_full = "open failed" in str(failure)  # sshd opens only one channel
            fix = NO_CHANNEL.format(self.host.ssh.host) if is_full else fix
            self.found.append(error(self.place, "no-channel" if is_full else "agent-silent", sentence, fix))
            return None
        return session

    def _judge_session(self, session: AgentSession) -> None:
        """Judge the host agent's description of itself."""
        agent = session.agent
        self.identity, self.cluster = (self.identity[0], agent.node), agent.cluster
        self.found.append(host_agent.judge_agent(self.host, agent, bundle_digest()))
        self.found.append(host_agent.judge_node(self.host, agent))
        if agent.read_only:
            what = "the power key's line has --read-only, so the key can't change power"
            fix = f"remove --read-only from the power key's line: {self._recipe}"
            self.found.append(error(self.place, "power-key-read-only", what, fix))
        if clock := host_agent.judge_clock(self.host, session.time, session.sent, session.received):
            self.found.append(clock)
        self.found += host_agent.judge_wish(self.host, agent, self._vms)
        for vm, finding in host_agent.judge_served(self.host, agent, self._vms):
            self.of_vms.setdefault(vm.name, VmFindings()).served.append(finding)
