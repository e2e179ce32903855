"""Finds out which user is at the other end of a connection over loopback. Standard library only."""

import socket
import struct

Address = tuple[str, int]


def is_another_users(uid: int, theirs: Address, ours: Address) -> bool:
    """Tell whether /proc/net/tcp says that a connection's other end is not a user's.

    That list may lack an end while many others come and go, or be missing.
    """
    ends = [_as_listed(theirs), _as_listed(ours)]
    try:
        with open("/proc/net/tcp", "rb") as file:
            return any(fields[1:3] == ends and int(fields[7]) != uid for fields in map(bytes.split, file))
    except OSError:
        return False


def _as_listed(address: Address) -> bytes:
    (number,) = struct.unpack("=I", socket.inet_aton(address[0]))
    return b"%08X:%04X" % (number, address[1])
