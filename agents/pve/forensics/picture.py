"""The console's picture: QEMU writes it into our memory, with a size limit that also holds while QEMU writes.

QEMU writes PPM, and this module makes PNG of it. If QEMU wrote PNG and a write failed, because of the limit or a full
disk, libpng would end the whole QEMU by abort(3): QEMU's png_save sets no error handler. In PPM, a write that fails is
an error of the command (tried on QEMU 10.0). PNG also blocks QEMU's main loop for longer: 18 s for 8000 x 8000.

The memory is a memfd. QEMU gets a write-only descriptor in an fdset, and sealing the file ends QEMU's writing at once.
A pipe would stop the VM whenever its reader is stuck. A second process, the guard, watches the size. If the first
process is killed or late, the guard seals and empties the memfd and has QEMU close its
descriptor: QEMU 9.1 and later keep it until it is removed by command, 9.0 and earlier keep it until the VM runs.
"""

import fcntl
import os
import re
import select
import struct
import time
import zlib
from contextlib import suppress
from typing import Any

from ..host.bounded import fork_child, kill_child
from ..host.paths import Host
from ..host.qmp import Qmp, QmpError, QmpSilent
from ..jobs.archive import FILE_BYTES
from ..jobs.job import Job

SCREEN_BYTES = FILE_BYTES
RAW_BYTES = 32 * 1024 * 1024  # a screen of 3840 x 2160 has 25 MB
GUARD_SECONDS = 20.0
WATCH_EVERY = 2  # ms
STEPS = (1, 2, 4, 8, 16)  # a step of 2 keeps every second pixel, so that the PNG gets smaller

_FDSET: dict[str, Any] = {"fdset-id": 0x62726B67}  # a constant id, so that a capture removes an earlier one's set
_HEADER = re.compile(rb"P6\s([1-9][0-9]{0,4})\s([1-9][0-9]{0,4})\s255\s")
_HEADER_BYTES = 20


def keep_picture(job: Job, seconds: float) -> str:
    """Keep the console's picture as PNG of at most SCREEN_BYTES in the job; return a line about it."""
    until = time.monotonic() + seconds
    png, about = draw_picture(job.host, until, SCREEN_BYTES)
    path = job.store.path(job.record.id, "screen.png")
    try:
        with open(path, "wb") as file:
            file.write(png)
    except OSError:  # /run is full, and half a picture is useless
        with suppress(OSError):
            os.unlink(path)
        raise
    job.screen = True
    return about


def draw_picture(host: Host, until: float, most: int) -> tuple[bytes, str]:
    """Return the console's picture as PNG, `most` bytes at most, and a line about it; raise ValueError without one."""
    picture = os.memfd_create("breakglass-picture", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    guard, pipe = fork_child(lambda end: _guard(host, picture, end))
    try:
        _have_it_drawn(host, picture, until)
        kill_child(guard)  # QEMU has closed its descriptor
        return _make_png(picture, until, most)
    except QmpError:
        _raise_if_large(picture)
        raise
    finally:
        os.close(pipe)  # if the guard still runs, it does the rest
        _empty(picture)
        os.close(picture)


def _have_it_drawn(host: Host, picture: int, until: float) -> None:
    """Have QEMU write the picture as PPM, and close its descriptor."""
    with Qmp(host.qmp, until - time.monotonic()) as qmp:
        writer = os.open(f"/proc/self/fd/{picture}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            qmp.command("add-fd", (writer,), **_FDSET)
        finally:
            os.close(writer)
        try:
            qmp.command("screendump", filename=f"/dev/fdset/{_FDSET['fdset-id']}")
        finally:
            qmp.command("remove-fd", **_FDSET)


def _guard(host: Host, picture: int, pipe: int) -> None:
    """Seal the picture when it is too large. When the pipe's other end is closed, seal it and have QEMU close it."""
    watch = select.poll()
    watch.register(pipe, 0)  # POLLERR: the other end is closed
    while not watch.poll(WATCH_EVERY):
        if os.fstat(picture).st_size > RAW_BYTES:
            _seal(picture)
            watch.poll()
    _empty(picture)
    with suppress(QmpSilent, QmpError), Qmp(host.qmp, GUARD_SECONDS) as qmp:
        qmp.command("remove-fd", **_FDSET)


def _seal(picture: int) -> None:
    """End the writing, so that QEMU's next write fails. A mapping by a hostile QEMU can prevent the second seal."""
    for seal in (fcntl.F_SEAL_GROW, fcntl.F_SEAL_WRITE):
        with suppress(OSError):
            fcntl.fcntl(picture, fcntl.F_ADD_SEALS, seal)


def _empty(picture: int) -> None:
    """End the writing and free the memory, even if QEMU still holds a descriptor."""
    _seal(picture)
    os.ftruncate(picture, 0)


def _raise_if_large(picture: int) -> None:
    if os.fstat(picture).st_size > RAW_BYTES:
        raise ValueError(f"not kept: the screen has more than {RAW_BYTES // 2**20} MiB, and QEMU had to stop drawing")


def _make_png(picture: int, until: float, most: int) -> tuple[bytes, str]:
    _seal(picture)
    _raise_if_large(picture)
    header = _HEADER.match(os.pread(picture, _HEADER_BYTES, 0))
    if header is None:
        raise ValueError("QEMU's file is not a picture")
    width, height = int(header[1]), int(header[2])
    for step in STEPS:
        png = _encode(picture, header.end(), (width, height), step, until, most)
        if png:
            size = f"{width} x {height}" if step == 1 else f"{width} x {height}, kept at 1/{step} of the size"
            return png, f"{size}, {len(png)} bytes"
    raise ValueError(f"not kept: the picture has more than {most} bytes, even at 1/{STEPS[-1]} of the size")


def _encode(picture: int, start: int, size: tuple[int, int], step: int, until: float, most: int) -> bytes:
    """Return the pixels as PNG, every `step`th of each direction; nothing if that has more than `most` bytes."""
    row_bytes = 3 * size[0]
    across, down = (len(range(0, pixels, step)) for pixels in size)
    deflate, data = zlib.compressobj(1), bytearray()
    for y in range(0, size[1], step):
        row = os.pread(picture, row_bytes, start + y * row_bytes)
        if len(row) < row_bytes:
            raise ValueError("QEMU drew only a part of the picture")
        if time.monotonic() > until:
            raise ValueError("not kept: there was no time to convert the picture to PNG")
        data += deflate.compress(b"\0" + _thin_out(row, across, step))
        if len(data) > most:
            return b""
    data += deflate.flush()
    head = struct.pack(">IIBBBBB", across, down, 8, 2, 0, 0, 0)  # 8 bits for each of red, green and blue
    png = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", bytes(data)) + _chunk(b"IEND", b"")
    return png if len(png) <= most else b""


def _thin_out(row: bytes, pixels: int, step: int) -> bytes:
    if step == 1:
        return row
    thin = bytearray(3 * pixels)
    for colour in range(3):
        thin[colour::3] = row[colour :: 3 * step]
    return bytes(thin)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
