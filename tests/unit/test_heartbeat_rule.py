"""What the samples of a heartbeat prove, and the verdict from them. These tests start no process."""

from dataclasses import replace
from typing import Any

from breakglass.agents.pve.forensics.evidence import Evidence, Heartbeat, parse_evidence
from breakglass.agents.pve.forensics.heartbeat_rule import describe_heartbeat, heartbeat_state
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


def watched_alike(age: float, **seen: Any) -> tuple[Heartbeat, ...]:
    return watched(age, first=seen, **seen)


def idle(beats: tuple[Heartbeat, ...], **more: Any) -> Evidence:
    return replace(IDLE, heartbeats=beats, **more)


def moving(beats: tuple[Heartbeat, ...], **more: Any) -> Evidence:
    return replace(MOVING, heartbeats=beats, **more)


FRESH = (beat(1), beat(-1, 2.0))
LOST = watched(31)
GONE = watched_alike(31, driver=False)
OLD = watched_alike(60, driver=None)
DEAF = ("hs",) * 5
FULL = {"total": 200 * MIB, "available": 9 * MIB, "stalls": 40, "kills": 1}
FILLED = (beat(1, total=200 * MIB, available=99 * MIB, kills=0, stalls=0), beat(-1, 2, **FULL))
KILLED = (beat(1, **FULL | {"kills": 0}), beat(-1, 2, **FULL | {"available": 150 * MIB}))
WAITING = (beat(1, **FULL | {"stalls": 2}), beat(-1, 2, **FULL))
RESET = (beat(60), beat(None, 5.2))
UNLOADED = (beat(None, driver=False), beat(None, 5.2, driver=False))
BUSY = watched(31, first={"driver": False}, driver=False, packets=71)

