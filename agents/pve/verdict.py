"""From evidence to one sentence: what is wrong, which verb helps, and the lines that prove it. Pure.

A verb is advised only where the evidence names the fault. An idle guest and a hung one look alike from outside, and
the verdict says so instead of guessing.
"""

from .evidence import Evidence, Queue
from .result import Verdict

# QEMU's RunState words (qapi/run-state.json) in which the guest's processors stand still: (sentence, advised verb).
_STANDING = {
    "internal-error": ("QEMU met an error that it can't emulate and stopped the guest: reset it", "reset"),
    "guest-panicked": ("the guest's kernel panicked: look at the picture, then reset it", "reset"),
    "watchdog": ("the guest's watchdog ran out and stopped it: look at the picture, then reset it", "reset"),
    "shutdown": ("the guest has shut down and its QEMU is still there: cycle it", "cycle"),
    "suspended": ("the guest sleeps (suspend to RAM): wake it, or reset it and lose what it holds", ""),
    "debug": ("a debugger holds the guest; ask whose it is", ""),
}
_PAUSED = ("paused", "prelaunch")
_IN_TRANSIT = ("inmigrate", "postmigrate", "finish-migrate", "save-vm", "restore-vm", "colo")


def verdict_of(seen: Evidence) -> Verdict:
    """Return the verdict on a whole capture."""
    if seen.state == "stopped":
        return _on_stopped(seen)
    if seen.stuck:
        return _storage_hung(seen, *seen.stuck)
    if seen.state == "wedged":
        return _on_wedged(seen)
    if seen.state == "running":
        return _on_running(seen)
    return _on_standing(seen)


def quick_verdict(state: str, source: str, leftovers: tuple[int, ...] = ()) -> Verdict:
    """Return what the state alone says, for `status`."""
    if state == "running":
        sentence = "QEMU answers and says running; whether the guest hangs, forensics and the console tell"
        return Verdict("running", sentence, "", (source,))
    if state == "wedged":
        sentence = "a QEMU process is there and its monitor is silent: take forensics before a cycle"
        return Verdict("qemu-wedged", sentence, "forensics", (source,))
    return verdict_of(Evidence(state, source, leftovers=leftovers))


def _on_stopped(seen: Evidence) -> Verdict:
    if seen.leftovers:
        sentence = (
            f"the VM is stopped and {_count(len(seen.leftovers), 'process')} of it did not end: a start would block; "
            "mend the host's storage, else reboot the host"
        )
        return Verdict("leftover", sentence, "", (f"left in the VM's scope: {_listed(seen.leftovers)}",))
    if seen.lock or seen.owners:
        held = f"locked ({seen.lock})" if seen.lock else "being worked on"
        sentence = f"the VM is stopped and {held}: see who works on it before a start"
        return Verdict("stopped-locked", sentence, "", _lock_lines(seen))
    return Verdict("stopped", "the VM is stopped: start it", "start", _known(seen.source))


def _on_wedged(seen: Evidence) -> Verdict:
    if seen.threads and set(seen.threads) <= {"T", "t"}:
        sentence = "QEMU itself was stopped by a signal: `kill -CONT` lets it go on where it was, a cycle ends it"
    else:
        sentence = "a QEMU process is there, its monitor is silent, and no thread waits for storage: cycle it"
    return Verdict("qemu-wedged", sentence, "cycle", (*_known(seen.source), *_thread_lines(seen)))


def _storage_hung(seen: Evidence, *proof: str) -> Verdict:
    sentence = (
        "the host's storage does not answer: don't cycle, QEMU could not end and a start would block; mend the storage"
    )
    return Verdict("storage-hung", sentence, "", (*proof, *_known(seen.source), *_thread_lines(seen)))


def _on_standing(seen: Evidence) -> Verdict:
    state, source = seen.state, _known(seen.source)
    if state == "io-error":
        sentence = "a disk request failed and QEMU paused the guest: make room or mend the storage, then start"
        return Verdict("io-error", f"{sentence}; nothing is lost", "start", (*seen.disk_errors, *source))
    if state in _PAUSED and (seen.lock or seen.owners):
        lock = f" ({seen.lock})" if seen.lock else ""
        sentence = f"the VM is {state} and a task works on it{lock}: wait for that task"
        return Verdict("paused-locked", sentence, "", _lock_lines(seen))
    if state in _PAUSED:
        return Verdict("paused", f"the VM is {state} and no task works on it: start lets it go on", "start", source)
    if state in _IN_TRANSIT:
        sentence = f"a migration or snapshot is under way ({state}): wait for it"
        return Verdict("in-transit", sentence, "", _lock_lines(seen))
    if state in _STANDING:
        sentence, advice = _STANDING[state]
        return Verdict(state, sentence, advice, source)
    return Verdict("unknown", "the host could not tell what state the VM is in", "", source)


