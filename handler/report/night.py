"""What happened to each VM in some hours, as blocks of text and pictures, from its jobs as `history` has them. Pure.

Nothing here comes from the handler's memory, so any handler can write the report, even after a restart.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from ..agents.pve.words import MUTATING, VERBS
from ..base.text import plain_line
from ..base.times import rfc3339
from ..base.verbs import CALM, CAPTURE_ID
from ..base.verdict import read_texts, read_verdict

# a line of the history as in docs/openapi.yaml; if the job was read, the line includes the job's files
Job = Mapping[str, object]

_AGO = re.compile(r" \(\d+ \w+ ago\)")  # the end of a line of evidence about what was before the fault
_ID = re.compile(r"[A-Za-z0-9_-]{8,64}", re.ASCII)  # of a job, in the host agent's grammar
_ANSWERED = re.compile(r"the guest's kernel answered (\d{1,6}) s ago", re.ASCII)
_MOST_SECONDS = 10**6
_MOST_OPINION = 300  # characters, because a model wrote it that has read the guest's words
_DONE_WELL = ("done", "busy", "refused")


class Night(NamedTuple):
    """One VM's jobs, oldest first. `trouble` says why some jobs are missing; an empty text if none is."""

    vm: str
    jobs: Sequence[Job]
    trouble: str = ""


class Block(NamedTuple):
    """A part of the report: `kind` is title, heading, text, list, log or picture; `png` is a picture in base64."""

    kind: str
    lines: Sequence[str]
    png: str = ""


def read_job(said: object) -> Job | None:
    """Return a job that a host lists, with its words on one line; None if it has no id, verb or time.

    The id comes back to a host in a line of the protocol, so it has to be one of the grammar.
    """
    if not isinstance(said, Mapping):
        return None
    words = {name: plain_line(str(said[name])) for name in ("id", "verb", "by", "outcome") if said.get(name)}
    job = {"by": "", **said, **words}
    return job if _ID.fullmatch(words.get("id", "")) and "verb" in words and began(job) else None


def first_act(jobs: Sequence[Job]) -> int:
    """Return the place of the first verb that could change power. The report has a picture from before and after it."""
    return next((n for n, job in enumerate(jobs) if job["verb"] in MUTATING), len(jobs))


def compose_report(nights: Sequence[Night], since: datetime, until: datetime) -> list[Block]:
    """Return the blocks of the report on the jobs that began between two times, each as `read_job` returns it."""
    blocks = [
        Block("title", [f"Breakglass, {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} {until:%Z}"]),
        Block("text", [_summary(nights)]),
    ]
    for night in nights:
        if night.jobs or night.trouble:
            blocks += _compose_vm(night, until)
    return blocks


def _summary(nights: Sequence[Night]) -> str:
    quiet = [night.vm for night in nights if not night.jobs and not night.trouble]
    busy = [f"{night.vm}: {len(night.jobs)} jobs" for night in nights if night.jobs]
    silent = [night.vm for night in nights if night.trouble and not night.jobs]
    parts = [", ".join(busy)] if busy else []
    parts += [f"Nothing is known of {', '.join(silent)}"] if silent else []
    parts += [f"Nothing happened to {', '.join(quiet)}"] if quiet else []
    return ". ".join(parts) + "."


def list_rows(nights: Sequence[Night]) -> list[dict[str, object]]:
    """Return a row for each job of all VMs, the oldest first: when, who, what, why, and how it ended."""
    found = [(start, night.vm, job) for night in nights for job in night.jobs if (start := began(job))]
    return [_row(start, vm, job) for start, vm, job in sorted(found, key=lambda each: each[0])]


def _row(start: datetime, vm: str, job: Job) -> dict[str, object]:
    why, verdict = plain_line(str(job.get("why") or "")), read_verdict(job).code
    row = {"started": rfc3339(start.timestamp()), "vm": vm, "id": job["id"], "verb": job["verb"], "by": job.get("by")}
    return {**row, "why": why, "outcome": job.get("outcome"), "seconds": _seconds(job), "verdict": verdict}


def sum_up(night: Night) -> str:
    """Return what a message says of a VM, without a word of its guest; nothing if nothing happened to it."""
    verbs = Counter(str(job["verb"]) for job in night.jobs)
    parts = [", ".join(f"{count} {verb}" for verb, count in verbs.items())] if verbs else []
    parts += [f"still open: {', '.join(ends)}"] if (ends := list(_open_ends(night.jobs))) else []
    parts += [plain_line(night.trouble)] if night.trouble else []
    return "; ".join(parts)


