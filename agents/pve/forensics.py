"""A capture: every probe of the tiers at once, each in a child of its own with a deadline; the picture last.

A capture holds nothing: it takes no VM lock and makes nobody busy. What hangs is itself a finding, and is left behind.
What was found is kept in the job and named in `evidence.json`, so that a verb within the next minute need not ask
again.
"""

import json
import os
import select
import time
from collections.abc import Iterator
from dataclasses import asdict

from .asking import Probe, Reply
from .evidence import Evidence, evidence_from
from .files import boottime, read_json, write_whole
from .host import Host
from .job import Job
from .probe import fork_child, kill_child, reap
from .qmp import Qmp, QmpError, QmpSilent
from .result import Result, Verdict
from .tiers import SAMPLES_APART, probes, silent_storage
from .verdict import verdict_of
from .vmlock import Lock
from .vmstate import Facts, conclude, leftovers, observe, read_pid, sources
from .words import DONE

BUDGET = 15.0
REUSE_SECONDS = 60.0
QUICK_APART = 0.5  # between the two samples that a verb takes before it acts: nobody waits longer for a rescue
SCREEN_BYTES = 2 * 1024 * 1024
SCREEN_SECONDS = 4.0
_OVERTIME = 0.3  # a command's own deadline comes first, so that its process is ended and its output kept


def before_acting(job: Job) -> None:
    """Have evidence before the state is destroyed: a capture of the last minute, or our own; at most BUDGET."""
    if fresh := newest_capture(job.host, REUSE_SECONDS):
        job.say(f"forensics: using the capture {fresh}")
        return
    until = time.monotonic() + min(BUDGET, job.left(BUDGET))
    capture(job, observe(job.host), until, QUICK_APART)


def newest_capture(host: Host, seconds: float, kind: str = "evidence") -> str:
    """Return the id of the job whose capture is younger than `seconds`, or an empty string.

    `evidence` is any capture, a verb's own too; `capture` is that of a forensics job, which others may attach to.
    What was seen of an earlier QEMU process is no evidence of this one.
    """
    known = read_json(f"{host.memory}/{kind}.json") or {}
    at = known.get("boottime")
    young = isinstance(at, float) and boottime() - at < seconds and known.get("pid") == read_pid(host)
    return str(known.get("job", "")) if young else ""


def capture(job: Job, facts: Facts, until: float, apart: float = SAMPLES_APART) -> Verdict:
    """Ask every probe, write what it said as it comes, take the console's picture last; judge, and keep all of it."""
    state = conclude(facts)
    pid = None if state == "stopped" else facts.pid
    findings: list[Reply] = []
    for finding in asked_together(probes(job.host, pid, apart), until - SCREEN_SECONDS):
        _show(job, finding)
        findings.append(finding)
    if pid is not None:
        findings.append(_screen(job, state, min(SCREEN_SECONDS, until - time.monotonic())))
        _show(job, findings[-1])
    seen = gathered(job.host, facts, findings)
    verdict = verdict_of(seen)
    job.say("\n    ".join([f"verdict: {verdict.sentence}", *verdict.evidence]))
    _remember(job, findings, seen, verdict)
    return verdict


def gathered(host: Host, facts: Facts, findings: list[Reply]) -> Evidence:
    """Return the evidence of a capture: what each finding settles, and the state that was seen first."""
    state = conclude(facts)
    known: dict[str, object] = {"state": state, "source": sources(facts), "pid": facts.pid}
    for finding in findings:
        known |= finding.facts
    known["silent_storage"] = silent_storage(findings)
    known["leftovers"] = leftovers(host) if state == "stopped" else []
    return evidence_from(known)


def _show(job: Job, finding: Reply) -> None:
    head = f"== {finding.probe} ({finding.outcome}, {finding.seconds:.2f} s)"
    job.say(f"{head} {finding.text}" if finding.outcome == "absent" else f"{head}\n{finding.text}")


# --- many questions at once -------------------------------------------------------------------------------------


class _Asked:
    """A probe under way in its child."""

    def __init__(self, probe: Probe, seconds: float) -> None:
        self.probe = probe
        self.began = time.monotonic()
        self.until = self.began + seconds + _OVERTIME
        self.buffer = b""
        self.heard = False
        self.pid, self.fd = fork_child(lambda fd: _answering_probe(probe, seconds, fd))

    def read(self) -> tuple[list[Reply], bool]:
        """Return what has come, and whether that is all."""
        chunk = os.read(self.fd, 1 << 20)
        *lines, self.buffer = (self.buffer + chunk).split(b"\n")
        found = [Reply(**json.loads(line)) for line in lines]
        self.heard = self.heard or bool(found)
        if not chunk and not self.heard:
            found.append(self.finding("failed", "the probe died"))
        return found, not chunk

    def finding(self, outcome: str, text: str) -> Reply:
        return Reply(self.probe.name, "", outcome, round(time.monotonic() - self.began, 3), text)

    def leave(self) -> None:
        os.close(self.fd)
        kill_child(self.pid)


