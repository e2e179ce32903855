"""The verdict on a guest by its heartbeat, where it has one. Pure.

A heartbeat proves that the guest's kernel lives. A lost heartbeat proves less, because a kernel that writes a crash
dump has none, and a reset would destroy the dump.
"""

from ..jobs.result import Verdict
from .evidence import Evidence
from .heartbeat_rule import (
    AWAITED,
    FRESH,
    LATE,
    UNKNOWN,
    age_of,
    goes_on,
    heartbeat_lines,
    heartbeat_state,
    is_deaf,
    is_hung,
    is_old,
    is_starved,
    memory_left,
)
from .proof import advise_nothing, advise_verb, has_progress
from .vcpus import are_all_deaf, is_any_alive


def judge_guest(evidence: Evidence, *proof: str) -> Verdict | None:
    """Return the verdict that the heartbeat proves, or None."""
    state = heartbeat_state(evidence)
    if is_starved(evidence):
        sentence = f"the guest is out of memory ({memory_left(evidence)}): end what uses the memory, or add memory"
        return advise_nothing(evidence, "guest-starved", sentence, *proof)
    if evidence.agent == "answers":
        return None
    if is_hung(evidence):
        do = "look at the console, then reset it"
        why = f"{_what_hangs(evidence)}: {do}"
        return advise_verb(evidence, "guest-hung", _why_hung(evidence), do, "reset", *proof, why=why)
    [line] = heartbeat_lines(evidence)
    if is_deaf(evidence):
        sentence = (
            f"the guest's kernel has not answered for {age_of(evidence.heartbeats[-1]):.0f} s, but "
            f"{_what_goes_on(evidence)}, so it may be writing its crash dump; look at the console; don't reset it yet"
        )
        silent = f"its kernel has been silent for {age_of(evidence.heartbeats[-1]):.0f} s"
        why = f"{silent} and may be writing its crash dump: look at the console; don't reset it yet"
        return advise_nothing(evidence, "heartbeat-lost", sentence, *proof, why=why)
    # The guest answered QEMU before and does not answer now, so it is not known to be healthy or hung.
    has_answered = any(beat.last for beat in evidence.heartbeats)
    if state == LATE or (state in (AWAITED, UNKNOWN) and has_answered):
        do = "collect evidence" if state == LATE and is_old(evidence.heartbeats[-1]) else "look again in half a minute"
        return advise_nothing(evidence, "guest-silent", f"{line}: {do}", *proof)
    if state == FRESH and evidence.agent == "silent":
        sentence = f"the guest agent is dead, but {line}: try ssh, the service, the console; no reset is needed"
        why = f"the guest agent is dead, but {line}: try ssh or the console; no reset is needed"
        return advise_nothing(evidence, "guest-alive", sentence, *proof, why=why)
    if state == FRESH and not has_progress(evidence):
        sentence = f"{line}, so the guest lives, but its services may hang: try ssh or the console"
        return advise_nothing(evidence, "guest-alive", sentence, *proof)
    return None


def _what_hangs(evidence: Evidence) -> str:
    if are_all_deaf(evidence.vcpus):
        return "every vCPU of the guest stands still with interrupts off"
    return f"the guest's kernel has not answered for {age_of(evidence.heartbeats[-1]):.0f} s"


def _why_hung(evidence: Evidence) -> str:
    beat = evidence.heartbeats[-1]
    came = "no disk request was completed" if beat.packets is None else "no disk request and no packet came from it"
    return f"{_what_hangs(evidence)}, and {came} in {beat.seconds:.0f} s"


def _what_goes_on(evidence: Evidence) -> str:
    if goes_on(evidence):
        return "its disks or its network continue"
    if is_any_alive(evidence.vcpus):
        return "one of its vCPUs is idle or runs a program"
    return "its disks and its network could not be watched"
