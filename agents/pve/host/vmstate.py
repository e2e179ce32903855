"""The VM's state without `qm` and without `/etc/pve`: from the pid file, /proc, the cgroup and QMP.

An existing pid proves less than QEMU's own answer, so each fact is kept with its source, and `vm_state` weighs them.
This module signals no process and changes nothing.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from .bounded import ask_or_none
from .paths import Host, read_small_file
from .process import process_ticks
from .qmp import Qmp, QmpError, QmpSilent

_verified: dict[int, int] = {}  # pid and start time of the QEMU that was verified last

QMP_SECONDS = 3.0
PROC_SECONDS = 2.0


@dataclass(frozen=True)
class Facts:
    """What was seen of the VM.

    Attributes:
        pid: the number in the pid file, None without a pid file.
        ours: whether /proc shows it to be this VM's QEMU, None where /proc did not answer.
        qmp: QEMU's own state (`unknown`: a word that is none), empty where it was silent, None where it was not asked.
        silence: why QMP was silent.
        unread: no source was read at all.
    """

    pid: int | None = None
    ours: bool | None = None
    qmp: str | None = None
    silence: str = ""
    unread: bool = False


def observe(host: Host) -> Facts:
    """Return the facts from every source, in QMP_SECONDS + PROC_SECONDS at most."""
    return list(observe_stepwise(host))[-1]


def observe_stepwise(host: Host) -> Iterator[Facts]:
    """Yield the facts each time there are more, so that a caller with a deadline has the facts so far."""
    facts = Facts(pid=read_pid(host))
    yield facts
    if facts.pid is None:
        if os.path.exists(host.qmp):  # the pid file is gone, but QEMU may still run
            yield _ask_qmp(host, facts)
        return
    facts = replace(facts, ours=is_vm_process(host, facts.pid))
    yield facts
    if facts.ours is not False:
        yield _ask_qmp(host, facts)


def _ask_qmp(host: Host, facts: Facts) -> Facts:
    try:
        with Qmp(host.qmp, QMP_SECONDS) as qmp:
            return replace(facts, qmp=qmp.status())
    except (QmpSilent, QmpError) as error:
        return replace(facts, qmp="", silence=str(error))


def read_pid(host: Host) -> int | None:
    """Return the number in the VM's pid file; None without a pid file."""
    return _read_number(host.pidfile)


def _read_number(path: str) -> int | None:
    try:
        return int(read_small_file(path, 32))
    except ValueError:
        return None


def is_vm_process(host: Host, pid: int) -> bool | None:
    """Tell whether `pid` is this VM's QEMU; None when /proc does not answer.

    The rule is that of qemu-server's check_running: argv[0] ends in kvm or qemu-*, and -pidfile names the VM's file.
    Reading cmdline takes the process's memory lock, which a stuck process may hold. A verified process stays verified:
    its pid and start time identify it, and reading those never blocks.
    """
    ticks = process_ticks(pid)
    if ticks and _verified.get(pid) == ticks:
        return True
    ours = ask_or_none(lambda: _is_qemu(host, pid), PROC_SECONDS)
    if ours:
        _verified.clear()
        _verified[pid] = ticks
    return ours


def _is_qemu(host: Host, pid: int) -> bool:
    try:
        with open(host.proc(pid, "cmdline"), "rb") as file:
            argv = file.read().decode("utf-8", "replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    own = {host.pidfile, host.path(f"/var/run/qemu-server/{host.vmid}.pid")}
    named = {value for flag, value in pairwise(argv) if flag in ("-pidfile", "--pidfile")}
    return bool(re.search(r"(?:^|/)(?:kvm|qemu-[^/]*)$", argv[0]) and named & own)


def is_here(host: Host) -> bool | None:
    """Tell whether a QEMU of the VM runs on this node, by its pid file; None when /proc does not answer."""
    pid = read_pid(host)
    return is_vm_process(host, pid) if pid is not None else False


def vm_state(facts: Facts) -> str:
    """Return the VM's state: QEMU's own, `stopped`, `wedged` (a process whose QMP is silent) or `unknown`."""
    if facts.unread:
        return "unknown"
    if facts.qmp and facts.ours is not False:
        return facts.qmp
    if facts.pid is None or facts.ours is False:
        return "stopped"
    if facts.ours is None or facts.qmp is None:
        return "unknown"
    return "wedged"


def describe_sources(facts: Facts) -> str:
    """Return one line that names each source and its answer."""
    if facts.unread:
        return "nothing answered"
    qmp_state = "a state that QEMU does not have" if facts.qmp == "unknown" else facts.qmp
    if facts.pid is None:
        return f"no pid file; QMP says {qmp_state}" if qmp_state else "no pid file"
    if facts.ours is False:
        return f"the pid file names {facts.pid}, which is not this VM's QEMU"
    proc = f"pid {facts.pid}" if facts.ours else f"pid {facts.pid} (/proc did not answer)"
    if facts.qmp is None:
        return f"{proc}; QMP did not answer yet"
    return f"{proc}; QMP says {qmp_state}" if qmp_state else f"{proc}; QMP is silent: {facts.silence}"


def has_process(facts: Facts) -> bool | None:
    """Tell whether a QEMU process exists; None when that can't be determined."""
    state = vm_state(facts)
    return None if state == "unknown" else state != "stopped"


def leftover_pids(host: Host) -> list[int]:
    """Return the live pids in the VM's cgroup scope, among them any process that survived SIGKILL.

    The QEMU storage daemon, which a TPM's state may need, is left out, because `qm start` ends it (qemu-server 9.1.10).
    """
    daemon = _read_number(host.path(f"/run/qemu-server/qsd-{host.vmid}.pid"))
    return [pid for pid in map(int, read_small_file(host.scope).split()) if process_ticks(pid) and pid != daemon]
