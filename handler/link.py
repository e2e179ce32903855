"""One SSH connection to a Proxmox host, and the agent's resident session on it. The only file that knows asyncssh.

Every failure of the library becomes one of two things here: `Unreached` (nothing was sent, and why) or `Lost` (it may
have been sent).
"""

import asyncio
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress

import asyncssh

from .outcomes import HTTP_STATUS, Lost, Message, Unreached
from .settings import Vm

CONNECT_SECONDS = 10
ALIVE_SECONDS = 5.0  # to answer a ping before a mutating verb is sent
QUIET_SECONDS = 2.0  # a link that spoke this recently needs no ping
SESSION_AGAIN = 30.0  # before a session that did not open is tried again on the same connection
FULL = "the host is overloaded, or sshd's MaxSessions is small"
EXEC_CHANNELS = 7  # beside the session; sshd's MaxSessions is 10


def public_key(private: str) -> str:
    """Return the public half of an unencrypted private key, without a comment; raise ValueError for anything else."""
    key = asyncssh.import_private_key(private.strip() + "\n")
    return " ".join(key.export_public_key().decode("ascii").split()[:2])


class Channel(asyncssh.SSHClientSession[bytes]):
    """The resident session on one channel: tagged requests out, tagged JSON lines in."""

    def __init__(self) -> None:
        self._buffer = b""
        self.sent = 0  # requests, for whoever counts executions on the host
        self._waiting: dict[str, asyncio.Queue[Message | None]] = {}
        self._chan: asyncssh.SSHClientChannel[bytes] | None = None
        self.heard = 0.0
        self.closed = False

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._chan = chan

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        if datatype is not None:  # stderr of a forced command that is not ours
            return
        self.heard = time.monotonic()
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._line(line)

    def _line(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(message, dict) or not is_message(message):
            return
        if isinstance(tag := message.pop("tag", None), str) and tag in self._waiting:
            self._waiting[tag].put_nowait(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        for queue in self._waiting.values():
            queue.put_nowait(None)

    async def ask(self, line: str, seconds: float) -> AsyncIterator[Message]:
        """Send a request and yield its messages, the last one a result; raise Lost when the channel or `seconds` end
        before."""
        assert self._chan is not None
        if self.closed:
            raise Lost("the session had ended")
        self.sent += 1
        tag, queue = str(self.sent), asyncio.Queue[Message | None]()
        self._waiting[tag] = queue
        until = time.monotonic() + seconds
        try:
            self._chan.write(f"{tag} {line}\n".encode())
            while True:
                message = await asyncio.wait_for(queue.get(), until - time.monotonic())
                if message is None:
                    raise Lost("the connection was lost")
                yield message
                if message["type"] == "result":
                    return
        except TimeoutError:
            raise Lost(f"no answer in {seconds:g} s") from None
        except OSError:
            raise Lost("the connection was lost") from None
        finally:
            del self._waiting[tag]


class Link:
    """One SSH connection, with the session when the agent has one."""

    def __init__(self, conn: asyncssh.SSHClientConnection, vmid: int) -> None:
        self.conn = conn
        self.channel: Channel | None = None
        self._vmid = vmid
        self._tried_session = float("-inf")
        self._execs = asyncio.Semaphore(EXEC_CHANNELS)

    @property
    def alive(self) -> bool:
        return not self.conn.is_closed()

    async def open_session(self) -> None:
        """Open the resident session; without one (an older agent, a full host) verbs go one exec each."""
        channel = Channel()
        self._tried_session = time.monotonic()
        with suppress(OSError, asyncssh.Error, Lost, TimeoutError):
            async with asyncio.timeout(ALIVE_SECONDS):
                await self.conn.create_session(lambda: channel, f"session vm={self._vmid}", encoding=None)
            await self._pong(channel)
            self.channel = channel

    async def _pong(self, channel: Channel) -> None:
        async for _ in channel.ask(f"ping vm={self._vmid}", ALIVE_SECONDS):
            pass

    async def ping(self) -> None:
        """Raise Lost unless the link answers now."""
        if self.channel is not None and time.monotonic() - self.channel.heard >= QUIET_SECONDS:
            await self._pong(self.channel)

    async def ask(self, line: str, seconds: float) -> AsyncIterator[Message]:
        """Send a request on the session, or as an exec of its own."""
        gone = self.channel is not None and self.channel.closed
        if gone or (self.channel is None and time.monotonic() - self._tried_session > SESSION_AGAIN):
            self.channel = None
            await self.open_session()
        if self.channel is not None:
            async for message in self.channel.ask(line, seconds):
                yield message
        else:
            async with self._execs:
                for message in await self._exec(line, seconds):
                    yield message

    async def _exec(self, line: str, seconds: float) -> list[Message]:
        try:
            ran = await self.conn.run(line, encoding=None, timeout=seconds)
        except asyncssh.ChannelOpenError as error:
            raise Unreached(
                "turned-away", f"the host refused a channel ({error.reason}); nothing was sent", FULL
            ) from None
        except (OSError, asyncssh.Error, TimeoutError):
            raise Lost("the connection was lost") from None
        return exec_messages(as_bytes(ran.stdout), as_bytes(ran.stderr), ran.exit_status)

    def close(self) -> None:
        self.conn.close()

    async def closed(self) -> None:
        """Return once the connection has ended."""
        await self.conn.wait_closed()

    @property
    def spent(self) -> bool:
        """Tell whether nothing that was sent can still arrive: the session has ended, the connection may be good."""
        return self.channel is not None and self.channel.closed

    def abort(self) -> None:
        """Throw the connection away with what was not sent yet: a dead request must not arrive minutes later."""
        self.conn.abort()


def is_message(message: Mapping[str, object]) -> bool:
    """Tell whether an object has the shape of an answer; a host that sends others has not answered."""
    if message.get("type") == "output":
        return isinstance(message.get("stream"), str) and isinstance(message.get("text"), str)
    code = message.get("exit_code")
    return message.get("type") == "result" and isinstance(code, int) and message.get("outcome") in HTTP_STATUS


def as_bytes(data: bytes | str | None) -> bytes:
    return data if isinstance(data, bytes) else (data or "").encode()


def exec_messages(stdout: bytes, stderr: bytes, exit_status: int | None) -> list[Message]:
    """Return what one exec said as messages. The trailer counts only as the last line, newline-ended, and when the
    exit status arrived and agrees; anything else is Lost."""
    head, _, last = stdout.removesuffix(b"\n").rpartition(b"\n")
    if not stdout.endswith(b"\n") or not last.startswith(b"#breakglass "):
        raise Lost("the answer ended without its last line")
    try:
        trailer = json.loads(last.removeprefix(b"#breakglass "))
    except (ValueError, RecursionError):
        raise Lost("the answer's last line is damaged") from None
    if not isinstance(trailer, dict) or not is_message({**trailer, "type": "result"}):
        raise Lost("the answer's last line is not a trailer")
    if exit_status is None or exit_status < 0 or trailer["exit_code"] != exit_status:
        raise Lost("the answer's last line and its exit status differ")
    texts = (("stdout", head + b"\n" if head else b""), ("stderr", stderr))
    output: list[Message] = [
        {"type": "output", "stream": stream, "text": text.decode("utf-8", "replace")} for stream, text in texts if text
    ]
    return [*output, {"type": "result", **trailer}]


async def open_link(vm: Vm) -> Link:
    """Connect, log in and open the session; raise Unreached, saying which of its ways of failing it was."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS + 5):
            link = Link(await _connection(vm), vm.vmid)
    except Exception as error:  # whatever an odd server makes the library raise: nothing was sent
        raise unreached(vm, error) from None
    try:
        await link.open_session()
    except BaseException:
        link.abort()
        raise
    return link


async def _connection(vm: Vm) -> asyncssh.SSHClientConnection:
    """Log in with the VM's key against its pinned host key; no file of the user's is read."""
    conn = await asyncssh.connect(
        vm.ssh.host,
        vm.ssh.port,
        username=vm.ssh.user,
        client_keys=[asyncssh.import_private_key(vm.key + "\n")],
        known_hosts=known_hosts(vm),
        server_host_key_algs=host_key_algorithms(vm),
        preferred_auth="publickey",
        agent_path=None,
        config=None,
        connect_timeout=CONNECT_SECONDS,
        login_timeout=CONNECT_SECONDS,
        keepalive_interval=5,
        keepalive_count_max=3,
        compression_algs=None,
    )
    sock = conn.get_extra_info("socket")
    # A request that was given up must not arrive later: unsent bytes die with the connection, and after 15 s anyway.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 15_000)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return conn


def known_hosts(vm: Vm) -> asyncssh.SSHKnownHosts | None:
    """Return the pins as known hosts; None, which checks nothing, only where the configuration says "any"."""
    if vm.any_host_key:
        return None
    lines = [f"* {key}" for key in vm.host_keys] + [f"@cert-authority * {key}" for key in vm.host_cas]
    return asyncssh.import_known_hosts("\n".join(lines) + "\n")


def host_key_algorithms(vm: Vm) -> list[str]:
    """Return the algorithms to offer, the pinned kinds first. The others follow, because a host that shows a key of
    another kind must be told apart from one that turns us away."""
    plain = ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"]
    plain += ["rsa-sha2-512", "rsa-sha2-256"]
    certified = [f"{name}-cert-v01@openssh.com" for name in plain] if vm.host_cas else []
    pinned = {key.split()[0].replace("ssh-rsa", "rsa-sha2") for key in vm.host_keys}
    return certified + sorted(plain, key=lambda name: not name.startswith(tuple(pinned) or "-"))


def unreached(vm: Vm, error: Exception) -> Unreached:
    """Return which of the ways of not getting there this was."""
    where = str(vm.ssh)
    match error:
        case socket.gaierror():
            return Unreached("name-not-found", f"no address for {vm.ssh.host}; nothing was sent", "use an IP address")
        case asyncssh.HostKeyNotVerifiable():
            return Unreached(
                "host-key-differs",
                f"{where} presented an unexpected host key; nothing was sent",
                f"compare its fingerprint with vms.{vm.name}.host_key before trusting it",
            )
        case asyncssh.PermissionDenied():
            return Unreached(
                "key-not-accepted",
                f"{where} did not accept the key; nothing was sent",
                f"check vms.{vm.name}.key_file against the host's authorized keys; wait a minute before you try again",
            )
        case ValueError():  # asyncssh.KeyImportError: nothing was even tried
            what = f"the key or a host key of {vm.name} can't be read: {error}"
            return Unreached("key-not-accepted", f"{what}; nothing was sent", f"mend vms.{vm.name} and reload (SIGHUP)")
        case ConnectionRefusedError():
            return Unreached("refused", f"{where} refused the connection; nothing was sent", "is sshd running there?")
        case TimeoutError():
            hint = "look at the host's console or IPMI"
            return Unreached("timeout", f"{where} did not answer in {CONNECT_SECONDS} s; nothing was sent", hint)
        case asyncssh.Error():
            hint = (
                "sshd may be penalising this address (PerSourcePenalties) or be full (MaxStartups); wait and ask again"
            )
            return Unreached("turned-away", f"{where} turned us away before login; nothing was sent", hint)
    return Unreached("refused", f"{where} can't be reached: {error}; nothing was sent", "check the network")
