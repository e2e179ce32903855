"""Finds the host that has a VM, and the host that has a record of an id.

Proxmox moves VMs, and each host remembers only the ids that were sent to it. So before a verb is sent to one of several
hosts, all of them are asked. The rules are in docs/api.md, "A VM that moves".
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from ..base.budget import ASK_AGAIN_SECONDS, ASK_SECONDS
from ..base.errors import Lost, Unreached
from ..base.times import say_since
from ..config.model import Vm
from ..config.other_nodes import OtherNodes, explain_claim
from .host import HostConnection
from .outcome import Message
from .wire import line_of

_ALONE = OtherNodes()


@dataclass(frozen=True)
class Destination:
    """The host to which a request goes.

    Attributes:
        host: the host that gets the request.
        has_id: that host has a record of the request's id.
        is_only: the VM has no other host.
        away: the host of the VM's node, if it did not answer and another host named that node.
        copy: the host of a stale copy of the VM, if the only QEMU process of the VM runs there.
        nodes: what is known of the VM's nodes.
    """

    host: HostConnection
    has_id: bool = False
    is_only: bool = False
    away: HostConnection | None = None
    copy: HostConnection | None = None
    nodes: OtherNodes = _ALONE

    def serving(self, verb: str) -> "Destination":
        """Return where a verb goes; raise Unreached if the verb could make the VM run twice.

        A `stop` goes to a stale copy if its QEMU is the only one, because the host that has the VM would report that
        the VM is powered off.
        """
        if self.nodes.copies and verb in ("start", "cycle"):
            raise Unreached(*self.nodes.refusal)
        return replace(self, host=self.copy, nodes=_ALONE) if verb == "stop" and self.copy else self

    @property
    def trouble(self) -> str:
        """Why the VM's host (`away`) did not answer, and since when. Empty if `away` is None."""
        away = self.away
        return say_since(away.host.name, away.since, away.trouble.reason if away.trouble else "") if away else ""


@dataclass(frozen=True)
class _Place:
    """One host's answer about where a VM is (docs/host-agent.md). Empty if the host did not answer."""

    host: HostConnection
    answered: bool = False
    has_id: bool | None = None
    node: str = ""
    here: str = ""
    sure: bool = False
    has_process: bool = False  # a QEMU process that does not belong to a migration

    @property
    def is_proof(self) -> bool:
        """Whether the host itself says that it has the VM."""
        return self.node != "" and self.node == self.here


class Places:
    """The host on which each VM was last seen, by the VM's name. Only in memory, because hosts are asked anyway."""

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}

    def host_of(self, vm: Vm) -> str:
        """Return the name of the host where the VM was last seen, or of the first of its hosts."""
        last_seen = self._seen.get(vm.name, "")
        return last_seen if any(host.name == last_seen for host in vm.hosts) else vm.host.name

    async def find(
        self, vm: Vm, hosts: Sequence[HostConnection], msg_id: str = "", changes: bool = False, repeated: bool = False
    ) -> Destination:
        """Return the host to which a request goes.

        Args:
            vm: the VM.
            hosts: the connections to its hosts, in the order of the configuration.
            msg_id: the request's id, of which one of the hosts may have a record.
            changes: the request can change the VM's power.
            repeated: the id may have been sent before. In that case, Lost is raised if a host that could have its
                record can't tell.

        Raises Unreached if several hosts repeatedly say that they have the VM.
        """
        if len(vm.hosts) == 1 and not vm.hosts_off:
            return Destination(hosts[0], is_only=True)
        copies: list[_Place] = []
        for _ in range(3):
            answers = await _ask_each(hosts, vm.vmid, msg_id, repeated)
            mates = [one for one in answers if _is_mate(one.host, hosts[0])]
            proofs = [one for one in mates if one.sure and one.is_proof]
            if claims := [one for one in answers if one.has_id]:
                return _believe(claims, proofs, is_expected=repeated or not changes)
            sure = min((one for one in mates if one.sure), key=lambda one: not one.is_proof, default=None)
            earlier, copies = copies, [one for one in mates if sure and one.has_process and one.here != sure.node]
            if len(proofs) < 2 and copies in ([], earlier):
                # otherwise ask again, because the VM moved between two answers, and the id may have acted before
                break
            await asyncio.sleep(0.2)
        if len(proofs) > 1:
            raise Unreached(
                "place-disputed", "several hosts say that they have the VM", "look at the VM on each of these hosts"
            )
        found = self._choose(vm, hosts, mates, sure, changes)
        doubtful = [one for one in answers if one.has_id is None and (one.answered or one.host is not found.host)]
        if repeated and (doubtful or vm.hosts_off):
            names = ", ".join([*(one.host.host.name for one in doubtful), *vm.hosts_off])
            hint = f"fix what is wrong with {names}, then send the same id again"
            raise Lost(f"{names} can't tell whether this id ran there, so nothing was sent", hint)
        running = [one for one in mates if one.has_process]
        copy = copies[0].host if copies and copies == running and found.away is None else None
        return replace(found, copy=copy, nodes=OtherNodes(vm.vmid, sure.node if sure else "", copies, running))

    def _choose(
        self, vm: Vm, hosts: Sequence[HostConnection], mates: Sequence[_Place], sure: _Place | None, changes: bool
    ) -> Destination:
        """Return the VM's host: named by a node with quorum, else with its process, else the last known one."""
        if sure is not None and not sure.is_proof:
            named = next((host for host in hosts if host.node == sure.node and _is_mate(host, hosts[0])), None)
            if named is None:  # no host is configured for the named node, so the host that was asked will refuse
                return Destination(sure.host)
            has_answered = any(one.host is named and one.answered for one in mates)
            return Destination(named if changes or has_answered else sure.host, away=None if has_answered else named)
        last_seen = self._seen.get(vm.name)
        proof = sure or min((m for m in mates if m.is_proof), key=lambda m: m.host.host.name != last_seen, default=None)
        if sure is not None:
            self._seen[vm.name] = sure.host.host.name
        if proof is not None:
            return Destination(proof.host)
        last = next((host for host in hosts if host.host.name == self.host_of(vm)), hosts[0])
        answering = next((one.host for one in mates if one.answered), last)
        return Destination(last if changes or any(one.host is last and one.answered for one in mates) else answering)