def _compose_vm(night: Night, until: datetime) -> Iterator[Block]:
    jobs, zone = night.jobs, until
    yield Block("heading", [night.vm])
    if night.trouble:
        yield Block("text", [plain_line(night.trouble)])
    yield Block("list", [line for job in jobs for line in _describe(job, jobs, zone)])
    first = next((job for job in jobs if job["verb"] == "forensics" and _before(job)), None)
    if first:
        yield Block("text", [f"Before the evidence of {_clock(first, zone)}:"])
        yield Block("list", _before(first))
    told = [job for job in jobs if read_texts(job.get("last_words"))]
    for job in told[-1:]:
        yield Block("text", [f"The guest's last words, read at {_clock(job, zone)}:"])
        yield Block("log", read_texts(job["last_words"]))
    yield from _pictures(jobs, zone)
    if ends := list(_open_ends(jobs)):
        yield Block("text", ["Still open:"])
        yield Block("list", ends)


def _describe(job: Job, jobs: Sequence[Job], zone: datetime) -> Iterator[str]:
    """Yield a job's line of the timeline, its opinion, when it was seen, and when the guest answered after it."""
    verb, why = str(job["verb"]), plain_line(str(job.get("why") or ""))
    is_alert = str(job["id"]).startswith(CAPTURE_ID)
    what = "evidence for an alert" if is_alert else VERBS[verb].label.lower() if verb in VERBS else verb
    ended = f"{job.get('outcome') or 'running'}{_took(job)}"
    said = f". {sentence}" if (sentence := read_verdict(job).sentence) else ""
    yield f"{_clock(job, zone)} {what}, {job.get('by')}{f' ({why})' if why else ''}: {ended}{said}"
    for opinion in _maps([job.get("opinion")]):
        yield f"{_clock(opinion, zone, 'at')} Claude: {plain_line(str(opinion.get('text')))[:_MOST_OPINION]}"
    for seen in _maps(job.get("seen")):
        yield f"{_clock(seen, zone, 'at')} seen by {plain_line(str(seen.get('by')))}"
    if verb in MUTATING and (back := _answered(job, jobs)) and (start := began(job)):
        seconds = (back - start).total_seconds()
        yield f"{back.astimezone(zone.tzinfo):%H:%M:%S} the guest's kernel answers, at most {seconds:.0f} s later"


def _answered(job: Job, jobs: Sequence[Job]) -> datetime | None:
    """Return when the guest's kernel had answered after a verb: by the first evidence after it that says so."""
    for later in jobs[jobs.index(job) + 1 :]:
        if str(later["verb"]) in MUTATING and later.get("outcome") == "done":
            return None
        found = next(filter(None, map(_ANSWERED.search, read_verdict(later).evidence)), None)
        ends = _ends(later)
        if found and ends and (start := began(job)) and (at := ends - timedelta(seconds=int(found[1]))) > start:
            return at
    return None


def _pictures(jobs: Sequence[Job], zone: datetime) -> Iterator[Block]:
    """Yield the last picture before the first verb that changed power, and the last one after it."""
    border = first_act(jobs)
    for part, when in ((jobs[: border + 1], "Before"), (jobs[border + 1 :], "After")):
        shown = [job for job in part if job.get("screen_png")]
        for job in shown[-1:]:
            yield Block("picture", [f"{when}: the console at {_clock(job, zone)}"], str(job["screen_png"]))


def _open_ends(jobs: Sequence[Job]) -> Iterator[str]:
    for job in jobs:
        if job.get("outcome") not in _DONE_WELL:
            yield f"{job['verb']} {job['id']} is {job.get('outcome') or 'running'}"
    last = next((job for job in reversed(jobs) if job.get("outcome") == "done"), None)
    if last and last["verb"] == "forensics" and (code := read_verdict(last).code) not in CALM:
        yield f"the last verdict is {code or 'not known'}, and no verb came after it"
    elif last and last["verb"] != "forensics":
        yield f"no evidence was taken after the last {last['verb']}"


# --- what a job says; a host that is broken may say anything ---


def began(job: Job) -> datetime | None:
    """Return when a job began, or None if its host does not say it."""
    return _time(job.get("started"))


def _time(value: object) -> datetime | None:
    try:
        at = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return at.astimezone(UTC) if at.tzinfo and 2000 < at.year < 3000 else None


def _ends(job: Job) -> datetime | None:
    start, seconds = began(job), _seconds(job)
    return start + timedelta(seconds=seconds) if start and seconds is not None else None


def _seconds(job: Job) -> float | None:
    seconds = job.get("seconds")
    return seconds if isinstance(seconds, int | float) and 0 <= seconds < _MOST_SECONDS else None


def _clock(job: Job, zone: datetime, name: str = "started") -> str:
    at = _time(job.get(name))
    return f"{at.astimezone(zone.tzinfo):%H:%M:%S}" if at else "at an unknown time,"


def _took(job: Job) -> str:
    seconds = _seconds(job) or 0
    return f" after {seconds:.0f} s" if seconds >= 1 else ""


def _before(job: Job) -> list[str]:
    return [line for line in read_verdict(job).evidence if _AGO.search(line)]


def _maps(value: object) -> list[Job]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
