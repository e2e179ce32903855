"""Keeps claude's process, and what it starts, apart from the machine. Standard library only, for the runner."""

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable
from typing import TypeVar

from .processes import PR_SET_NO_NEW_PRIVS, prctl
from .runner_job import RunnerJob
from .uids import enter_cgroup

# --- A network namespace for a turn: in it claude finds its own proxy on loopback, and nothing else ---
#
# Standard library only, for the runner. A socket stays in the namespace that it was made in. So the proxy, which is in
# the machine's network and reaches the model's API, serves claude there on a socket that it is given.

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


# --- Refuses claude the kinds of sockets that no network namespace isolates. Standard library only, for the runner.
#
# Sockets to the hypervisor (AF_VSOCK) belong to no namespace, and io_uring makes sockets past every filter. So a
# seccomp filter, which claude's commands inherit, refuses both, and all system calls of another machine type.

_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_ALLOW, _NO_SUCH_CALL, _NO_SUCH_FAMILY = 0x7FFF0000, 0x00050000 | 38, 0x00050000 | 97
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # instructions of BPF, see seccomp(2)
_NUMBER, _MACHINE, _FIRST_ARGUMENT = 0, 4, 16  # where struct seccomp_data has them
_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}  # AUDIT_ARCH_…, and the number of socket(2)
_IO_URING_SETUP, _X32 = 425, 0x40000000


def refuse_other_sockets() -> None:
    """Install the filter for this process and all that it starts, for good. Raises OSError."""
    found = _MACHINES.get(os.uname().machine)
    if found is None:
        return
    program = _build_filter(*found)
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HP", len(program) // 8, ctypes.addressof(buffer))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    if _libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), ctypes.c_char_p(header), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def _build_filter(machine: int, socket_number: int) -> bytes:
    """Return the filter's instructions: what to do, how many to skip if it is so and if not, and a value."""
    count = len(_FAMILIES)
    return b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (_LOAD, 0, 0, _MACHINE),
            (_EQUAL, 0, count + 6, machine),
            (_LOAD, 0, 0, _NUMBER),
            (_AT_LEAST, count + 4, 0, _X32),
            (_EQUAL, count + 3, 0, _IO_URING_SETUP),
            (_EQUAL, 0, count + 3, socket_number),
            (_LOAD, 0, 0, _FIRST_ARGUMENT),
            *((_EQUAL, count + 1 - at, 0, family) for at, family in enumerate(_FAMILIES)),
            (_RETURN, 0, 0, _NO_SUCH_FAMILY),
            (_RETURN, 0, 0, _NO_SUCH_CALL),
            (_RETURN, 0, 0, _ALLOW),
        )
    )


# --- Keeps claude's process, and what it starts, apart from the machine. Standard library only, for the runner ---


def set_apart(job: RunnerJob) -> None:
    """Keep this process apart from the machine. It is claude's, before that has claude's user. Raises OSError."""
    enter_network(job.network)
    enter_cgroup(job.cgroup)
    refuse_other_sockets()
