"""Logs in to a Proxmox host as the handler does, and checks that a key of Breakglass opens nothing else.

For each failed login, sshd adds a penalty of 5 s to the source address (PerSourcePenalties). At 15 s, it refuses the
address, including the handler's own logins. So the key is tried only once.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass

from ..base.errors import Unreached
from ..config.model import Host
from ..config.ssh_library import asyncssh
from ..proxmox.connect import connect, host_key_algorithms, unreached

# The errors of opening a channel. asyncssh asserts that a connection exists, but the connection may have just ended.
FAILURES = (OSError, asyncssh.Error, TimeoutError, AssertionError)
GREETING_SECONDS = 3.0
ANSWER_SECONDS = 6.0  # the time in which a process on the host begins and ends
MOST_BYTES = 64 * 1024
MARK = "breakglass-doctor-42"
# Only a shell prints the mark, because it computes the number.
_SHELL_LINES = b"echo breakglass-doctor-$((6*7))\nexit\n"
_SFTP_INIT, _SFTP_VERSION = struct.pack(">IBI", 5, 1, 3), 2
SshConnection = asyncssh.SSHClientConnection
_NO_PORT = 9  # nothing listens on the discard port, so only sshd's own answer matters


async def log_in(host: Host) -> SshConnection:
    """Return a connection that is logged in with the host's key.

    Raises Unreached from the library's exception, with a more precise cause if there is one.
    """
    try:
        return await connect(host)
    except asyncssh.KeyExchangeFailed as error:
        raise Unreached("no-common-algorithm", f"{host.ssh} has no algorithm in common", "") from error
    except ValueError as error:  # the key file can't be read, so no connection was opened
        raise Unreached("key-unusable", f"the key of {host.name} can't be read: {error}", "") from error
    except Exception as error:  # an unusual server can make the library raise any error
        raise unreached(host, error) from error


async def read_greeting(host: Host) -> bytes | None:
    """Return the first line that the port sends, or an empty text. None if it accepts no connection in time.

    In this line, sshd says why it refuses an address.
    """
    line: bytes | None = None
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(GREETING_SECONDS):
            reader, writer = await asyncio.open_connection(host.ssh.host, host.ssh.port)
            line = b""
            try:
                # some servers, such as HTTP servers, send nothing before the client's line
                writer.write(b"SSH-2.0-breakglass\r\n")
                line = (await reader.read(256)).split(b"\n")[0].strip()
            finally:
                writer.close()
    return line


async def present_host_key(host: Host) -> str:
    """Return the host key that the host presents, as `ssh-ed25519 AAAA…`, or an empty text."""
    with suppress(Exception):  # the finding that the key differs stands; the new key only completes its fix
        async with asyncio.timeout(GREETING_SECONDS):
            algorithms = [name for name in host_key_algorithms(host) if "-cert-" not in name]
            key = await asyncssh.get_server_host_key(
                host.ssh.host, host.ssh.port, server_host_key_algs=algorithms, config=None
            )
            return public_text(key)
    return ""


def public_text(key: asyncssh.SSHKey | None) -> str:
    """Return a public key as `ssh-ed25519 AAAA…`. Without a key, the text is empty."""
    return "" if key is None else " ".join(key.export_public_key().decode("ascii").split()[:2])


def key_fingerprint(public: str) -> str:
    """Return a public key's fingerprint as ssh-keygen prints it, such as `SHA256:…`."""
    return asyncssh.import_public_key(public).get_fingerprint()


def own_address(address: str, port: int = 22) -> str:
    """Return this machine's address for connections to `host`, or an empty text without a route.

    No packet is sent.
    """
    with suppress(OSError):
        found = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
        with socket.socket(found[0][0], socket.SOCK_DGRAM) as probe:
            probe.connect(found[0][4])
            return str(probe.getsockname()[0])
    return ""


# --- what a key must not open ---


@dataclass(frozen=True)
class Ran:
    """The result of one channel: its output, and its exit code or None. `opened` is false if sshd refused."""

    stdout: bytes = b""
    stderr: bytes = b""
    code: int | None = None
    opened: bool = True

    @property
    def text(self) -> str:
        """The text of both outputs, for people."""
        return (self.stderr + b"\n" + self.stdout).decode("utf-8", "replace").strip()


async def open_shell(conn: SshConnection) -> Ran:
    """Ask for a shell, as `ssh HOST` does, and send it a harmless line. Only a shell's output has MARK.

    If the shell does not end, return the output until the time limit.
    """
    stdout, stderr = bytearray(), bytearray()
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            process = await conn.create_process(encoding=None)
    except FAILURES:
        return Ran(opened=False)
    try:
        with suppress(*FAILURES):
            async with asyncio.timeout(ANSWER_SECONDS):
                with suppress(OSError):  # the program has ended without reading, and its output says why
                    process.stdin.write(_SHELL_LINES)
                    process.stdin.write_eof()
                await asyncio.gather(_collect(process.stdout, stdout), _collect(process.stderr, stderr))
                await process.wait_closed()
    finally:
        process.close()
    return Ran(bytes(stdout), bytes(stderr), process.exit_status)


async def opens_sftp(conn: SshConnection) -> bool:
    """Return whether the key gives access to files, because an SFTP server answers."""
    with suppress(*FAILURES):
        async with asyncio.timeout(ANSWER_SECONDS):
            process = await conn.create_process(encoding=None, subsystem="sftp")
            try:
                # input stays open, because at its end an SFTP server exits without an answer
                process.stdin.write(_SFTP_INIT)
                answer = await process.stdout.read(MOST_BYTES)
            finally:
                process.close()
            return len(answer) > 4 and answer[4] == _SFTP_VERSION
    return False


async def opens_terminal(conn: SshConnection) -> bool:
    """Tell whether sshd gives the key a terminal."""
    with suppress(*FAILURES):
        async with asyncio.timeout(ANSWER_SECONDS):
            (await conn.create_process(encoding=None, term_type="xterm")).close()
            return True
    return False


async def forwards_ports(conn: SshConnection) -> bool:
    """Return whether the key can connect to ports on the host, or make the host listen on a port."""
    with suppress(asyncssh.ChannelListenError, *FAILURES):
        async with asyncio.timeout(ANSWER_SECONDS):
            try:
                _, writer = await conn.open_connection("127.0.0.1", _NO_PORT)
                writer.close()
                return True
            except asyncssh.ChannelOpenError as error:
                if error.code != asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
                    return not conn.is_closed()
            (await conn.forward_remote_port("127.0.0.1", 0, "127.0.0.1", _NO_PORT)).close()
            return True
    return False


async def _collect(stream: asyncssh.SSHReader[bytes], found: bytearray) -> None:
    while len(found) < MOST_BYTES and (part := await stream.read(4096)):
        found += part
