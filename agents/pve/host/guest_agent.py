"""The guest agent, asked over its own socket: whether somebody in the guest answers. Reported, never required."""

import json
import os
import socket
import time

from .paths import Host
from .qmp import Qmp, QmpError, QmpSilent

AGENT_SECONDS = 1.5
_PORT_SECONDS = 1.0


def guest_agent_state(host: Host, seconds: float = AGENT_SECONDS) -> str:
    """Return `answers` or `silent`; empty where the VM has no port for an agent or nothing in the guest has opened it,
    as in every guest without an installed agent."""
    if not os.path.exists(_socket_path(host)) or _is_port_open(host) is False:
        return ""
    return ping_guest_agent(host, seconds)


def _is_port_open(host: Host) -> bool | None:
    try:
        with Qmp(host.qmp, _PORT_SECONDS) as qmp:
            return is_agent_port_open(qmp.command("query-chardev"))
    except (QmpSilent, QmpError):
        return None


def is_agent_port_open(chardevs: object) -> bool | None:
    """Tell from query-chardev whether the guest has opened the agent's port, None where there is none by that name."""
    found = chardevs if isinstance(chardevs, list) else []
    ports = [port for port in found if isinstance(port, dict) and "qga" in str(port.get("label"))]
    return any(port.get("frontend-open") for port in ports) if ports else None


def _socket_path(host: Host) -> str:
    return host.path(f"/run/qemu-server/{host.vmid}.qga")


def ping_guest_agent(host: Host, seconds: float = AGENT_SECONDS) -> str:
    """Return `answers`, `silent`, or an empty string where the VM has no port for an agent.

    guest-sync with a number of ours, so that what an agent still had to say to somebody else is passed over.
    """
    path = _socket_path(host)
    if not os.path.exists(path):
        return ""
    token = time.monotonic_ns() % 2**31
    request = {"execute": "guest-sync", "arguments": {"id": token}}
    until = time.monotonic() + seconds
    heard = b""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(seconds)
            client.connect(path)
            client.sendall(b"\xff" + json.dumps(request).encode() + b"\n")
            while str(token).encode() not in heard:
                if (left := until - time.monotonic()) <= 0:
                    return "silent"
                client.settimeout(left)
                chunk = client.recv(4096)
                if not chunk:
                    return "silent"
                heard = (heard + chunk)[-8192:]
    except OSError:
        return "silent"
    return "answers"
