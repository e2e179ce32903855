"""The connection to a host, in the simulated world of tests/model: what it sends, and what it says of the host."""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import asyncssh
import pytest

from breakglass.base import audit
from breakglass.base.errors import Lost, Unreached
from breakglass.config.model import Address, Host, Vm
from breakglass.proxmox.host import HostConnection

from ..model.simulation import Connection, Node, World, simulated
from ..support.rows import each_row
from .test_logs import empty_log

__all__ = ["empty_log"]  # a fixture of pytest

T = TypeVar("T")
HOST = Host("host0", Address("h", "node0"), cluster="c", key="k")
VM = Vm("devvm", 102, (HOST,))
CYCLE = "cycle vm=102 id=msg_12345678"


class Listener(Node):
    """A host that keeps what it read."""

    def __init__(self, world: World) -> None:
        super().__init__(world, 0)
        self.lines: list[str] = []
        self.says: dict[str, object] = {}  # of a ping
        self.is_silent, self.ignores = False, ""
        self.tells: list[dict[str, Any]] | None = None  # in answer to a verb
        self.refusal: Exception | None = None
        self.logins = 0

    def take(self, connection: Connection, line: str) -> None:
        tag, _, asked = line.partition(" ")
        self.lines.append(asked)
        if self.tells is not None and asked.split()[0] not in ("ping", "where"):
            for message in self.tells:
                connection.answer(tag, message)
        elif not self.is_silent and asked.split()[0] != self.ignores:
            super().take(connection, line)

    def about(self, verb: str, msg_id: str) -> dict[str, object]:
        return super().about(verb, msg_id) | (self.says if verb == "ping" else {})


class OneHost(World):
    """A world with one host and no clients."""

    node: Listener

    def __init__(self) -> None:
        super().__init__(0)
        self.place, self.chance = 0, random.Random(1)

    async def connect(self, host: Host) -> Connection:
        self.node.logins += 1
        if self.node.refusal:
            raise self.node.refusal
        return await super().connect(host)


def live(work: Callable[[Listener, HostConnection], Awaitable[T]]) -> T:
    """Let some work happen in the world; its time costs nothing."""
    world = OneHost()

    async def run() -> T:
        world.node = Listener(world)
        world.nodes = [world.node]
        host = HostConnection(HOST)
        host.chance = world.chance.random
        try:
            return await asyncio.wait_for(work(world.node, host), 20_000)
        finally:
            await host.close()
            await asyncio.sleep(1)  # for what waited for an answer
            assert world.node.connections == {}

    with simulated(world) as loop:
        return loop.run_until_complete(run())


@each_row(
    ("asked", "vms", "words"),
    [
        (None, None, ""),
        (VM, None, ""),
        (None, {102: VM}, ""),
        (VM, {102: replace(VM, last_words=False)}, " no-last-words"),
        (None, {102: replace(VM, proxmox_name="db")}, " name=db"),
        (VM, {102: replace(VM, proxmox_name="db")}, " name=db"),
        (replace(VM, proxmox_name="web"), {102: replace(VM, proxmox_name="db")}, " name=web"),
    ],
)
def test_the_words_for_a_vm_are_those_of_its_entry(asked: Vm | None, vms: dict[int, Vm] | None, words: str) -> None:
    """Even the first request of a connection has them, because it waits for the host agent's ping."""

    async def send(node: Listener, host: HostConnection) -> None:
        node.says, host.vms = {"names": True, "no_last_words": True}, vms
        assert [message["type"] async for message in host.run(CYCLE, asked=asked)] == ["stage", "result"]
        assert node.lines[-1] == f"{CYCLE}{words}"

    live(send)


def test_a_connection_that_ends_before_the_request_is_opened_once_more() -> None:
    """Nothing was sent, so the same line is sent over the new one."""

    async def send(node: Listener, host: HostConnection) -> None:
        node.is_silent, host.vms = True, {102: replace(VM, proxmox_name="db")}
        sending = asyncio.create_task(host.result(CYCLE))
        await asyncio.sleep(5)
        node.is_silent = False
        next(iter(node.connections)).abort()
        assert (await sending)["outcome"] == "done"
        assert (node.logins, node.lines[0], node.lines[-1]) == (2, "ping", CYCLE)

    live(send)