def _answering_probe(probe: Probe, seconds: float, fd: int) -> None:
    began = time.monotonic()
    try:
        for finding in probe.ask(seconds):
            _write_tiers(fd, finding)
    except (QmpSilent, QmpError, OSError, ValueError, KeyError) as error:
        outcome = "timed out" if isinstance(error, QmpSilent) else "failed"
        _write_tiers(fd, Reply(probe.name, "", outcome, round(time.monotonic() - began, 3), str(error)))


def _write_tiers(fd: int, finding: Reply) -> None:
    data = json.dumps(asdict(finding)).encode() + b"\n"
    while data:
        data = data[os.write(fd, data) :]


def asked_together(questions: list[Probe], until: float) -> Iterator[Reply]:
    """Ask all at once and yield what each says as it comes; every one ends by its own deadline and by `until`.

    A child that does not end is left behind: nothing waits for it.
    """
    left = max(0.1, until - time.monotonic() - _OVERTIME)
    asked = {one.fd: one for one in (_Asked(probe, min(probe.seconds, left)) for probe in questions)}
    try:
        while asked:
            soonest = min(one.until for one in asked.values())
            ready = select.select(list(asked), [], [], max(0.0, soonest - time.monotonic()))[0]
            for fd in ready:
                found, ended = asked[fd].read()
                yield from found
                if ended:
                    asked.pop(fd).leave()
            for one in [one for one in asked.values() if time.monotonic() >= one.until]:
                yield one.finding("timed out", "no answer in time: this is a finding")
                asked.pop(one.fd).leave()
            reap()
    finally:
        for one in asked.values():
            one.leave()


# --- the picture, and what is kept ------------------------------------------------------------------------------


def _screen(job: Job, state: str, seconds: float) -> Reply:
    began = time.monotonic()
    if state in ("wedged", "unknown") or seconds <= 0:
        return Reply("screen", "screendump", "failed", 0.0, "not asked: QEMU is silent, or the time is over")
    try:
        outcome, text = "ok", screendump(job, seconds)
    except QmpSilent as error:
        outcome, text = "timed out", str(error)
    except (QmpError, OSError) as error:
        outcome, text = "failed", str(error)
    return Reply("screen", "screendump", outcome, round(time.monotonic() - began, 3), text)


def screendump(job: Job, seconds: float) -> str:
    """Keep the console's picture as PNG, 2 MiB at most; QEMU writes it, as root, where we say."""
    path = job.memory.job(job.record.id, "screen.png")
    with Qmp(job.host.qmp, seconds) as qmp:
        qmp.command("screendump", filename=path, format="png")
    size = os.path.getsize(path)
    if size > SCREEN_BYTES:
        os.unlink(path)
        return f"the picture has {size} bytes, more than the {SCREEN_BYTES} that are kept"
    job.screen = True
    return f"{size} bytes"


def _remember(job: Job, findings: list[Reply], seen: Evidence, verdict: Verdict) -> None:
    names = ("probe", "command", "outcome", "seconds")
    manifest = [{name: getattr(finding, name) for name in names} for finding in findings]
    try:
        write_whole(job.memory.job(job.record.id, "manifest.json"), json.dumps(manifest))
        judged_by = {"evidence": seen.as_json(), "verdict": asdict(verdict)}
        write_whole(job.memory.job(job.record.id, "evidence.json"), json.dumps(judged_by))
        note = json.dumps({"job": job.record.id, "boottime": boottime(), "pid": read_pid(job.host)})
        for kind in ("evidence", "capture") if job.record.verb == "forensics" else ("evidence",):
            write_whole(f"{job.host.memory}/{kind}.json", note)
    except OSError:
        job.warnings.append("the host could not keep the evidence")


def forensics(job: Job) -> Result:
    """The verb: state first, then the capture and its verdict."""
    until = time.monotonic() + BUDGET
    job.enter("forensics")
    facts = observe(job.host)
    job.say(f"state: {conclude(facts)} ({sources(facts)})")
    return Result(DONE, conclude(facts), verdict=capture(job, facts, until))


def capture_lock(host: Host) -> Lock:
    return Lock(host, "forensics.lock")