def _is_mate(host: HostConnection, first: HostConnection) -> bool:
    """Return whether a host is in the cluster of the VM's first host. Elsewhere its number is another VM."""
    return host is first or (host.cluster is not None and host.cluster == first.cluster != "")


def _believe(claims: Sequence[_Place], proofs: Sequence[_Place], is_expected: bool) -> Destination:
    """Return the host with a record of the id. Raises Unreached if that host can't have such a record.

    No host knows an id that was not sent before. So a host that claims to have it must at least be the host that has
    the VM. Otherwise one hostile host could attract verbs for VMs that run on other hosts.
    """
    if is_expected or (len(proofs) == 1 and claims == proofs):
        return Destination(claims[0].host, has_id=True)
    raise Unreached("place-disputed", *explain_claim(claims))


async def _ask_each(hosts: Sequence[HostConnection], vmid: int, msg_id: str, is_repeated: bool) -> list[_Place]:
    """Return each host's answer. For a repeated id, the first host that has the id is enough."""
    asking = [asyncio.create_task(_ask(host, vmid, msg_id, is_repeated)) for host in hosts]
    answers = []
    try:
        for each in asyncio.as_completed(asking):
            answers.append(await each)
            if is_repeated and answers[-1].has_id:
                break
    finally:
        for task in asking:
            task.cancel()
    return sorted(answers, key=lambda one: hosts.index(one.host))


async def _ask(host: HostConnection, vmid: int, msg_id: str, is_repeated: bool) -> _Place:
    """Return a host's answer. Does not wait for a host known to be down, unless all hosts must answer."""
    if host.is_down and not is_repeated:
        if host.trouble and host.trouble.cause != "key-not-accepted":  # sshd and fail2ban count failed logins
            host.try_again()
        return _Place(host)
    with suppress(TimeoutError, Unreached, Lost):
        async with asyncio.timeout(ASK_AGAIN_SECONDS if is_repeated else ASK_SECONDS):
            result = (await host.read(line_of("where", vmid, id=msg_id)))[-1]
            return _read_place(host, result)
    return _Place(host)


def _read_place(host: HostConnection, result: Message) -> _Place:
    host.hear_cluster(result.get("cluster"))
    has_id, answered, sure = result.get("known"), result["exit_code"] == 0, result.get("sure") is True
    node, here = (str(result.get(name, "")) for name in ("node", "here"))
    has_process = result.get("process") is True and result.get("migrating") is not True
    return _Place(host, answered, has_id if isinstance(has_id, bool) else None, node, here, sure, has_process)
