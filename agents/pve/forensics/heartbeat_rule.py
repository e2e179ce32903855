"""What the samples of the heartbeat prove: the guest's kernel lives, or it does not, or nothing. Pure.

The three traps: a guest without the driver, a guest that was reset (QEMU forgets the last answer), and a VM that was
paused (its last answer is as old as the pause). None of them is a lost heartbeat.
"""

import time

from .evidence import Evidence, Heartbeat
from .proof import count_noun, has_progress, optional_line
from .vcpus import are_all_deaf, is_any_alive, vcpu_line

FRESH_SECONDS = 10.0
OLD_ANSWER_SECONDS = 20.0
LOST_SECONDS = 30.0
DUMP_SECONDS = 3600.0
WATCH_SECONDS = 5.0  # a living guest is silent for at most 2.4 s

FRESH, LATE, LOST, AWAITED, GONE = "fresh", "late", "lost", "awaited", "gone"
UNLOADED, NONE, UNKNOWN = "unloaded", "none", "unknown"


def heartbeat_state(evidence: Evidence) -> str:
    """Return the state of the heartbeat.

    `fresh`: the kernel answered a moment ago. `late`: not for a while. `lost`: by the whole rule. `awaited`: not yet
    since the reset. `gone`: it answered before its driver went. `unloaded`: no driver yet, as in firmware, or for
    good. `none`: it can't be had. `unknown`: nothing is known.
    """
    if not evidence.heartbeats or not all(beat.running for beat in evidence.heartbeats):
        return UNKNOWN
    first, beat = evidence.heartbeats[0], evidence.heartbeats[-1]
    if not beat.device or not beat.every:
        return NONE
    if not beat.last and beat.driver is not None:
        return AWAITED if beat.driver else UNLOADED
    if beat.driver is False:
        return GONE
    if beat.last > first.last or -2 <= age_of(beat) <= FRESH_SECONDS * _slowness(beat):
        return FRESH
    # The host's clock was set back, or a very old or very new QEMU does not show the driver.
    if age_of(beat) < 0 or beat.driver is None:
        return UNKNOWN
    return LOST if beat.last == first.last and is_long_enough(beat) else LATE


def is_long_enough(beat: Heartbeat) -> bool:
    """Tell whether an answer is old enough, and was waited for for long enough, to call the heartbeat lost."""
    return age_of(beat) >= LOST_SECONDS * _slowness(beat) and beat.seconds >= WATCH_SECONDS * _slowness(beat)


def _slowness(beat: Heartbeat) -> float:
    return max(1.0, beat.every / 2)  # qemu-server has QEMU ask every 2 s


def age_of(beat: Heartbeat) -> float:
    """Return the seconds since the kernel's last answer."""
    return beat.at - beat.last


def is_old(beat: Heartbeat) -> bool:
    """Tell whether an answer is so old that only a watch can decide."""
    return beat.last > 0 and not -2 <= age_of(beat) < OLD_ANSWER_SECONDS


def is_quiet(evidence: Evidence) -> bool:
    """Tell whether no disk request was completed and no packet came from the guest in the whole watch."""
    first, beat = evidence.heartbeats[0], evidence.heartbeats[-1]
    counted = beat.disk is not None and beat.disk == first.disk and beat.packets == first.packets
    return counted and beat.seconds >= WATCH_SECONDS and not has_progress(evidence)


def goes_on(evidence: Evidence) -> bool:
    """Tell whether a disk request was completed, or a packet came from the guest, from the first look to the last."""
    first, beat = evidence.heartbeats[0], evidence.heartbeats[-1]
    return has_progress(evidence) or _rise(first.disk, beat.disk) > 0 or _rise(first.packets, beat.packets) > 0


def is_deaf(evidence: Evidence) -> bool:
    """Tell whether the guest may have crashed and be at work on its crash dump, whose kernel answers nothing.

    In that case its driver is still loaded, or vanished when the crash kernel began. A driver that vanished long ago
    was unloaded.
    """
    state = heartbeat_state(evidence)
    just_gone = state == GONE and age_of(evidence.heartbeats[-1]) < DUMP_SECONDS and goes_on(evidence)
    return state == LOST or just_gone


def is_hung(evidence: Evidence) -> bool:
    """Tell whether the guest's kernel is proven to be dead.

    Either the heartbeat is lost and no vCPU was seen idle or in a program, or no vCPU can be interrupted. Neither
    counts if a disk or a network card still works, or if no kernel has answered yet, because a boot loader looks the
    same.
    """
    state = heartbeat_state(evidence)
    if state not in (LOST, LATE, GONE) or not is_quiet(evidence):
        return False
    return are_all_deaf(evidence.vcpus) or (state == LOST and not is_any_alive(evidence.vcpus))