def _on_running(seen: Evidence) -> Verdict:
    held, disks = _frozen(seen)
    if held:
        lines = (*_queue_lines(seen, disks), *_lock_lines(seen))
        if seen.silent_storage:
            return _storage_hung(seen, f"no answer in time: {_listed(seen.silent_storage)}", *lines)
        none = "it has not completed" if held == 1 else "none completed"
        sentence = (
            f"QEMU answers, {_count(held, 'disk request')} {'is' if held == 1 else 'are'} in flight and {none} in "
            f"{seen.seconds:.0f} s: a reset will not help, cycle it"
        )
        return Verdict("disk-frozen", sentence, "cycle", lines)
    proof = (*_queue_lines(seen), *_cpu_lines(seen), *_lock_lines(seen))
    if seen.agent == "answers":
        return Verdict("healthy", "QEMU and the guest agent answer: nothing is wrong from here", "", proof)
    if seen.agent == "silent" and _moved(seen):
        sentence = "QEMU answers and disk requests complete, but the guest agent does not: try ssh, then reset it"
        return Verdict("guest-hung", sentence, "reset", proof)
    if _moved(seen):
        return Verdict("healthy", "QEMU answers and disk requests complete: nothing is wrong from here", "", proof)
    return Verdict("guest-silent", _silence(seen), "", proof)


def _silence(seen: Evidence) -> str:
    if not _compared(seen):
        return "QEMU answers; its disks can't be watched (not virtio): idle and hung look alike here, see the console"
    agent = "; the guest agent does not answer" if seen.agent == "silent" else ""
    return f"QEMU answers and no disk request is waiting{agent}: idle and hung look alike here, see the console"


# --- the queues -------------------------------------------------------------------------------------------------


def _compared(seen: Evidence) -> list[tuple[Queue, Queue]]:
    """Return each queue's first and last sample."""
    if len(seen.queues) < 2:
        return []
    first = {(queue.disk, queue.number): queue for queue in seen.queues[0]}
    pairs = [(first.get((queue.disk, queue.number)), queue) for queue in seen.queues[-1]]
    return [(before, after) for before, after in pairs if before is not None]


def _moved(seen: Evidence) -> bool:
    return any(before.used != after.used for before, after in _compared(seen))


def _frozen(seen: Evidence) -> tuple[int, set[str]]:
    """Return how many requests wait on disks that completed none, and those disks. A disk whose other queue moves is
    slow and not frozen."""
    pairs = _compared(seen)
    moving = {after.disk for before, after in pairs if before.used != after.used}
    held = [after for before, after in pairs if before.inuse > 0 and after.inuse > 0 and after.disk not in moving]
    return sum(queue.inuse for queue in held), {queue.disk for queue in held}


# --- the lines that prove it ------------------------------------------------------------------------------------


def _queue_lines(seen: Evidence, disks: set[str] | None = None) -> tuple[str, ...]:
    return tuple(
        f"{after.disk} queue {after.number}: {before.inuse}, then {after.inuse} in flight; "
        f"{(after.used - before.used) % 65536} completed in {seen.seconds:.1f} s"
        for before, after in _compared(seen)
        if (disks is None or after.disk in disks) and (before.used != after.used or after.inuse or after.number == 0)
    )


def _cpu_lines(seen: Evidence) -> tuple[str, ...]:
    if seen.cpu is None or not seen.seconds:
        return ()
    return (f"QEMU used {100 * seen.cpu / seen.seconds:.0f} % of one processor",)


def _thread_lines(seen: Evidence) -> tuple[str, ...]:
    counts = [f"{letter} {seen.threads.count(letter)}" for letter in sorted(set(seen.threads))]
    return (f"QEMU's threads by state: {', '.join(counts)}",) if counts else ()


def _lock_lines(seen: Evidence) -> tuple[str, ...]:
    lock = (f"lock: {seen.lock}",) if seen.lock else ()
    return (*lock, *seen.owners, *(f"block job: {job}" for job in seen.block_jobs))


def _known(line: str) -> tuple[str, ...]:
    return (line,) if line else ()


def _listed(items: tuple[object, ...]) -> str:
    return ", ".join(str(item) for item in items)


def _count(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
