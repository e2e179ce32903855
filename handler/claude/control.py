"""The runner's end of its socket to the handler: no read or write of it can block.

The handler holds this end too, and could change the socket's flags and options. So each call itself says that it must
not block. It calls libc, because a turn would wait until the module `socket` is loaded.
"""

import ctypes
import os

_MSG_DONTWAIT, _MSG_NOSIGNAL = 0x40, 0x4000  # recv(2), send(2)

_libc = ctypes.CDLL(None, use_errno=True)


def receive(fd: int, most: int) -> bytes:
    """Return what a socket has, at most so many bytes. Raises OSError, as BlockingIOError when it has nothing."""
    buffer = ctypes.create_string_buffer(most)
    count = _check(_libc.recv(fd, buffer, ctypes.c_size_t(most), _MSG_DONTWAIT))
    return buffer.raw[:count]


def send(fd: int, data: bytes) -> None:
    """Send bytes, or nothing and raise OSError."""
    _check(_libc.send(fd, data, ctypes.c_size_t(len(data)), _MSG_DONTWAIT | _MSG_NOSIGNAL))


def _check(returned: int) -> int:
    if returned < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return returned