def is_starved(evidence: Evidence) -> bool:
    """Tell whether the guest is out of memory: its kernel killed processes meanwhile, or waited for memory.

    A kill alone may come from the limit of one container.
    """
    if len(evidence.heartbeats) < 2:
        return False
    first, beat = evidence.heartbeats[0], evidence.heartbeats[-1]
    kills, stalls = _rise(first.kills, beat.kills), _rise(first.stalls, beat.stalls)
    return bool(kills and stalls) or (_is_full(beat) and bool(kills or stalls))


def _is_full(beat: Heartbeat) -> bool:
    return bool(beat.total) and beat.available is not None and beat.available < 0.1 * (beat.total or 0)


def _rise(before: int | None, after: int | None) -> int:
    return 0 if before is None or after is None else max(0, after - before)


# --- the lines --------------------------------------------------------------------------------------------------


def heartbeat_lines(evidence: Evidence) -> tuple[str, ...]:
    """Return the heartbeat as one line in plain words."""
    if not evidence.heartbeats:
        return ("the guest's heartbeat is not known",)
    state, beat = heartbeat_state(evidence), evidence.heartbeats[-1]
    none = "no heartbeat is available"
    if state == FRESH:
        return (f"the guest's kernel answered {max(0.0, age_of(beat)):.0f} s ago",)
    if state in (LATE, LOST):
        return (f"the guest's kernel has not answered for {age_of(beat):.0f} s (it answers every {beat.every} s)",)
    if state == AWAITED:
        return ("the guest's kernel has not answered yet since the last reset",)
    if state == GONE:
        return (f"{none} any more: the guest's driver is gone; its kernel last answered {age_of(beat):.0f} s ago",)
    if state == UNKNOWN:
        return ("the guest's heartbeat is not known",)
    if state == UNLOADED:
        return (f"{none}: its system has not loaded the driver",)
    return (f"{none}: {'QEMU does not ask for one' if beat.device else 'the VM has no balloon device'}",)


def describe_heartbeat(evidence: Evidence) -> dict[str, object] | None:
    """Return the heartbeat as a status tells it: its state, when the kernel answered last, and the line.

    None where nothing is known.
    """
    state = heartbeat_state(evidence)
    if state == UNKNOWN:
        return None
    last = evidence.heartbeats[-1].last
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(last)) if last else None
    return {"state": state, "at": at, "says": heartbeat_lines(evidence)[0]}


def watch_lines(evidence: Evidence) -> tuple[str, ...]:
    """Return what the watch saw besides the heartbeat, and the state of the guest's memory."""
    if len(evidence.heartbeats) < 2:
        return ()
    first, beat = evidence.heartbeats[0], evidence.heartbeats[-1]
    lines: tuple[str, ...] = ()
    if beat.seconds:
        disk = f"{count_noun(_rise(first.disk, beat.disk), 'disk request')} completed"
        packets = (
            "no network card to watch"
            if beat.packets is None
            else f"{count_noun(_rise(first.packets, beat.packets), 'packet')} from the guest"
        )
        lines = (f"in {beat.seconds:.1f} s: {disk}, {packets}",)
    if evidence.vcpus:
        lines += (vcpu_line(evidence.vcpus),)
    return (*lines, *optional_line(memory_line(evidence)))


def memory_line(evidence: Evidence) -> str:
    """Return a text that says how the guest ran short of memory; empty if it did not, or its kernel does not say."""
    first, beat = evidence.heartbeats[0], evidence.heartbeats[-1]
    kills, stalls = _rise(first.kills, beat.kills), _rise(first.stalls, beat.stalls)
    if not (kills or stalls or beat.held or _is_full(beat)) or beat.available is None or not beat.total:
        return ""
    if not (kills or stalls):
        return f"memory: {memory_left(evidence)}"
    rose = f"meanwhile {count_noun(kills, 'kill')} for lack of memory, {count_noun(stalls, 'wait')} for it"
    return f"memory: {memory_left(evidence)}; {rose}"


def memory_left(evidence: Evidence) -> str:
    """Return how much memory the guest has left, and how much the balloon took."""
    beat = evidence.heartbeats[-1]
    held = f", the balloon holds {_mib(beat.held)}" if beat.held else ""
    return f"{_mib(beat.available or 0)} of {_mib(beat.total or 0)} left{held}"


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
