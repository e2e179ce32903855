"""Copies of finished jobs on the disk that may hang, written after the end by a process that nobody waits for."""

import os

from .host import Host
from .memory import Lock, Memory, Record

NAMES = ("request.json", "output", "result.json", "manifest.json", "evidence.json", "screen.png")


def archive_finished(host: Host, memory: Memory) -> None:
    """Tidy /run and copy what is not copied yet. One process at a time: on a hung disk only one gets stuck."""
    os.nice(10)
    lock = Lock(host, "archive.lock")
    if not lock.take("archive"):
        return
    try:
        memory.prune()
        for record in memory.records():
            if memory.result(record.id) and not os.path.exists(memory.job(record.id, "archived")):
                _copy(host, memory, record)
    except OSError as error:
        host.log(f"archive: {error.strerror}")
    finally:
        lock.release()


def _copy(host: Host, memory: Memory, record: Record) -> None:
    target = f"{host.archive}/{record.id}"
    os.makedirs(target, mode=0o700, exist_ok=True)
    for name in NAMES:
        try:
            with open(memory.job(record.id, name), "rb") as source:
                data = source.read()
        except FileNotFoundError:
            continue
        with open(f"{target}/{name}", "wb") as file:
            file.write(data)
    with open(memory.job(record.id, "archived"), "wb"):
        pass
