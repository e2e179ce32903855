"""What the samples of a heartbeat prove, and the verdict from them. These tests start no process."""

from dataclasses import replace
from typing import Any

from breakglass.agents.pve.forensics.evidence import Evidence, Heartbeat, parse_evidence
from breakglass.agents.pve.forensics.heartbeat_rule import (
    describe_heartbeat,
    heartbeat_state,
)
from breakglass.agents.pve.forensics.verdict import verdict_of

from ..support.rows import each_row
from .test_verdict import FROZEN, IDLE, MOVING, RUNNING

NOW = 1_796_000_000.0
MIB = 2**20


def beat(age: float | None, seconds: float = 0.0, **seen: Any) -> Heartbeat:
    """Return a sample of a guest whose kernel answered this long ago, `seconds` after the watch began."""
    known: dict[str, Any] = {"every": 2, "driver": True, "disk": 900, "packets": 70}
    last = 0 if age is None else int(NOW - age)
    return Heartbeat(NOW + seconds, last, seconds, **known | seen)


def watched(
    age: float, seconds: float = 5.2, first: dict[str, Any] | None = None, **seen: Any
) -> tuple[Heartbeat, ...]:
    """Return two samples with the same answer, which was this old at the second one."""
    return beat(age - seconds, **first or {}), beat(age - seconds, seconds, **seen)


FRESH = (beat(1), beat(-1, 2.0))
LOST = watched(31)
GONE = watched(31, first={"driver": False}, driver=False)
DEAF = ("hs",) * 5
FULL = {"total": 200 * MIB, "available": 9 * MIB, "stalls": 40, "kills": 1}

STATES = {
    "nothing known": ((), "unknown"),
    "one fresh answer": ((beat(2),), "fresh"),
    "the clock is some ms behind": ((beat(-0.5),), "fresh"),
    "it answered meanwhile": ((beat(40), beat(-3, 4.0)), "fresh"),
    "old, one look": ((beat(60),), "late"),
    "old, looked at too briefly": (watched(60, 4.0), "late"),
    "not old enough": (watched(29), "late"),
    "lost": (LOST, "lost"),
    "asked every 10 s, not old enough": (watched(60, first={"every": 10}, every=10), "late"),
    "paused at a look": (watched(60, first={"running": False}), "unknown"),
    "paused at the last look": (watched(60, running=False), "unknown"),
    "reset, the driver is there": ((beat(None),), "awaited"),
    "reset in the watch": ((beat(60), beat(None, 5.2)), "awaited"),
    "the first answer after a reset": ((beat(None), beat(-1, 2.0)), "fresh"),
    "firmware": ((beat(None, driver=False),), "unloaded"),
    "no device": ((Heartbeat(NOW, device=False),), "none"),
    "QEMU does not ask": ((beat(60, every=0),), "none"),
    "the driver was unloaded": (GONE, "gone"),
    "the driver was unloaded just now": ((beat(1, driver=False),), "gone"),
    "an old QEMU, fresh": ((beat(2, driver=None),), "fresh"),
    "an old QEMU, old answer": (watched(60, driver=None), "unknown"),
    "the clock was set back": (watched(-300), "unknown"),
}

