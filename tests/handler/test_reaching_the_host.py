"""Reaching the host: each cause of a failure is reported as such, and `reached` is always right."""

import asyncio
import os
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
from breakglass.base.errors import Lost, Unreached
from breakglass.config.model import Address, Host
from breakglass.demo.proxmox.world import World
from breakglass.proxmox.host import HostConnection
from breakglass.proxmox.outcome import Message

from ..support.agent import processes
from ..support.failing_tools import misbehave
from ..support.ports import reserve_port
from ..support.service import SSH_KEY
from ..support.sshd import Sshd
from ..support.stages import until

pytestmark = [pytest.mark.real("sshd"), pytest.mark.shared("world", "sshd")]
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


async def collected(messages: AsyncIterator[Message]) -> list[Message]:
    return [message async for message in messages]


def at(port: int, name: str = "127.0.0.1") -> Address:
    return Address("breakglass", name, port)


async def test_a_host_that_is_not_reached(open_host: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name has no address (RFC 6761), no server listens, a server sends nothing, or its key is unexpected."""
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    assert (await trouble(open_host(ssh=at(22, "no-such-host.invalid")))).cause == "name-not-found"
    assert (await trouble(open_host(ssh=at(reserve_port())))).cause == "connection-refused"
    assert (await trouble(open_host(host_keys=(other,)))).cause == "host-key-differs"
    monkeypatch.setattr(breakglass.proxmox.connect, "CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert (await trouble(open_host(ssh=at(silent.getsockname()[1])))).cause == "timeout"


async def test_an_sshd_that_opens_no_session(world: World, open_host: Open) -> None:
    """After the login, so the answer says that nothing was sent."""
    with Sshd(world, "MaxSessions 0", name="closed") as closed:
        host = open_host(ssh=at(closed.port), host_keys=(closed.host_key,), key=closed.power_key)
        refused = await trouble(host)
        assert (refused.cause, "refused a channel" in refused.reason) == ("turned-away", True)


async def test_key_not_accepted_is_tried_rarely(world: World, open_host: Open) -> None:
    """A wrong key is tried at most once a minute, however many requests come.

    After some failures, OpenSSH penalises this address, so even the right key does not help.
    """
    with Sshd(world, "PerSourcePenalties authfail:30 min:1", name="strict") as strict:
        place = {"ssh": at(strict.port), "host_keys": (strict.host_key,)}
        host = open_host(key=SSH_KEY, **place)
        keeping = asyncio.create_task(host.keep_open())
        assert [(await trouble(host)).cause for _ in range(3)] == ["key-not-accepted"] * 3
        keeping.cancel()
        await asyncio.to_thread(until, lambda: "Failed publickey" in strict.logged(), "the line of another process")
        assert strict.logged().count("Failed publickey") == 1
        for _ in range(3):  # sshd's penalty comes late
            await trouble(open_host(key=SSH_KEY, **place))
        assert (await trouble(open_host(key=strict.power_key, **place))).cause == "turned-away"


async def test_connection_lost_after_sending(open_host: Open, sshd: Sshd, world: World) -> None:
    """The server dies for ever after the request was sent. The outcome is unknown and never unreached."""
    os.mkfifo(world.root / "gate")
    misbehave(world.root, gate="stop")
    messages = open_host().run("stop vm=102 id=lost-after-1 by=operator")
    await anext(messages)
    sshd.stop()
    try:
        with pytest.raises(Lost):
            await collected(messages)
        (world.root / "gate").write_text("")
        await asyncio.to_thread(until, lambda: not processes(world, "lost-after-1"), "the end of the job")
    finally:
        sshd.start()


async def test_one_of_several_pins_is_enough_and_none_checks_nothing(open_host: Open, sshd: Sshd) -> None:
    """The pins are a current and a spare key, and the host shows one of them. The word "any" accepts every key."""
    spare = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    for pins in ((spare, sshd.host_key), ()):
        assert (await open_host(host_keys=pins).read("status vm=102"))[-1]["state"] == "running"


async def test_a_host_ca_vouches_for_a_new_key(open_host: Open, world: World) -> None:
    """A certificate of the pinned authority is accepted. The authority's key itself is not accepted as a host key."""
    authority = asyncssh.generate_private_key("ssh-ed25519")
    pins = {"host_keys": (), "host_cas": (authority.export_public_key().decode().strip(),)}
    with Sshd(world, name="certified") as sshd:
        place = {"ssh": at(sshd.port), "key": sshd.power_key, **pins}
        assert (await trouble(open_host(**place))).cause == "host-key-differs"
        key = asyncssh.read_private_key(sshd.directory / "host_key")
        certificate = authority.generate_host_certificate(key.convert_to_public(), "pve", principals=["127.0.0.1"])
        (sshd.directory / "host_key-cert.pub").write_bytes(certificate.export_certificate())
        sshd.stop()
        sshd.extra += f"\nHostCertificate {sshd.directory}/host_key-cert.pub"
        sshd.start()
        assert (await open_host(**place).read("status vm=102"))[-1]["state"] == "running"


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
