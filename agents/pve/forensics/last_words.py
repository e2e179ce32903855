"""The guest's last words: the end of its kernel log, read from QEMU's memory. No guest agent and no symbols are needed.

Where QEMU answers, it says where the guest's RAM and its page tables are, and only the kernel's own data is searched.
If QEMU is silent, its memory is searched for the page that Linux makes for its crash dumps, which gives both. The guest
controls these words, so they explain a verdict and never decide one.
"""

import os
import struct
import time
from collections.abc import Iterator
from contextlib import suppress

from ..host.cluster import cluster_view
from ..host.paths import Host
from ..host.qmp import Qmp, QmpError, QmpSilent
from ..host.vmstate import is_vm_process
from .guest_memory import IMAGE, GuestMemory, PageTables, Root, ask_for_ram, ask_for_roots, guess_pieces
from .kernel_log import RING_BYTES, LogMessage, find_cause, log_lines, parse_ring, read_messages, rings_in
from .probe import Probe, Reply, ok_reply
from .vcpus import has_waiting_thread

LAST_WORDS_SECONDS = 10.0
SHORT_LAST_WORDS_SECONDS = 1.5
_PVE_SECONDS = 1.0
_SPARE_SECONDS = 0.5  # the part of the probe's time that is kept for reading and reporting what was found
_TELL_SECONDS = 0.2  # the part of _SPARE_SECONDS that is kept for reporting
_NICE = 10  # a reader of idle priority could keep QEMU's memory lock for long
_MOVING = ("inmigrate", "postmigrate", "finish-migrate", "restore-vm", "colo")
_MOVED = ("setup", "active", "device", "pre-switchover", "postcopy-active", "postcopy-paused", "postcopy-recover")
_CRASH_PAGE = b"OSRELEASE="  # the beginning of the page for crash dumps, which is called VMCOREINFO
_NOTHING = "no kernel log was found, because the guest has no Linux 5.10 or later on x86-64, or its memory is encrypted"


def last_words_probe(host: Host, pid: int | None, seconds: float, may_scan: bool = True) -> list[Probe]:
    """Return the probe of the guest's last words; with `may_scan` it also searches a QEMU that is silent."""
    if pid is None:
        return []
    return [Probe(1, "last words", seconds, lambda most: _ask_for_words(host, pid, most, may_scan))]


def _ask_for_words(host: Host, pid: int, seconds: float, may_scan: bool) -> Iterator[Reply]:
    began = time.monotonic()
    os.nice(_NICE)
    messages, why_not = _read_words(host, pid, began + seconds - _SPARE_SECONDS, may_scan)
    lines = log_lines(messages)
    facts: dict[str, object] = {"last_words": lines, "cause": find_cause(messages)} if lines else {}
    yield ok_reply("last words", began, "\n".join(lines) or why_not, facts, f"/proc/{pid}/mem; info registers")


def _read_words(host: Host, pid: int, until: float, may_scan: bool) -> tuple[list[LogMessage], str]:
    """Return the last messages of the guest's kernel, or why there are none."""
    if not host.last_words:
        return [], "not read: the key's line on this host has --no-last-words"
    if host.asked_not:
        return [], "not read: the handler asked not to (last_words = false)"
    # the memory is opened before the check, because another process may get the pid later
    memory = GuestMemory(host, pid, until + _SPARE_SECONDS - _TELL_SECONDS)
    if not is_vm_process(host, pid):
        return [], "not read: it is not certain that this process is the VM's QEMU"
    try:
        if has_waiting_thread(host, pid):  # a request for registers would wait for the thread and block the monitor
            raise QmpSilent("a thread of QEMU waits in the kernel")
        with Qmp(host.qmp, (until - time.monotonic()) / 3) as qmp:  # the rest of the time is kept for the search
            if moves := _moves(qmp):
                return [], moves
            memory.pieces, roots = ask_for_ram(qmp), ask_for_roots(qmp)
    except QmpSilent as silence:
        if not may_scan:
            return [], f"not read: {silence}"
        if cluster_view(host, _PVE_SECONDS).migrating:
            return [], "not read: the VM is being migrated"
        return _scan(host, pid, memory, until), f"{_NOTHING}, or it was not found in time"
    return follow_tables(memory, roots, until), _NOTHING if time.monotonic() < until else "not read: the time is over"


def _moves(qmp: Qmp) -> str:
    """Return why the memory of a VM that is being migrated is not read; empty for any other VM."""
    try:
        answer = qmp.command("query-migrate")
    except QmpError:
        answer = None
    is_moved = isinstance(answer, dict) and answer.get("status") in _MOVED
    return "not read: the VM is being migrated" if is_moved or qmp.status() in _MOVING else ""


def follow_tables(memory: GuestMemory, roots: list[Root], until: float) -> list[LogMessage]:
    """Search the kernel's data, by the page tables of the first vCPU that has it, until a time of time.monotonic().

    The memory may also have a ring that the kernel replaced by a larger one, so the newest ring counts. A guest that
    lies may have endless rings, so only the newest is kept.
    """
    newest: list[LogMessage] = []
    for root in roots:
        with suppress(ValueError, TimeoutError):  # these page tables do not map a kernel, or the time is over
            tables = PageTables(memory, root)
            for part in tables.data_of_kernel():
                for ring in rings_in(part):
                    newest = max(newest, read_messages(tables.read, ring), key=_last_number)
                    if time.monotonic() > until:
                        return newest
                if time.monotonic() > until:
                    return newest
        if newest or time.monotonic() > until:
            break
    return newest


def _last_number(messages: list[LogMessage]) -> int:
    return messages[-1].number if messages else -1


def _scan(host: Host, pid: int, memory: GuestMemory, until: float) -> list[LogMessage]:
    """Search the guest's RAM for the page for crash dumps. An earlier kernel's page may have survived a reboot."""
    guesses = list(guess_pieces(host, pid))
    memory.pieces = guesses[-1]  # the whole mapping
    for page in memory.pages_that_begin(_CRASH_PAGE, until):
        for memory.pieces in guesses:
            try:
                if messages := _read_named(memory, page):
                    return messages
            except (ValueError, KeyError, TimeoutError):
                continue
    return []


def _read_named(memory: GuestMemory, page: bytes) -> list[LogMessage]:
    """Return the messages of the ring that a page for crash dumps names; raise ValueError or KeyError if it can't be.

    Its lines are like `SYMBOL(prb)=ffffffffa165c040`.
    """
    lines = page.rstrip(b"\0").decode("ascii").splitlines()
    names = {name: value for name, _, value in (line.partition("=") for line in lines)}
    root = int(names["SYMBOL(swapper_pg_dir)"], 16) - IMAGE + int(names["NUMBER(phys_base)"])
    tables = PageTables(memory, Root(root, 5 if names.get("NUMBER(pgtable_l5_enabled)") == "1" else 4))
    (place,) = struct.unpack("<Q", tables.read(int(names["SYMBOL(prb)"], 16), 8))
    ring = parse_ring(tables.read(place, RING_BYTES))
    return read_messages(tables.read, ring) if ring else []