VERDICTS = {
    "fresh": (replace(IDLE, heartbeats=FRESH), "guest-alive", ""),
    "fresh, disks not watched": (replace(RUNNING, heartbeats=FRESH), "guest-alive", ""),
    "fresh, disk progress": (replace(MOVING, heartbeats=FRESH), "healthy", ""),
    "fresh, agent answers": (replace(IDLE, heartbeats=FRESH, agent="answers"), "healthy", ""),
    "fresh, agent silent": (replace(IDLE, heartbeats=FRESH, agent="silent"), "guest-alive", ""),
    "fresh, agent silent, disk progress": (replace(MOVING, heartbeats=FRESH, agent="silent"), "guest-alive", ""),
    "fresh, agent silent, a backup": (
        replace(MOVING, heartbeats=FRESH, agent="silent", lock="backup"),
        "guest-alive",
        "",
    ),
    "fresh, agent frozen": (replace(IDLE, heartbeats=FRESH, agent="frozen"), "guest-frozen", ""),
    "fresh, no quorum": (replace(IDLE, heartbeats=FRESH, quorate=False), "no-quorum", ""),
    "fresh, HA is dead": (replace(IDLE, heartbeats=FRESH, ha_dead="pve-ha-lrm is dead"), "ha-stuck", ""),
    "fresh, disk frozen": (replace(FROZEN, heartbeats=FRESH), "disk-frozen", "cycle"),
    "lost, quiet": (replace(IDLE, heartbeats=LOST), "guest-hung", "reset"),
    "lost, quiet, no network card": (
        replace(IDLE, heartbeats=watched(31, first={"packets": None}, packets=None)),
        "guest-hung",
        "reset",
    ),
    "lost, quiet, agent silent": (replace(IDLE, heartbeats=LOST, agent="silent"), "guest-hung", "reset"),
    "lost, quiet, no quorum": (replace(IDLE, heartbeats=LOST, quorate=False), "guest-hung", "reset"),
    "lost, quiet, migrating": (replace(IDLE, heartbeats=LOST, lock="migrate"), "guest-hung", ""),
    "lost, quiet, panic": (replace(IDLE, heartbeats=LOST, vcpus=("kh",) * 5), "guest-hung", "reset"),
    "lost, quiet, soft lockup": (replace(IDLE, heartbeats=LOST, vcpus=("kk",) * 5), "guest-hung", "reset"),
    "lost, quiet, a vCPU is idle": (replace(IDLE, heartbeats=LOST, vcpus=("hi",) * 5), "heartbeat-lost", ""),
    "lost, quiet, a program ran once": (replace(IDLE, heartbeats=LOST, vcpus=(*DEAF, "hp")), "heartbeat-lost", ""),
    "lost, a disk request in the watch": (replace(IDLE, heartbeats=watched(31, disk=901)), "heartbeat-lost", ""),
    "lost, a disk request by the queues": (replace(MOVING, heartbeats=LOST), "heartbeat-lost", ""),
    "lost, disk progress, agent silent": (replace(MOVING, heartbeats=LOST, agent="silent"), "heartbeat-lost", ""),
    "lost, a packet": (replace(IDLE, heartbeats=watched(31, packets=71)), "heartbeat-lost", ""),
    "lost, a network card went": (replace(IDLE, heartbeats=watched(31, packets=None)), "heartbeat-lost", ""),
    "lost, disks not known": (replace(IDLE, heartbeats=watched(31, disk=None)), "heartbeat-lost", ""),
    "lost, agent answers": (replace(IDLE, heartbeats=LOST, agent="answers"), "healthy", ""),
    "late": (replace(IDLE, heartbeats=watched(17, 2.0)), "guest-silent", ""),
    "late, disk progress": (replace(MOVING, heartbeats=watched(17, 2.0)), "guest-silent", ""),
    "late, no vCPU can be woken": (replace(IDLE, heartbeats=watched(28), vcpus=DEAF), "guest-hung", "reset"),
    "gone": (replace(IDLE, heartbeats=GONE), "guest-silent", ""),
    "gone, disk progress": (replace(MOVING, heartbeats=GONE), "heartbeat-lost", ""),
    "gone, disk progress, agent answers": (replace(MOVING, heartbeats=GONE, agent="answers"), "healthy", ""),
    "gone for long, disk progress": (
        replace(MOVING, heartbeats=watched(3700, first={"driver": False}, driver=False)),
        "healthy",
        "",
    ),
    "gone, no vCPU can be woken": (replace(IDLE, heartbeats=GONE, vcpus=DEAF), "guest-hung", "reset"),
    "gone, four samples": (replace(IDLE, heartbeats=GONE, vcpus=DEAF[1:]), "guest-silent", ""),
    "gone, no vCPU can be woken, packets": (
        replace(IDLE, heartbeats=watched(31, first={"driver": False}, driver=False, packets=71), vcpus=DEAF),
        "heartbeat-lost",
        "",
    ),
    "a boot loader, no vCPU can be woken": (
        replace(IDLE, heartbeats=(beat(None, driver=False), beat(None, 5.2, driver=False)), vcpus=DEAF),
        "guest-silent",
        "",
    ),
    "no device": (replace(IDLE, heartbeats=(Heartbeat(NOW, device=False),)), "guest-silent", ""),
    "no device, disk progress": (replace(MOVING, heartbeats=(Heartbeat(NOW, device=False),)), "healthy", ""),
    "reset, disk progress": (replace(MOVING, heartbeats=(beat(None),)), "healthy", ""),
    "it answered before a reset, disk progress": (
        replace(MOVING, heartbeats=(beat(60), beat(None, 5.2)), agent="silent"),
        "guest-silent",
        "",
    ),
    "an old QEMU, an old answer, disk progress": (
        replace(MOVING, heartbeats=watched(60, first={"driver": None}, driver=None)),
        "guest-silent",
        "",
    ),
    "an old QEMU, an old answer, agent answers": (
        replace(MOVING, heartbeats=watched(60, first={"driver": None}, driver=None), agent="answers"),
        "healthy",
        "",
    ),
    "lost, disk progress, agent silent, a backup": (
        replace(MOVING, heartbeats=LOST, agent="silent", lock="backup"),
        "heartbeat-lost",
        "",
    ),
    "reset": (replace(IDLE, heartbeats=(beat(None),)), "guest-silent", ""),
    "kills and waits": (
        replace(
            IDLE, heartbeats=(beat(1, total=200 * MIB, available=99 * MIB, kills=0, stalls=0), beat(-1, 2, **FULL))
        ),
        "guest-starved",
        "",
    ),
    "waits with no memory left": (
        replace(MOVING, heartbeats=(beat(1, **FULL | {"stalls": 2}), beat(-1, 2, **FULL)), agent="silent"),
        "guest-starved",
        "",
    ),
    "a kill in a container": (
        replace(IDLE, heartbeats=(beat(1, **FULL | {"kills": 0}), beat(-1, 2, **FULL | {"available": 150 * MIB}))),
        "guest-alive",
        "",
    ),
    "full, and no kill or wait": (replace(IDLE, heartbeats=(beat(1, **FULL), beat(-1, 2, **FULL))), "guest-alive", ""),
}


