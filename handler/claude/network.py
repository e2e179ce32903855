"""A network namespace for a turn: in it claude finds its own proxy on loopback, and nothing else.

Standard library only, for the runner. A socket stays in the namespace that it was made in. So the proxy, which is in
the machine's network and reaches the model's API, serves claude there on a socket that it is given.
"""

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

_OWN = "/proc/thread-self/ns/net"
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCSIFFLAGS = 0x8914  # netdevice(7)
_IFF_UP = 1

_libc = ctypes.CDLL(None, use_errno=True)


def enter_network(namespace: int) -> None:
    """Move this thread, and what it starts, into a network namespace, -1 for the one that it is in. Raises OSError."""
    if namespace >= 0:
        _call("setns", namespace, _CLONE_NEWNET)


def run_apart(work: Callable[[], Result]) -> tuple[Result, int]:
    """Do `work` in a new network namespace; return what it returned, and a descriptor of the namespace.

    Needs CAP_SYS_ADMIN. Raises OSError: then end this thread, which may still be in there.
    """
    own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespace = _make_namespace()
        try:
            enter_network(namespace)
            return work(), namespace
        except BaseException:
            os.close(namespace)
            raise
        finally:
            enter_network(own)
    finally:
        os.close(own)


def _make_namespace() -> int:
    """Return a descriptor of a new network namespace whose loopback is up. Raises OSError.

    A child makes it beside a user namespace, in which that takes no CAP_NET_ADMIN: so the launcher needs none.
    """
    import socket  # a turn waits for the runner's imports, and the runner does not do this

    ours, theirs = socket.socketpair()
    with ours, theirs:
        pid = os.fork()
        if pid == 0:
            try:
                _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNET)
                _bring_loopback_up()
                socket.send_fds(theirs, [b"0"], [os.open(_OWN, os.O_RDONLY)])
            except OSError as error:
                theirs.send(str(error.errno).encode())
            finally:
                os._exit(0)
        theirs.close()
        answer, fds, _, _ = socket.recv_fds(ours, 16, 1, socket.MSG_CMSG_CLOEXEC)
        os.waitpid(pid, 0)
    if not fds:
        number = int(answer or errno.EIO)
        raise OSError(number, os.strerror(number), "unshare")
    return fds[0]


def _bring_loopback_up() -> None:
    import socket
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def _call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
