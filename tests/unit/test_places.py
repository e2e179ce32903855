"""Which host gets a request, from what each host says about the VM. The rules are in docs/api.md, "A VM that moves"."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from breakglass.base.budget import ASK_AGAIN_SECONDS, ASK_SECONDS
from breakglass.base.errors import Lost, Unreached
from breakglass.config.model import Address, Host, Vm
from breakglass.proxmox import places
from breakglass.proxmox.host import HostConnection
from breakglass.proxmox.outcome import Message
from breakglass.proxmox.places import Places

from ..model.simulation import VirtualLoop
from ..support.rows import each_row

HOSTS = tuple(Host(name, Address("breakglass", name), "key", node=name, cluster="c") for name in ("a", "b"))
VM = Vm("devvm", 102, HOSTS)


class Node(HostConnection):
    """A host whose answer is known, or that gives none."""

    def __init__(self, host: Host, said: Message | None) -> None:
        super().__init__(host)
        self.said = said
        self.asked = 0

    async def read(self, line: str) -> list[Message]:
        self.asked += 1
        if self.said is None:
            raise Lost("no answer", "")
        return [self.said]


def says(here: str, node: str = "", **more: object) -> Message:
    """Return the answer of a node with a quorum that has no process of the VM and does not know the id."""
    known = {"known": False, "sure": True, "process": False, "migrating": False, "cluster": "c", "exit_code": 0}
    return {"type": "result", "outcome": "done", "here": here, "node": node} | known | more


class Row(NamedTuple):
    """What two hosts say.

    Attributes:
        a, b: the answer of each, None if there is none.
        goes: where a verb goes that changes power, or the error.
        reads: where one goes that only reads, if that is another.
        asks: what is known of the request.
    """

    a: Message | None
    b: Message | None
    goes: str
    reads: str = ""
    asks: Mapping[str, Any] = MappingProxyType({})


NEW: Mapping[str, Any] = {"msg_id": "msg_12345678"}
AGAIN = {**NEW, "repeated": True}
ROWS = {
    "a has it": Row(says("a", "a"), says("b", "a"), "a"),
    "b has it": Row(says("a", "b"), says("b", "b"), "b"),
    "b has it, and only b answers": Row(None, says("b", "b"), "b"),
    "a names b, which is silent": Row(says("a", "b"), None, "b away", "a away"),
    "a names b, which has no quorum": Row(says("a", "b"), says("b", "b", sure=False), "b"),
    "b fails": Row(says("a", "b"), says("b", sure=False, exit_code=13), "b away", "a away"),
    "a names a node without a host": Row(says("a", "c"), None, "a"),
    "only b has a quorum, and names a": Row(says("a", "a", sure=False), says("b", "a"), "a"),
    "no quorum, and b has it": Row(says("a", "b", sure=False), says("b", "b", sure=False), "b"),
    "no quorum, and no node has it": Row(says("a", sure=False), says("b", sure=False), "a"),
    "no node has it, and a is silent": Row(None, says("b", sure=False), "a", "b"),
    "both are silent": Row(None, None, "a"),
    "both have it": Row(says("a", "a"), says("b", "b"), "place-disputed"),
    "b of another cluster has the number": Row(says("a", "a"), says("b", "b", cluster="d"), "a"),
    "b of another cluster runs the number": Row(says("a", "a"), says("b", "b", cluster="d", process=True), "a"),
    "b of no known cluster has the number": Row(says("a", "a", cluster=""), says("b", "b", cluster=""), "a"),
    "a names b of another cluster": Row(says("a", "b"), says("b", "b", cluster="d"), "a"),
    "a runs it, and b has it": Row(says("a", "b", process=True), says("b", "b"), "b copy a"),
    "a runs it while it moves to b": Row(says("a", "b", process=True, migrating=True), says("b", "b"), "b"),
    "both run it, and b has it": Row(says("a", "b", process=True), says("b", "b", process=True), "b copied"),
    "a runs it, and b is silent": Row(says("a", "b", process=True), None, "b away copied", "a away copied"),
    "b knows the id, and has it": Row(says("a", "b"), says("b", "b", known=True), "b id", asks=NEW),
    "b knows the new id, and a has it": Row(says("a", "a"), says("b", "a", known=True), "place-disputed", "b id", NEW),
    "b knows the id, and a has it": Row(says("a", "a"), says("b", "a", known=True), "b id", asks=AGAIN),
    "b knows the id, and a is silent": Row(None, says("b", "b", known=True), "b id", asks=AGAIN),
    "no host knows the id": Row(says("a", "a"), says("b", "a"), "a", asks=AGAIN),
    "a can't tell of the id": Row(says("a", "a", known=None), says("b", "a"), "lost a", asks=AGAIN),
    "b is silent about the id": Row(says("a", "a"), None, "lost b", asks=AGAIN),
    "b is silent about the new id": Row(says("a", "a"), None, "a", asks=NEW),
    "the id may be at a host that is switched off": Row(says("a", "a"), says("b", "a"), "lost off", asks=AGAIN),
}


async def find(row: Row, changes: bool, vm: Vm) -> str:
    hosts = [Node(host, said) for host, said in zip(HOSTS, row[:2], strict=True)]
    try:
        found = await Places().find(vm, hosts, changes=changes, **row.asks)
    except Unreached as error:
        return error.cause
    except Lost as error:
        return f"lost {str(error).partition(' ')[0]}"
    assert found.away is None or found.away is hosts[1]
    words = [found.host.host.name, "id" * found.has_id, "away" * (found.away is not None)]
    copied = "copied" * bool(found.nodes.copies)
    return " ".join(filter(None, [*words, f"copy {found.copy.host.name}" if found.copy else copied]))


@each_row("name", ROWS)
def test_each_row_goes_to_its_host(name: str) -> None:
    """If the VM runs where it should not, no start is sent, and a stop goes to that host."""
    row = ROWS[name]
    vm = replace(VM, hosts_off=("off",)) if "switched off" in name else VM
    found = [asyncio.run(find(row, changes, vm)) for changes in (True, False)]
    assert found == [row.goes, row.reads or row.goes]


async def test_a_vm_that_was_seen_is_looked_for_there() -> None:
    """The place is kept, and it counts if no host can tell where the VM is, or if two say it without a quorum."""
    seen, hosts = Places(), [Node(HOSTS[0], says("a", "b")), Node(HOSTS[1], says("b", "b"))]
    assert seen.host_of(VM) == "a"
    await seen.find(VM, hosts)
    assert seen.host_of(VM) == "b"
    for said in ((None, None), (says("a", "a", sure=False), says("b", "b", sure=False))):
        hosts[0].said, hosts[1].said = said
        assert (await seen.find(VM, hosts, changes=True)).host is hosts[1]
    assert seen.host_of(replace(VM, hosts=HOSTS[:1])) == "a"


async def test_the_only_host_is_not_asked() -> None:
    """Unless another host of the VM is switched off, because that one may know the id."""
    only = replace(VM, hosts=HOSTS[:1])
    host = Node(HOSTS[0], says("a", "a"))
    found = await Places().find(only, [host])
    assert (found.host, found.is_only, host.asked) == (host, True, 0)
    assert not (await Places().find(replace(only, hosts_off=("off",)), [host])).is_only
    assert host.asked == 1


@each_row(("repeated", "seconds"), [(False, ASK_SECONDS), (True, ASK_AGAIN_SECONDS)])
def test_a_silent_host_is_waited_for(repeated: bool, seconds: float) -> None:
    """A repeated attempt waits longer, because a host that can't tell of the id stops it."""

    async def waits() -> float:
        host = Node(HOSTS[1], says("b", "a"))
        host.read = lambda line: asyncio.sleep(3600, [])  # type: ignore[method-assign]
        began = asyncio.get_running_loop().time()
        await places._ask(host, 102, "", repeated)
        return asyncio.get_running_loop().time() - began

    loop = VirtualLoop()
    assert round(loop.run_until_complete(waits()), 3) == seconds
    loop.close()


async def test_a_host_that_is_down_is_asked_about_a_repeated_id_only() -> None:
    """A new request does not wait for it. A new attempt to connect begins, unless its sshd would count the login."""
    for cause, tries in (("tcp", True), ("key-not-accepted", False)):
        hosts = [Node(HOSTS[0], says("a", "a")), Node(HOSTS[1], says("b", "a"))]
        hosts[1].trouble, hosts[1].may_log_in = Unreached(cause, "no", ""), False
        assert (await Places().find(VM, hosts, changes=True)).host is hosts[0]
        assert (hosts[1].asked, hosts[1]._attempt is not None) == (0, tries)
        assert (await Places().find(VM, hosts, changes=True, **AGAIN)).host is hosts[0]
        assert hosts[1].asked == 1
        if hosts[1]._attempt:
            with pytest.raises(Unreached):
                await hosts[1]._attempt
