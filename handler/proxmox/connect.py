"""Log in to a Proxmox host, and say why it failed. A failed login has sent nothing."""

import socket
import struct

from ..base.errors import Unreached
from ..base.reasons import reason
from ..config.model import Host
from ..config.ssh_keys import import_key
from ..config.ssh_library import asyncssh

CONNECT_SECONDS = 10


async def connect(host: Host) -> asyncssh.SSHClientConnection:
    """Log in with the power key and check the host against its pinned host keys. Reads no file of the user's."""
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
    # A request that timed out must not arrive later: closing discards unsent bytes, and the kernel does after 15 s.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 15_000)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return conn


def known_hosts(host: Host) -> asyncssh.SSHKnownHosts | None:
    """Return the pinned keys as known hosts, or None, which checks nothing, where the configuration says "any"."""
    if host.any_host_key:
        return None
    lines = [f"* {key}" for key in host.host_keys] + [f"@cert-authority * {key}" for key in host.host_cas]
    return asyncssh.import_known_hosts("\n".join(lines) + "\n")


def host_key_algorithms(host: Host) -> list[str]:
    """Return the algorithms to offer, the pinned kinds first.

    The others follow, so that a host with a key of another kind is reported as such and not as turning us away.
    """
    plain = ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"]
    plain += ["rsa-sha2-512", "rsa-sha2-256"]
    certified = [f"{name}-cert-v01@openssh.com" for name in plain] if host.host_cas else []
    pinned = {key.split()[0].replace("ssh-rsa", "rsa-sha2") for key in host.host_keys}
    return certified + sorted(plain, key=lambda name: not name.startswith(tuple(pinned) or "-"))


def unreached(host: Host, error: Exception) -> Unreached:
    """Return the error of a failed login, with the cause that the exception shows."""
    address = str(host.ssh)
    match error:
        case socket.gaierror():
            return Unreached("name-not-found", f"no address for {host.ssh.host}", "use an IP address")
        case asyncssh.HostKeyNotVerifiable():
            hint = f"compare its fingerprint with hosts.{host.name}.host_key before trusting it"
            return Unreached("host-key-differs", f"{address} presented an unexpected host key", hint)
        case asyncssh.PermissionDenied():
            return Unreached(
                "key-not-accepted",
                f"{address} did not accept the key",
                f"check hosts.{host.name}.key_file against the host's authorized keys; "
                "it is tried again within eight minutes, or at a request, at most once a minute",
            )
        case ValueError():  # asyncssh.KeyImportError, before any connection
            why = f"the key or a host key of {host.name} can't be read: {error}"
            return Unreached("key-not-accepted", why, f"correct hosts.{host.name}, and reload (SIGHUP)")
        case ConnectionRefusedError():
            why = f"{address}, as in hosts.{host.name}.ssh, refused the connection"
            return Unreached("connection-refused", why, "at the host's console: systemctl start ssh")
        case TimeoutError():
            hint = "look at the host's console or IPMI"
            return Unreached("timeout", f"{address} did not answer in {CONNECT_SECONDS} s", hint)
        case asyncssh.ChannelOpenError():
            hint = "wait and ask again; if that does not help, set MaxSessions 10 for the host's sshd"
            return Unreached("turned-away", f"{address} refused a channel ({error.reason})", hint)
        case asyncssh.Error() | ConnectionResetError() | BrokenPipeError():
            hint = (
                "sshd may be penalising this address (PerSourcePenalties) or be full (MaxStartups); wait and ask again"
            )
            return Unreached("turned-away", f"{address} closed the connection before login", hint)
    return Unreached("no-route", f"{address} can't be reached: {reason(error)}", "check the host's power and network")
