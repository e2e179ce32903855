"""Loopback ports for servers that must know their port before they start."""

import os
import socket
from collections import deque

_KEPT = 256
_reserved: deque[int] = deque()


def reserve_port() -> int:
    """Return a port that no other program gets before the server listens on it or while the server restarts.

    The port stays bound here without listening. A server that sets SO_REUSEADDR, as they all do, can bind it too and
    listen. Until then, a connection to it is refused. The kernel never chooses a bound port for bind(2) to port 0.
    """
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reservation.bind(("127.0.0.1", 0))
    port = int(reservation.getsockname()[1])
    _reserved.append(reservation.detach())
    if len(_reserved) > _KEPT:
        os.close(_reserved.popleft())
    return port
