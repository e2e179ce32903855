"""A file system in memory, whose answer to a flock is the test's: refused, or given to everyone. For root.

It speaks the kernel's protocol (linux/fuse.h, 7.31) in a thread, with just the requests that sessions.dir needs.
"""

import errno
import os
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .hung import FORCE_AND_DETACH, libc, mount_fuse

_FLOCK_LOCKS = 1 << 10
_HEADER = struct.Struct("<IIQQIII4x")  # length, opcode, unique, node, user, group, process
_SILENT = (2, 36, 42)  # FORGET, INTERRUPT, BATCH_FORGET
_LOOKUP, _GETATTR, _SETATTR, _MKDIR, _UNLINK, _RMDIR, _OPEN, _WRITE, _STATFS = 1, 3, 4, 9, 10, 11, 14, 16, 17
_INIT, _OPENDIR, _CREATE = 26, 27, 35
_EMPTY = (18, 20, 25, 28, 29, 30)  # RELEASE, FSYNC, FLUSH, READDIR, RELEASEDIR, FSYNCDIR
_LOCKS = (32, 33)  # SETLK, SETLKW


class _Node:
    def __init__(self, mode: int, uid: int, gid: int) -> None:
        self.mode, self.uid, self.gid, self.data = mode, uid, gid, b""
        self.names: dict[bytes, int] = {}


class _FileSystem:
    def __init__(self, fd: int, flock: int) -> None:
        self._fd, self._flock = fd, flock
        self._nodes = {1: _Node(stat.S_IFDIR | 0o755, 0, 0)}

    def serve(self) -> None:
        """Answer requests until the file system is unmounted."""
        with suppress(OSError):
            while True:
                request = os.read(self._fd, 1 << 20)
                _, opcode, unique, node, uid, gid, _ = _HEADER.unpack_from(request)
                if opcode in _SILENT:
                    continue
                try:
                    code, body = 0, self._answer(opcode, node, (uid, gid), request[_HEADER.size :])
                except OSError as error:
                    code, body = -(error.errno or errno.EIO), b""
                os.write(self._fd, struct.pack("<IiQ", 16 + len(body), code, unique) + body)

    def _answer(self, opcode: int, number: int, who: tuple[int, int], data: bytes) -> bytes:
        node = self._nodes.get(number, self._nodes[1])  # INIT has none
        if opcode == _INIT:
            return struct.pack("<4I2H2I2H8I", 7, 31, 0, _FLOCK_LOCKS, 8, 8, 1 << 16, 1, 16, *[0] * 9)
        if opcode == _LOOKUP:
            return self._entry(self._find(node, data))
        if opcode == _GETATTR:
            return bytes(16) + self._attributes(number)
        if opcode == _SETATTR:
            valid, size = struct.unpack_from("<I12xQ", data)
            mode, uid, gid = struct.unpack_from("<I4xII", data, 68)
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode) if valid & 1 else node.mode
            node.uid, node.gid = uid if valid & 2 else node.uid, gid if valid & 4 else node.gid
            node.data = node.data[:size] if valid & 8 else node.data
            return bytes(16) + self._attributes(number)
        if opcode == _MKDIR:
            mode, _ = struct.unpack_from("<2I", data)
            return self._entry(self._make(node, data[8:], stat.S_IFDIR | mode, who))
        if opcode == _CREATE:
            _, mode, _, _ = struct.unpack_from("<4I", data)
            return self._entry(self._make(node, data[16:], stat.S_IFREG | mode, who)) + bytes(16)
        if opcode in (_UNLINK, _RMDIR):
            del self._nodes[node.names.pop(data.rstrip(b"\0"))]
            return b""
        if opcode == _WRITE:
            offset, size = struct.unpack_from("<8xQI", data)
            node.data = node.data[:offset].ljust(offset, b"\0") + data[40 : 40 + size] + node.data[offset + size :]
            return struct.pack("<2I", size, 0)
        if opcode == _STATFS:
            return struct.pack("<5Q4I24x", 1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 4096, 255, 4096, 0)
        if opcode in _LOCKS and not self._flock:
            return b""
        if opcode in (_OPEN, _OPENDIR):
            return bytes(16)
        if opcode in _EMPTY:
            return b""
        raise OSError(self._flock if opcode in _LOCKS else errno.ENOSYS, "")

    def _find(self, node: _Node, name: bytes) -> int:
        try:
            return node.names[name.rstrip(b"\0")]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "") from None

    def _make(self, node: _Node, name: bytes, mode: int, who: tuple[int, int]) -> int:
        number = max(self._nodes) + 1
        self._nodes[number] = _Node(mode, *who)
        node.names[name.rstrip(b"\0")] = number
        return number

    def _entry(self, number: int) -> bytes:
        return struct.pack("<5Q", number, 0, 0, 0, 0) + self._attributes(number)

    def _attributes(self, number: int) -> bytes:
        node = self._nodes[number]
        size, links = len(node.data), 2 if stat.S_ISDIR(node.mode) else 1
        times = (size, 0, 0, 0, 0, 0, 0, 0)  # size, blocks, three times, and their nanoseconds
        return struct.pack("<6Q10I", number, *times, node.mode, links, node.uid, node.gid, 0, 4096, 0)


@contextmanager
def without_flock(target: Path, flock: int = errno.EOPNOTSUPP) -> Iterator[None]:
    """Mount a file system whose flock fails with this error; with 0, each flock succeeds, even one that is taken."""
    fd = mount_fuse(target, "default_permissions")
    thread = threading.Thread(target=_FileSystem(fd, flock).serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        libc.umount2(str(target).encode(), FORCE_AND_DETACH)
        thread.join(10)
        os.close(fd)
