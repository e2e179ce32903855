"""Finds out which user is at the other end of a connection over loopback. Standard library only."""

import socket
import struct

Address = tuple[str, int]


def is_users(uid: int, theirs: Address, ours: Address) -> bool:
    """Tell whether a connection's other end is a user's, as /proc/net/tcp says; True where there is no such file."""
    ends = [_as_listed(theirs), _as_listed(ours)]
    try:
        with open("/proc/net/tcp", "rb") as file:
            return any(fields[1:3] == ends and int(fields[7]) == uid for fields in map(bytes.split, file))
    except OSError:
        return True


def _as_listed(address: Address) -> bytes:
    (number,) = struct.unpack("=I", socket.inet_aton(address[0]))
    return b"%08X:%04X" % (number, address[1])
