"""Evidence, in its simplest honest form: each probe has its own deadline, and one that hangs is itself a finding.

A capture holds nothing: it takes no VM lock and makes nobody busy. What it finds is kept in its job and named in
`evidence.json`, so that a verb within the next minute need not ask again.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from .host import Host
from .job import Job
from .memory import Lock, boottime, read_json, write_whole
from .probe import NoAnswer, Ran, ask, run
from .qmp import Qmp, QmpError, QmpSilent
from .result import Result
from .vmstate import conclude, observe, read_pid, sources
from .words import DONE

BUDGET = 15.0
REUSE_SECONDS = 60.0
SCREEN_BYTES = 2 * 1024 * 1024


@dataclass(frozen=True)
class Probe:
    """One question of a capture: a file of the host, or a command; `seconds` is its own deadline."""

    name: str
    seconds: float
    files: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


def probes(host: Host) -> list[Probe]:
    """Return what is asked, from what can't hang to what may."""
    pid = read_pid(host) or 0
    vmid = str(host.vmid)
    return [
        Probe("host load", 1, ("/proc/uptime", "/proc/loadavg")),
        Probe("host pressure", 1, ("/proc/pressure/cpu", "/proc/pressure/io", "/proc/pressure/memory")),
        Probe("process", 1, (f"/proc/{pid}/stat", f"/proc/{pid}/wchan", f"/proc/{pid}/io")),
        Probe("qm status", 3, command=("qm", "status", vmid, "--verbose")),
        Probe("qm config", 3, command=("qm", "config", vmid)),
    ]


def before_acting(job: Job) -> None:
    """Have evidence before the state is destroyed: a capture of the last minute, or our own; at most BUDGET."""
    if fresh := newest_capture(job, REUSE_SECONDS):
        job.say(f"forensics: using the capture {fresh}")
        return
    capture(job, min(BUDGET, job.left(BUDGET)))


def newest_capture(job: Job, seconds: float, kind: str = "evidence") -> str:
    """Return the id of the job whose capture is younger than `seconds`, or an empty string.

    `evidence` is any capture, a verb's own too; `capture` is that of a forensics job, which others may attach to.
    What was seen of an earlier QEMU process is no evidence of this one.
    """
    known = read_json(f"{job.host.memory}/{kind}.json") or {}
    at = known.get("boottime")
    young = isinstance(at, float) and boottime() - at < seconds and known.get("pid") == read_pid(job.host)
    return str(known.get("job", "")) if young else ""


def capture(job: Job, budget: float) -> None:
    """Ask every probe, write what it said, take the console's picture last."""
    until = time.monotonic() + budget
    manifest: list[dict[str, object]] = []
    for probe in probes(job.host):
        seconds = min(probe.seconds, until - time.monotonic())
        if seconds <= 0:
            job.say(f"== {probe.name}: not asked, the {budget:g} s are over")
            continue
        manifest.append(_asked(job, probe, seconds))
    if (left := until - time.monotonic()) > 0:
        manifest.append(_timed(job, "screen", lambda: screendump(job, min(4.0, left))))
    _remember(job, manifest)


def _asked(job: Job, probe: Probe, seconds: float) -> dict[str, object]:
    def answer() -> str:
        if probe.command:
            return _command_text(run(list(probe.command), seconds))
        return str(ask(lambda: _files_text(job.host, probe.files), seconds))

    return _timed(job, probe.name, answer)


def _timed(job: Job, name: str, answer: Callable[[], str]) -> dict[str, object]:
    began = time.monotonic()
    try:
        text, outcome = answer(), "ok"
    except NoAnswer as error:
        text, outcome = f"{error}: this is a finding", "timed out"
    except (QmpSilent, QmpError, OSError) as error:
        text, outcome = str(error), "failed"
    seconds = round(time.monotonic() - began, 3)
    job.say(f"== {name} ({outcome}, {seconds:.2f} s)")
    job.say(text)
    return {"probe": name, "outcome": outcome, "seconds": seconds}


def _command_text(ran: Ran) -> str:
    if ran.code is None:
        raise NoAnswer("the command did not end in time")
    return f"{ran.stdout}{ran.stderr}" + (f"[exit {ran.code}]" if ran.code else "")


def _files_text(host: Host, files: tuple[str, ...]) -> str:
    parts = []
    for name in files:
        try:
            with open(host.path(name), encoding="utf-8", errors="replace") as file:
                parts.append(f"{name}: {file.read(16384).strip()}")
        except OSError as error:
            parts.append(f"{name}: {error.strerror}")
    return "\n".join(parts)


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


def _remember(job: Job, manifest: list[dict[str, object]]) -> None:
    try:
        write_whole(job.memory.job(job.record.id, "manifest.json"), json.dumps(manifest))
        note = json.dumps({"job": job.record.id, "boottime": boottime(), "pid": read_pid(job.host)})
        for kind in ("evidence", "capture") if job.record.verb == "forensics" else ("evidence",):
            write_whole(f"{job.host.memory}/{kind}.json", note)
    except OSError:
        job.warnings.append("the host could not keep the evidence")


def forensics(job: Job) -> Result:
    """The verb: state first, then the capture."""
    job.enter("forensics")
    facts = observe(job.host)
    job.say(f"state: {conclude(facts)} ({sources(facts)})")
    capture(job, BUDGET)
    return Result(DONE, conclude(facts))


def capture_lock(host: Host) -> Lock:
    return Lock(host, "forensics.lock")