def test_a_request_without_an_answer_is_sent_again() -> None:
    """Its id makes that safe. The connection stays open if the host agent answers on it."""

    async def send(node: Listener, host: HostConnection) -> None:
        node.ignores = "cycle"
        sending = asyncio.create_task(host.result(CYCLE))
        await asyncio.sleep(20)
        node.ignores = ""
        assert (await sending)["outcome"] == "done"
        assert (node.logins, node.lines.count(CYCLE)) == (1, 2)

    live(send)


def test_a_verb_is_sent_only_where_a_ping_is_answered() -> None:
    """A read is sent at once. A verb is not sent over a connection that has died, and a read without an answer ends."""

    async def send(node: Listener, host: HostConnection) -> None:
        await host.connected()
        await asyncio.sleep(10)
        node.lines.clear()
        assert (await host.read("where vm=102"))[-1]["exit_code"] == 0
        assert (await host.result(CYCLE))["outcome"] == "done"
        assert node.lines == ["where vm=102", CYCLE]
        await asyncio.sleep(10)
        next(iter(node.connections)).is_dead, began = True, time.monotonic()
        assert (await host.result(CYCLE))["attached"]
        assert int(time.monotonic() - began) == 5  # the ping's time
        assert node.lines[2:] == ["ping", CYCLE]
        assert node.world.sent["h", "msg_12345678"] == 2
        node.is_silent, began = True, time.monotonic()
        with pytest.raises(Lost, match="no answer in 25 s"):
            await host.read("where vm=102")
        assert 25 < time.monotonic() - began < 60
        host.vms = {103: VM}
        with pytest.raises(Unreached, match="a reload has taken VM 102 off host0"):
            await host.read("where vm=102")

    live(send)


@pytest.mark.usefixtures("empty_log")
def test_the_state_of_a_host_follows_its_connection() -> None:
    """The log has each change once."""

    async def watch(node: Listener, host: HostConnection) -> None:
        def known() -> tuple[Any, ...]:
            return host.health(102), host.health(103), host.is_down, host.serves_verbs(HOST)

        assert known() == ("not-checked", "not-checked", False, False)
        host.start()
        await asyncio.sleep(10)
        assert known() == ("answering", "not-allowed", False, True)
        assert (host.node, host.cluster, host.serves_verbs(replace(HOST, node="x"))) == ("node0", "c", False)
        node.crash()
        await asyncio.sleep(60)
        assert known()[1:] == (host.health(102), True, False)
        assert host.health(102) in ("connection-refused", "timeout")
        node.is_up = True
        await asyncio.sleep(60)
        assert known() == ("answering", "not-allowed", False, True)

    live(watch)
    lines = (json.loads(audit._waiting.get() or b"") for _ in range(audit._waiting.qsize()))
    noted = [(line["event"], line["state"], line["why"]) for line in lines]
    up, lost = ("host-up", "answering", ""), ("host-down", "lost", "the connection to node0:22 was lost")
    assert (*noted[:2], noted[-1]) == (up, lost, up)
    assert {event for event, state, _ in noted if state != "answering"} == {"host-down"}


def test_a_host_that_can_tell_where_its_vms_are_is_asked_every_half_minute() -> None:
    """Any other only after an hour without a message."""
    says: Iterator[dict[str, object]] = iter([{}, {"places": {}}])

    async def count(node: Listener, host: HostConnection) -> int:
        node.says = next(says)
        host.start()
        await asyncio.sleep(3000)
        return node.lines.count("ping")

    rarely, often = live(count), live(count)
    assert (rarely, 90 < often <= 101) == (1, True)


def test_a_refused_login_is_repeated_rarely() -> None:
    """The requests of the next minute get the same answer. An error after the login has its own cause."""

    async def ask(node: Listener, host: HostConnection) -> None:
        node.refusal = asyncssh.PermissionDenied("no")
        host.start()
        for _ in range(10):
            await asyncio.sleep(5)
            with pytest.raises(Unreached) as refused:
                await host.result(CYCLE)
            assert (refused.value.cause, node.logins) == ("key-not-accepted", 1)
        node.refusal = None
        await asyncio.sleep(60)
        assert (await host.result(CYCLE))["outcome"] == "done"

    live(ask)
