"""Refuses claude the kinds of sockets that no network namespace isolates. Standard library only, for the runner.

Sockets to the hypervisor (AF_VSOCK) belong to no namespace, and io_uring makes sockets past every filter. So a seccomp
filter, which claude's commands inherit, refuses both, and all system calls of another machine type.
"""

import ctypes
import os
import struct

from .processes import PR_SET_NO_NEW_PRIVS, prctl

_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_ALLOW, _NO_SUCH_CALL, _NO_SUCH_FAMILY = 0x7FFF0000, 0x00050000 | 38, 0x00050000 | 97
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # instructions of BPF, see seccomp(2)
_NUMBER, _MACHINE, _FIRST_ARGUMENT = 0, 4, 16  # where struct seccomp_data has them
_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}  # AUDIT_ARCH_…, and the number of socket(2)
_IO_URING_SETUP, _X32 = 425, 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


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
