"""The guest agent, asked over its own socket: whether somebody in the guest answers. Reported, never required."""

import json
import os
import socket
import time

from .host import Host

AGENT_SECONDS = 1.5


def ping_agent(host: Host, seconds: float = AGENT_SECONDS) -> str:
    """Return `answers`, `silent`, or an empty string where the VM has no port for an agent.

    guest-sync with a number of ours, so that what an agent still had to say to somebody else is passed over.
    """
    path = host.path(f"/run/qemu-server/{host.vmid}.qga")
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
