"""The demo's SSH server: asyncssh instead of sshd, with a forced command for its key."""

import asyncio
from asyncio.subprocess import PIPE
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import asyncssh

from .proxmox.world import World


@dataclass(frozen=True)
class DemoHost:
    """A listening server, with the address and keys that a handler needs to reach it."""

    server: asyncssh.SSHAcceptor
    port: int
    host_key: str
    power_key: str
    sessions: set[asyncio.Task[None]]

    async def close(self) -> None:
        """Stop listening, end every connection, and wait until their commands have ended."""
        self.server.close()
        for task in self.sessions:
            task.cancel()
        await asyncio.gather(*self.sessions, return_exceptions=True)


class _Login(asyncssh.SSHServer):
    """Lets in a client that has the key."""

    def __init__(self, key: asyncssh.SSHKey) -> None:
        self._key = key

    def public_key_auth_supported(self) -> bool:
        return True

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        """Forward no port, with the error of sshd's `restrict`. asyncssh's own error looks like a closed port."""
        raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "open failed")

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return key == self._key


async def listen(world: World) -> DemoHost:
    """Serve the world's agent on a free loopback port."""
    sessions: set[asyncio.Task[None]] = set()
    host_key, power = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=lambda: _Login(power.convert_to_public()),
        server_host_keys=[host_key],
        process_factory=_forced(world, sessions),
        encoding=None,
        allow_pty=False,
    )
    return DemoHost(
        server,
        server.get_port(),
        host_key.export_public_key().decode().strip(),
        power.export_private_key().decode(),
        sessions,
    )


def _forced(world: World, sessions: set[asyncio.Task[None]]) -> Callable[[asyncssh.SSHServerProcess[bytes]], None]:
    def begin(channel: asyncssh.SSHServerProcess[bytes]) -> None:
        task = asyncio.get_running_loop().create_task(_serve(world, channel))
        sessions.add(task)
        task.add_done_callback(sessions.discard)

    return begin


async def _serve(world: World, channel: asyncssh.SSHServerProcess[bytes]) -> None:
    environment = dict(world.environment)
    if channel.command is not None:
        environment["SSH_ORIGINAL_COMMAND"] = channel.command
    agent = await asyncio.create_subprocess_exec(
        *world.forced_command(), env=environment, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    assert agent.stdin
    assert agent.stdout
    assert agent.stderr
    feeding = asyncio.create_task(_feed(channel.stdin, agent.stdin))
    try:
        await asyncio.gather(_pump(agent.stdout, channel.stdout), _pump(agent.stderr, channel.stderr))
        channel.exit(await agent.wait())
    finally:
        feeding.cancel()
        agent.stdin.close()  # a resident agent ends when its input ends
        await agent.wait()


class _Source(Protocol):
    async def read(self, size: int) -> bytes: ...


class _Sink(Protocol):
    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None: ...


async def _pump(source: _Source, sink: _Sink) -> None:
    """Copy until the source ends or the sink is closed."""
    with suppress(OSError, asyncssh.Error):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()


async def _feed(source: _Source, stdin: asyncio.StreamWriter) -> None:
    await _pump(source, stdin)
    stdin.close()
