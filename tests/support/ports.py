"""Loopback ports for servers that have to be told one before they start."""

import os
import socket
from collections import deque

_KEPT = 256
_reserved: deque[int] = deque()


def reserve_port() -> int:
    """Return a port that no other program gets until a server listens on it, and while that is restarted.

    The port stays bound here without listening. A server that sets SO_REUSEADDR, as they all do, can bind it too and
    listen; a connection to it is refused until then. The kernel never chooses a bound port for bind(2) to port 0.
    """
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reservation.bind(("127.0.0.1", 0))
    port = int(reservation.getsockname()[1])
    _reserved.append(reservation.detach())
    if len(_reserved) > _KEPT:
        os.close(_reserved.popleft())
    return port
