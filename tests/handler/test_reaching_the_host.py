"""Reaching the host: each cause of a failure is reported as such, and `reached` is always right."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import asyncssh
import pytest

import breakglass.proxmox.channel
import breakglass.proxmox.connect
import breakglass.proxmox.host
import breakglass.proxmox.keeping
import breakglass.proxmox.patience
from breakglass.agents.pve.words import DEADLINES
from breakglass.base.errors import Lost, Unreached
from breakglass.client import new_id
from breakglass.config.model import Address, Host
from breakglass.demo.proxmox.world import World
from breakglass.proxmox.channel import Channel
from breakglass.proxmox.host import HostConnection
from breakglass.proxmox.outcome import Message

from ..support.agent import constants_set, set_constants
from ..support.failing_tools import misbehave
from ..support.ports import reserve_port
from ..support.signals import signal_process
from ..support.sshd import Sshd, descendants, kill_all
from ..support.stages import until, until_on_loop, writer_of

pytestmark = [pytest.mark.real("sshd"), pytest.mark.shared("world", "sshd")]
own_host = pytest.mark.shared()
Open = Callable[..., HostConnection]


@pytest.fixture
def node(sshd: Sshd) -> Host:
    address = Address("breakglass", "127.0.0.1", sshd.port)
    return Host("pve1", address, sshd.power_key, host_keys=(sshd.host_key,))


@pytest.fixture
async def open_host(node: Host) -> AsyncIterator[Open]:
    """Open connections, and close them at the end."""
    made: list[HostConnection] = []

    def make(retry_seconds: float = 1, **changes: Any) -> HostConnection:
        made.append(HostConnection(replace(node, **changes)))
        made[-1].retry_seconds = retry_seconds
        return made[-1]

    yield make
    for host in made:
        await host.close()


async def trouble(host: HostConnection, line: str = "reset vm=102 id=trouble-1 by=operator") -> Unreached:
    with pytest.raises(Unreached) as caught:
        await collected(host.run(line))
    assert "nothing was sent" in caught.value.message
    return caught.value


async def became(host: HostConnection, state: str) -> None:
    await until_on_loop(lambda: host.health(102) == state, state)


async def collected(messages: AsyncIterator[Message]) -> list[Message]:
    return [message async for message in messages]


def at(port: int, name: str = "127.0.0.1") -> Address:
    return Address("breakglass", name, port)


# --- seven causes ---


async def test_a_host_that_is_not_reached(open_host: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name has no address (RFC 6761), no server listens, a server sends nothing, or its key is unexpected."""
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    assert (await trouble(open_host(ssh=at(22, "no-such-host.invalid")))).cause == "name-not-found"
    assert (await trouble(open_host(ssh=at(reserve_port())))).cause == "connection-refused"
    assert (await trouble(open_host(host_keys=(other,)))).cause == "host-key-differs"
    monkeypatch.setattr(breakglass.proxmox.connect, "CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert (await trouble(open_host(ssh=at(silent.getsockname()[1])))).cause == "timeout"


async def test_turned_away_before_login(world: World, open_host: Open) -> None:
    """OpenSSH penalises this address, so even the right key does not help."""
    strict = Sshd(world, "PerSourcePenalties authfail:30 min:1", name="strict")
    try:
        wrong = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
        place = {"ssh": at(strict.port), "host_keys": (strict.host_key,)}
        codes = [(await trouble(open_host(key=wrong, **place))).cause for _ in range(4)]  # sshd's penalty comes late
        assert codes[0] == "key-not-accepted"
        assert (await trouble(open_host(key=strict.power_key, **place))).cause == "turned-away"
    finally:
        strict.stop()


@own_host
async def test_key_not_accepted_is_tried_rarely(open_host: Open, sshd: Sshd) -> None:
    """A wrong key is tried at most once a minute, however many requests come."""
    host = open_host(key=asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode())
    keeping = asyncio.create_task(host.keep_open())
    assert [(await trouble(host)).cause for _ in range(3)] == ["key-not-accepted"] * 3
    keeping.cancel()
    await asyncio.to_thread(until, lambda: "Failed publickey" in sshd.logged(), "the line of sshd's other process")
    assert sshd.logged().count("Failed publickey") == 1


async def test_a_key_line_that_is_written_later_is_found(
    open_host: Open, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler tries again without a request or a reload. Here it does so at once and not after a minute."""
    monkeypatch.setattr(breakglass.proxmox.patience, "REFUSAL_BACKOFF", (0.01,))
    monkeypatch.setattr(breakglass.proxmox.keeping, "AUTH_PAUSE", 0.0)
    lines = sshd.keys.read_text()
    sshd.keys.write_text("")
    host = open_host()
    keeping = asyncio.create_task(host.keep_open())
    try:
        assert (await trouble(host)).cause == "key-not-accepted"
    finally:
        sshd.keys.write_text(lines)
    await became(host, "answering")
    keeping.cancel()


@own_host
async def test_connection_lost_after_sending(open_host: Open, sshd: Sshd, world: World) -> None:
    """The server dies for ever after the request was sent. The outcome is unknown and never unreached."""
    os.mkfifo(world.root / "gate")
    misbehave(world.root, gate="stop")
    host = open_host()
    messages = host.run("stop vm=102 id=lost-after-1 by=operator")
    await anext(messages)
    sshd.stop()
    with pytest.raises(Lost):
        await collected(messages)
    (world.root / "gate").write_text("")


# --- pins ---


async def test_one_of_several_pins_is_enough_and_none_checks_nothing(open_host: Open, sshd: Sshd) -> None:
    """The pins are a current and a spare key, and the host shows one of them. The word "any" accepts every key."""
    spare = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    for pins in ((spare, sshd.host_key), ()):
        assert (await open_host(host_keys=pins).read("status vm=102"))[-1]["state"] == "running"


@own_host
async def test_a_host_ca_vouches_for_a_new_key(open_host: Open, sshd: Sshd) -> None:
    """A certificate of the pinned authority is accepted. The authority's key itself is not accepted as a host key."""
    authority = asyncssh.generate_private_key("ssh-ed25519")
    public = authority.export_public_key().decode().strip()
    assert (await trouble(open_host(host_keys=(), host_cas=(public,)))).cause == "host-key-differs"
    key = asyncssh.read_private_key(sshd.directory / "host_key")
    certificate = authority.generate_host_certificate(key.convert_to_public(), "pve", principals=["127.0.0.1"])
    (sshd.directory / "host_key-cert.pub").write_bytes(certificate.export_certificate())
    sshd.stop()
    sshd.extra += f"\nHostCertificate {sshd.directory}/host_key-cert.pub"
    sshd.start()
    assert (await open_host(host_keys=(), host_cas=(public,)).read("status vm=102"))[-1]["state"] == "running"


@own_host
async def test_a_session_that_ends_at_once_is_opened_again_after_a_growing_pause(node: Host, sshd: Sshd) -> None:
    """On a host without memory, which kills each session, a login every 0.3 s would itself be a load."""
    paused = asyncio.Event()

    def chance() -> float:
        paused.set()
        return 0.0

    host = HostConnection(node)
    host.chance = chance
    keeping = asyncio.create_task(host.keep_open())
    await became(host, "answering")
    kill_all(descendants(sshd.process.pid))
    async with asyncio.timeout(60):
        await paused.wait()
    keeping.cancel()
    await host.close()


# --- the warm link ---


async def test_identical_reads_in_flight_are_asked_once(open_host: Open) -> None:
    """If two hundred pages poll, the host executes at most two reads."""
    host = open_host()
    await host.read("status vm=102")
    assert host.link is not None
    assert host.link.channel is not None
    before = host.link.channel.sent
    answers = await asyncio.gather(*(host.read("status vm=102") for _ in range(200)))
    assert {answer[-1]["state"] for answer in answers} == {"running"}
    assert host.link.channel.sent - before <= 2


# A verb that waits until a pipe has a writer; the other requests are answered.
HUNG = """
real = find("read")

def read(key, request, bundle):
    if request.verb == "VERB":
        open(key.root + "/hung").read()
    yield from real(key, request, bundle)

replace(read=read)
"""


@own_host
async def test_a_read_that_hangs_cuts_no_other_request(
    open_host: Open, sshd: Sshd, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the late status fails. The host agent still answers, so the connection of the stop is kept."""
    os.mkfifo(world.root / "hung")
    os.mkfifo(world.root / "gate")
    misbehave(world.root, gate="stop")
    set_constants(world, HUNG.replace("VERB", "status"), DEADLINES={**DEADLINES, "status": 60.0})
    host = open_host(retry_seconds=0)
    stop = host.run("stop vm=102 id=beside-a-read-1 by=operator")
    await anext(stop)
    link = host.link
    monkeypatch.setattr(Channel.ask, "__defaults__", (0.5,))  # seconds until the first message
    with pytest.raises(Lost, match=r"no answer in 0\.5 s"):
        await host.read("status vm=102")
    os.close(await asyncio.to_thread(writer_of, world.root / "hung"))
    assert host.link is link is not None
    (world.root / "gate").write_text("")
    result = (await collected(stop))[-1]
    assert (result["outcome"], result["attached"]) == ("done", False)
    assert sshd.logged().count("Accepted publickey") == 1


async def test_a_verb_does_not_wait_for_the_handshake(
    open_host: Open, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first reset is sent once the session is open. /health says `answering` once the host agent has answered."""
    monkeypatch.setattr(breakglass.proxmox.channel, "ALIVE_SECONDS", 60.0)
    os.mkfifo(world.root / "hung")
    host = open_host()
    with constants_set(world, HUNG.replace("VERB", "ping"), DEADLINES={**DEADLINES, "ping": 60.0}):
        async with asyncio.timeout(50):
            result = await host.result(f"reset vm=102 id={new_id()} by=operator")
    assert (result["outcome"], result["attached"]) == ("done", False)
    assert host.health(102) == "not-checked"
    os.close(await asyncio.to_thread(writer_of, world.root / "hung"))
    await became(host, "answering")


# A host agent that can't answer `ping` while a file exists.
DEAF = """
import os

real = find("read")

def read(key, request, bundle):
    if request.verb == "ping" and os.path.exists(key.root + "/deaf"):
        raise OSError("too busy")
    yield from real(key, request, bundle)

replace(read=read)
"""


async def test_a_host_agent_that_was_too_busy_is_asked_again(
    open_host: Open, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was silent when the connection opened. The state becomes `answering` without a request or a new login."""
    monkeypatch.setattr(breakglass.proxmox.keeping, "LOOK_SECONDS", 0.1)
    (world.root / "deaf").touch()
    host = open_host()
    with constants_set(world, DEAF):
        host.start()
        await became(host, "agent-silent")
    link = host.link
    (world.root / "deaf").unlink()
    await became(host, "answering")
    assert host.link is link


async def test_a_session_that_ended_is_opened_anew(open_host: Open, sshd: Sshd) -> None:
    """The resident agent was killed, or the connection has just closed. The next verb is sent once, over a new one."""
    host = open_host(retry_seconds=60)
    for ended in ("agent", "connection"):
        await host.read("status vm=102")
        assert host.link is not None
        if ended == "agent":
            sshd.drop_connections()
        else:
            host.link.conn.abort()  # asyncssh reports the end one step of the event loop later
        result = await host.result(f"reset vm=102 id={new_id()} by=operator")
        assert (result["outcome"], result["attached"]) == ("done", False)


@own_host
async def test_a_link_that_died_unnoticed_is_replaced_before_anything_is_sent(
    open_host: Open, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ping finds a connection that no longer answers, and the verb itself goes over a new one."""
    monkeypatch.setattr(breakglass.proxmox.host, "QUIET_SECONDS", 0)
    monkeypatch.setattr(breakglass.proxmox.channel, "ALIVE_SECONDS", 60)
    host = open_host()
    await host.read("status vm=102")
    await became(host, "answering")
    assert host.link is not None
    abort = host.link.abort

    def abort_and_be_patient() -> None:
        monkeypatch.setattr(breakglass.proxmox.channel, "ALIVE_SECONDS", 60)  # the new connection may be slow
        abort()

    monkeypatch.setattr(host.link, "abort", abort_and_be_patient)
    monkeypatch.setattr(breakglass.proxmox.channel, "ALIVE_SECONDS", 0.3)
    frozen = descendants(sshd.process.pid)
    for pid in frozen:
        with contextlib.suppress(ProcessLookupError):  # a process that is just ending
            signal_process(pid, signal.SIGSTOP)
    try:
        messages = await collected(host.run("reset vm=102 id=unnoticed-1 by=operator"))
    finally:
        for pid in frozen:
            with contextlib.suppress(ProcessLookupError):
                signal_process(pid, signal.SIGKILL)
    assert (messages[-1]["outcome"], messages[-1]["attached"]) == ("done", False)
