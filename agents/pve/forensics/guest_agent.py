"""The guest agent, pinged over its own socket. Its answer is reported and never required."""

import json
import os
import socket
import time

from ..host.paths import Host
from ..host.qmp import Qmp, QmpError, QmpSilent

AGENT_SECONDS = 1.5
_PORT_SECONDS = 1.0


def guest_agent_state(host: Host, seconds: float = AGENT_SECONDS) -> str:
    """Return `answers` or `silent`; empty where the VM has no port for an agent or the guest has not opened it.

    A guest without an installed agent never opens the port, so its silence says nothing.
    """
    if not os.path.exists(guest_agent_path(host)) or _is_port_open(host) is False:
        return ""
    return ping_guest_agent(host, seconds)


def _is_port_open(host: Host) -> bool | None:
    try:
        with Qmp(host.qmp, _PORT_SECONDS) as qmp:
            return is_agent_port_open(qmp.command("query-chardev"))
    except (QmpSilent, QmpError):
        return None


def is_agent_port_open(chardevs: object) -> bool | None:
    """Tell from query-chardev whether the guest has opened the agent's port, None where the VM has no such port."""
    found = chardevs if isinstance(chardevs, list) else []
    ports = [port for port in found if isinstance(port, dict) and "qga" in str(port.get("label"))]
    return any(port.get("frontend-open") for port in ports) if ports else None


def guest_agent_path(host: Host) -> str:
    """Return the path of QEMU's socket for the guest agent."""
    return host.path(f"/run/qemu-server/{host.vmid}.qga")


def ping_guest_agent(host: Host, seconds: float = AGENT_SECONDS) -> str:
    """Return `answers`, `silent`, or an empty string where the VM has no port for an agent."""
    path = guest_agent_path(host)
    if not os.path.exists(path):
        return ""
    return "silent" if ask_guest_agent(path, seconds) is None else "answers"


def ask_guest_agent(path: str, seconds: float, *commands: str) -> list[bytes] | None:
    """Return the agent's answers that come in time, as lines; None if the agent is silent.

    It first sends guest-sync with a random number and skips every answer before the matching one, because an agent may
    still have answers for an earlier client.
    """
    token = str(time.monotonic_ns() % 2**31)
    sync = {"execute": "guest-sync", "arguments": {"id": int(token)}}
    lines = [json.dumps(request).encode() for request in (sync, *({"execute": command} for command in commands))]
    until = time.monotonic() + seconds
    received, after = b"", [b""]
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(seconds)
            client.connect(path)
            client.sendall(b"\xff" + b"\n".join(lines) + b"\n")
            while len(after) <= len(lines) and (left := until - time.monotonic()) > 0:
                client.settimeout(left)
                chunk = client.recv(4096)
                if not chunk:
                    break
                received = (received + chunk)[-8192:]
                after = received[received.find(token.encode()) :].split(b"\n") if token.encode() in received else [b""]
    except OSError:
        pass
    return after[1:-1] if len(after) > 1 else None
