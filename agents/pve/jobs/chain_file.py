"""The file of a VM's chain on one node: one JSON object a line, each with the SHA-256 of the line before.

docs/host-agent.md has the format, under "The chain". chain.py writes /run's file, this module copies it to the archive.
"""

import errno
import hashlib
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass

from ..host.paths import Host, read_small_file

NO_HASH = "0" * 64
LINE_BYTES = 4096  # the most bytes of a line
RUN_BYTES = 256 * 1024
ARCHIVE_BYTES = 1024 * 1024

LinkFields = dict[str, object]


def chain_paths(host: Host, node: str) -> tuple[str, str]:
    """Return the path of the chain's file in /run, and that of its copy in the archive."""
    return f"{host.run_dir}/chain-{node}", f"{os.path.dirname(host.archive)}/chain-{node}"


def boot_id() -> str:
    """Return the kernel's name for this boot."""
    return read_small_file("/proc/sys/kernel/random/boot_id", 64).strip()


def link_hash(line: bytes) -> str:
    """Return the hash of a line, which the line after it has as `prev`; the newline does not count."""
    return hashlib.sha256(line).hexdigest()


def parse_link(line: bytes) -> LinkFields:
    """Return a line's fields; none if it is damaged."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def number_of(fields: LinkFields) -> int:
    """Return the number of a line, 0 if it is damaged."""
    number = fields.get("n")
    return number if type(number) is int and 0 < number < 10**12 else 0


def make_link(host: Host, node: str, number: int, prev: str, fields: LinkFields) -> bytes:
    """Return a line without its newline."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    whole = {"n": number, "prev": prev, "at": at, "vm": host.vmid, "node": node, **fields}
    return json.dumps(whole, separators=(",", ":")).encode()


@dataclass(frozen=True)
class ChainEnd:
    """The end of a chain's file: the last whole line, and the text after it that has no newline."""

    line: bytes = b""
    torn: bytes = b""
    size: int = 0

    @property
    def number(self) -> int:
        """The last line's number."""
        return number_of(parse_link(self.line))

    @property
    def hash(self) -> str:
        """The hash that the next line has as `prev`."""
        return link_hash(self.line) if self.line else NO_HASH

    @property
    def open_job(self) -> str:
        """The job of the last line if that line records a beginning; otherwise empty."""
        fields = parse_link(self.line)
        return str(fields.get("job"))[:64] if fields.get("event") == "begins" else ""


def read_end(fd: int) -> ChainEnd:
    """Return the end of an open file. It reads a few KiB, whatever the file's size."""
    size = os.fstat(fd).st_size
    whole, _, torn = os.pread(fd, 2 * LINE_BYTES, max(0, size - 2 * LINE_BYTES)).rpartition(b"\n")
    return ChainEnd(whole.rpartition(b"\n")[2], torn, size)


def open_chain(path: str) -> int:
    """Return a descriptor to read a chain's file and to append to it."""
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def append_links(fd: int, end: ChainEnd, lines: list[bytes]) -> None:
    """Append whole lines in one write, in place of an unfinished line; either all of them or none."""
    start = end.size - len(end.torn)
    if end.torn:
        os.ftruncate(fd, start)
    data = b"".join(line + b"\n" for line in lines)
    if os.write(fd, data) < len(data):
        os.ftruncate(fd, start)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def trim_chain(host: Host, node: str, path: str, most: int) -> None:
    """Keep the newest half of a file that is longer than `most`, behind a line that says from where it was cut."""
    with suppress(OSError):  # on a full disk the file stays as it is
        size = os.stat(path).st_size
        if size <= most:
            return
        with open(path, "rb") as file:
            file.seek(size - most // 2)
            rest = file.read(most).partition(b"\n")[2]
        first = parse_link(rest.partition(b"\n")[0])
        cut = make_link(host, node, number_of(first) - 1, str(first.get("prev")), {"event": "cut"}) + b"\n"
        draft = f"{path}.cut"
        with open(draft, "wb") as file:
            file.write((cut if number_of(first) > 1 else b"") + rest)
        os.replace(draft, path)


def copy_chain(host: Host, node: str) -> None:
    """Append the lines of /run's file that the archive lacks, and write them through to the archive's disk."""
    run, archive = chain_paths(host, node)
    try:
        with open(run, "rb") as file:
            lines = file.read(2 * RUN_BYTES).split(b"\n")[:-1]
    except FileNotFoundError:
        return
    os.makedirs(os.path.dirname(archive), mode=0o700, exist_ok=True)
    fd = open_chain(archive)
    try:
        end = read_end(fd)
        known = len(lines) - lines[::-1].index(end.line) if end.line in lines else 0
        if lines[known:]:
            append_links(fd, end, lines[known:])
            os.fsync(fd)
    finally:
        os.close(fd)
    trim_chain(host, node, archive, ARCHIVE_BYTES)
