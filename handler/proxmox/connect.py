"""Log in to a Proxmox host, and say why it failed. A failed login has sent nothing."""

import socket
import struct

from ..base.errors import Unreached
from ..base.findings import fix_of
from ..base.reasons import reason
from ..config.model import Host
from ..config.ssh_keys import import_key
from ..config.ssh_library import asyncssh

CONNECT_SECONDS = 10


async def connect(host: Host) -> asyncssh.SSHClientConnection:
    """Log in with the power key and check the host against its pinned host keys. Reads no file of the user."""
    conn = await asyncssh.connect(
        host.ssh.host,
        host.ssh.port,
        username=host.ssh.user,
        client_keys=[import_key(host.key)],
        known_hosts=known_hosts(host),
        server_host_key_algs=host_key_algorithms(host),
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
    # A request that timed out must not arrive later, so closing discards unsent bytes, and after 15 s the kernel
    # discards them too.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 15_000)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return conn


def known_hosts(host: Host) -> asyncssh.SSHKnownHosts | None:
    """Return the pinned keys as known hosts, or None (no check) if the configuration says "any"."""
    if host.any_host_key:
        return None
    lines = [f"* {key}" for key in host.host_keys] + [f"@cert-authority * {key}" for key in host.host_cas]
    return asyncssh.import_known_hosts("\n".join(lines) + "\n")


def host_key_algorithms(host: Host) -> list[str]:
    """Return the algorithms to offer, the pinned kinds first.

    The others follow, so that a host with a key of another kind is reported as such, and not as a host that refuses the
    connection.
    """
    plain = ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"]
    plain += ["rsa-sha2-512", "rsa-sha2-256"]
    certified = [f"{name}-cert-v01@openssh.com" for name in plain] if host.host_cas else []
    pinned = {key.split()[0].replace("ssh-rsa", "rsa-sha2") for key in host.host_keys}
    return certified + sorted(plain, key=lambda name: not name.startswith(tuple(pinned) or "-"))


def unreached(host: Host, error: Exception) -> Unreached:
    """Return the error of a failed login, with the cause from the exception."""
    address, again = str(host.ssh), "wait and ask again"
    match error:
        case socket.gaierror():
            cause, why = "name-not-found", f"no address for {host.ssh.host}"
        case asyncssh.HostKeyNotVerifiable():
            cause, why = "host-key-differs", f"{address} presented an unexpected host key"
        case asyncssh.PermissionDenied():
            cause, why = "key-not-accepted", f"{address} did not accept the key"
        case ValueError():  # asyncssh.KeyImportError, before any connection
            why = f"the key or a host key of {host.name} can't be read: {error}"
            return Unreached("key-not-accepted", why, f"correct hosts.{host.name}, and reload (SIGHUP)")
        case ConnectionRefusedError():
            cause, why = "connection-refused", f"{address}, as in hosts.{host.name}.ssh, refused the connection"
        case TimeoutError():
            cause, why = "timeout", f"{address} did not answer in {CONNECT_SECONDS} s"
        case asyncssh.ChannelOpenError():
            why = f"{address} refused a channel ({error.reason}), as sshd does beyond MaxSessions"
            return Unreached("turned-away", why, again)
        case asyncssh.Error() | ConnectionResetError() | BrokenPipeError():
            why = f"{address} closed the connection before login, as sshd does for PerSourcePenalties and MaxStartups"
            return Unreached("turned-away", why, again)
        case _:
            cause, why = "no-route", f"{address} can't be reached: {reason(error)}"
    return Unreached(cause, why, fix_of(cause, host.name))