STATES = {
    "nothing known": ((), "unknown"),
    "one fresh answer": ((beat(2),), "fresh"),
    "the clock is some ms behind": ((beat(-0.5),), "fresh"),
    "it answered meanwhile": ((beat(40), beat(-3, 4.0)), "fresh"),
    "old, one look": ((beat(60),), "late"),
    "old, looked at too briefly": (watched(60, 4.0), "late"),
    "not old enough": (watched(29), "late"),
    "lost": (LOST, "lost"),
    "asked every 10 s, not old enough": (watched_alike(60, every=10), "late"),
    "paused at a look": (watched(60, first={"running": False}), "unknown"),
    "paused at the last look": (watched(60, running=False), "unknown"),
    "reset, the driver is there": ((beat(None),), "awaited"),
    "reset in the watch": (RESET, "awaited"),
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
    "fresh": (idle(FRESH), "guest-alive", ""),
    "fresh, disks not watched": (replace(RUNNING, heartbeats=FRESH), "guest-alive", ""),
    "fresh, disk progress": (moving(FRESH), "healthy", ""),
    "fresh, agent answers": (idle(FRESH, agent="answers"), "healthy", ""),
    "fresh, agent silent": (idle(FRESH, agent="silent"), "guest-alive", ""),
    "fresh, agent silent, disk progress": (moving(FRESH, agent="silent"), "guest-alive", ""),
    "fresh, agent silent, a backup": (moving(FRESH, agent="silent", lock="backup"), "guest-alive", ""),
    "fresh, agent frozen": (idle(FRESH, agent="frozen"), "guest-frozen", ""),
    "fresh, no quorum": (idle(FRESH, quorate=False), "no-quorum", ""),
    "fresh, HA is dead": (idle(FRESH, ha_dead="pve-ha-lrm is dead"), "ha-stuck", ""),
    "fresh, disk frozen": (replace(FROZEN, heartbeats=FRESH), "disk-frozen", "cycle"),
    "lost, quiet": (idle(LOST), "guest-hung", "reset"),
    "lost, quiet, no network card": (idle(watched_alike(31, packets=None)), "guest-hung", "reset"),
    "lost, quiet, agent silent": (idle(LOST, agent="silent"), "guest-hung", "reset"),
    "lost, quiet, no quorum": (idle(LOST, quorate=False), "guest-hung", "reset"),
    "lost, quiet, migrating": (idle(LOST, lock="migrate"), "guest-hung", ""),
    "lost, quiet, panic": (idle(LOST, vcpus=("kh",) * 5), "guest-hung", "reset"),
    "lost, quiet, soft lockup": (idle(LOST, vcpus=("kk",) * 5), "guest-hung", "reset"),
    "lost, quiet, a vCPU is idle": (idle(LOST, vcpus=("hi",) * 5), "heartbeat-lost", ""),
    "lost, quiet, a program ran once": (idle(LOST, vcpus=(*DEAF, "hp")), "heartbeat-lost", ""),
    "lost, a disk request in the watch": (idle(watched(31, disk=901)), "heartbeat-lost", ""),
    "lost, a disk request by the queues": (moving(LOST), "heartbeat-lost", ""),
    "lost, disk progress, agent silent": (moving(LOST, agent="silent"), "heartbeat-lost", ""),
    "lost, a packet": (idle(watched(31, packets=71)), "heartbeat-lost", ""),
    "lost, a network card went": (idle(watched(31, packets=None)), "heartbeat-lost", ""),
    "lost, disks not known": (idle(watched(31, disk=None)), "heartbeat-lost", ""),
    "lost, agent answers": (idle(LOST, agent="answers"), "healthy", ""),
    "late": (idle(watched(17, 2.0)), "guest-silent", ""),
    "late, disk progress": (moving(watched(17, 2.0)), "guest-silent", ""),
    "late, no vCPU can be woken": (idle(watched(28), vcpus=DEAF), "guest-hung", "reset"),
    "gone": (idle(GONE), "guest-silent", ""),
    "gone, disk progress": (moving(GONE), "heartbeat-lost", ""),
    "gone, disk progress, agent answers": (moving(GONE, agent="answers"), "healthy", ""),
    "gone for long, disk progress": (moving(watched_alike(3700, driver=False)), "healthy", ""),
    "gone, no vCPU can be woken": (idle(GONE, vcpus=DEAF), "guest-hung", "reset"),
    "gone, four samples": (idle(GONE, vcpus=DEAF[1:]), "guest-silent", ""),
    "gone, no vCPU can be woken, packets": (idle(BUSY, vcpus=DEAF), "heartbeat-lost", ""),
    "a boot loader, no vCPU can be woken": (idle(UNLOADED, vcpus=DEAF), "guest-silent", ""),
    "no device": (idle((Heartbeat(NOW, device=False),)), "guest-silent", ""),
    "no device, disk progress": (moving((Heartbeat(NOW, device=False),)), "healthy", ""),
    "reset, disk progress": (moving((beat(None),)), "healthy", ""),
    "it answered before a reset, disk progress": (moving(RESET, agent="silent"), "guest-silent", ""),
    "an old QEMU, an old answer, disk progress": (moving(OLD), "guest-silent", ""),
    "an old QEMU, an old answer, agent answers": (moving(OLD, agent="answers"), "healthy", ""),
    "lost, disk progress, agent silent, a backup": (moving(LOST, agent="silent", lock="backup"), "heartbeat-lost", ""),
    "reset": (idle((beat(None),)), "guest-silent", ""),
    "kills and waits": (idle(FILLED), "guest-starved", ""),
    "waits with no memory left": (moving(WAITING, agent="silent"), "guest-starved", ""),
    "a kill in a container": (idle(KILLED), "guest-alive", ""),
    "full, and no kill or wait": (idle((beat(1, **FULL), beat(-1, 2, **FULL))), "guest-alive", ""),
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
    lost = verdict_of(moving(LOST))
    hung = verdict_of(idle(LOST))
    for verdict in (lost, hung):
        assert ("31 s" in verdict.sentence, "31 s" in verdict.why) == (True, True)
    assert hung.sentence.count("in 5 s") == 1
    assert ["half a minute" in verdict_of(idle(watched(age))).sentence for age in (19, 22)] == [True, False]


def test_a_status_tells_when_the_kernel_answered_last() -> None:
    """The time is by the host's clock. If it is not known, as after a dead probe, there is none."""
    fresh, awaited = (describe_heartbeat(Evidence("running", heartbeats=(beat(age),))) or {} for age in (2, None))
    assert (fresh["state"], fresh["at"], "2 s ago" in str(fresh["says"])) == ("fresh", "2026-11-30T00:53:18Z", True)
    assert (awaited["state"], awaited["at"]) == ("awaited", None)
    assert describe_heartbeat(Evidence("running")) is None
