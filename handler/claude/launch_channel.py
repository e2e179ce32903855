"""The socket between a handler and its launcher, and who is at the other end of it."""

import array
import os
import socket
import struct
from collections.abc import Sequence

from .launch_messages import MOST_BYTES

_UCRED = struct.Struct("iII")  # unix(7): pid, uid, gid
_MOST_FDS = 8
NO_FDS = socket.CMSG_SPACE(_UCRED.size)  # the sender alone
ANCILLARY = NO_FDS + socket.CMSG_SPACE(_MOST_FDS * array.array("i").itemsize)


def open_channel() -> tuple[socket.socket, socket.socket]:
    """Return the handler's end of a channel, and the launcher's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    receive_senders(theirs)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MOST_BYTES)  # a message has to fit whole
    return ours, theirs


def receive_senders(channel: socket.socket) -> None:
    """Have the kernel say with each message who sends it."""
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)


def sender_of(channel: socket.socket) -> int:
    """Return the user that made a connection, or that listens where it goes. For a socket pair, its maker."""
    credentials = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(credentials)[1])


def process_of(channel: socket.socket) -> int:
    """Return a pidfd of the process that made a connection. Raises OSError when it has ended."""
    credentials = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return os.pidfd_open(_UCRED.unpack(credentials)[0])


def unpack(ancillary: Sequence[tuple[int, int, bytes]]) -> tuple[int | None, list[int]]:
    """Return a message's sender, None where the kernel does not say it, and its descriptors."""
    uid, fds = None, array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            pid, sender, _ = _UCRED.unpack(data[: _UCRED.size])
            uid = sender if pid else None  # without a process, the user means nothing either
        elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return uid, list(fds)