@each_row("name", STATES)
def test_each_row_of_samples_is_a_heartbeat(name: str) -> None:
    beats, state = STATES[name]
    assert heartbeat_state(Evidence("running", heartbeats=beats)) == state


@each_row("name", VERDICTS)
def test_each_row_gets_its_verdict(name: str) -> None:
    """It is the same after the evidence was kept as JSON.

    No sentence is longer than 200 characters, and none is cut.
    """
    evidence, code, advice = VERDICTS[name]
    verdict = verdict_of(parse_evidence(evidence.as_json()))
    assert (verdict.code, verdict.advice) == (code, advice)
    assert not verdict.sentence.endswith("…")


def test_a_silence_is_as_long_as_at_the_last_look() -> None:
    """The end of the watch counts, and not its beginning, where the answer was 5 s younger."""
    lost = verdict_of(replace(MOVING, heartbeats=LOST))
    hung = verdict_of(replace(IDLE, heartbeats=LOST))
    for verdict in (lost, hung):
        assert "has not answered for 31 s" in verdict.sentence
        assert "31 s" in verdict.why
    assert hung.sentence.count("in 5 s") == 1
    ends = [verdict_of(replace(IDLE, heartbeats=watched(age))).sentence.rpartition(": ")[2] for age in (19, 22)]
    assert ends == ["look again in half a minute", "collect evidence"]


def test_a_status_tells_when_the_kernel_answered_last() -> None:
    """The time is by the host's clock. If it is not known, as after a dead probe, there is none."""
    assert describe_heartbeat(Evidence("running", heartbeats=(beat(2),))) == {
        "state": "fresh",
        "at": "2026-11-30T00:53:18Z",
        "says": "the guest's kernel answered 2 s ago",
    }
    awaited = describe_heartbeat(Evidence("running", heartbeats=(beat(None),)))
    assert awaited is not None
    assert (awaited["state"], awaited["at"]) == ("awaited", None)
    assert describe_heartbeat(Evidence("running")) is None
