"""Logging in to a Proxmox host, and which of the ways of not getting there it was. In all of them nothing was sent."""

import socket
import struct

import asyncssh

from ..config.model import Vm
from .outcome import Unreached

CONNECT_SECONDS = 10


def public_key(private: str) -> str:
    """Return the public half of an unencrypted private key, without a comment; raise ValueError for anything else."""
    key = asyncssh.import_private_key(private.strip() + "\n")
    return " ".join(key.export_public_key().decode("ascii").split()[:2])


async def connect(vm: Vm) -> asyncssh.SSHClientConnection:
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
        case asyncssh.Error() | ConnectionResetError() | BrokenPipeError():
            hint = (
                "sshd may be penalising this address (PerSourcePenalties) or be full (MaxStartups); wait and ask again"
            )
            return Unreached("turned-away", f"{where} turned us away before login; nothing was sent", hint)
    return Unreached("refused", f"{where} can't be reached: {error}; nothing was sent", "check the network")
