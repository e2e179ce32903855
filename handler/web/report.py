"""POST /report: what happened to a caller's VMs, from the hosts' records."""

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..auth.challenge import check_time
from ..base import audit
from ..base.cures import read_verdicts
from ..base.errors import BadRequest, Lost, Unreached
from ..base.text import plain_line
from ..base.threads import run_in_thread
from ..config.model import Vm
from ..proxmox.outcome import Message
from ..proxmox.wire import line_of
from ..report.night import Block, Job, Night, began, compose_report, first_act, list_rows, read_job, sum_up
from ..report.render import render_html, render_markdown
from ..service import Service
from .admission import check_permission
from .bodies import is_utf8, strict_json
from .gate import SignedRequest

MOST_HOURS = 72
MOST_LISTED = 50  # the jobs of a VM that a host lists at most
MOST_WHOLE = 12  # the newest jobs of a VM, which are read with their pictures
MOST_CHARS = 16 * 1024 * 1024  # the text of the hosts that one report keeps at most
READ_SECONDS = 20.0  # for reading everything in a report
HOSTS_AT_ONCE = 8
TOO_MUCH = "This report is incomplete, because the hosts sent too much for one report; ask for one VM or fewer hours."
OLDER_MISSING = f"Older jobs are missing, because a host lists its newest {MOST_LISTED}."
_FIELDS = ("vm", "since", "form", "challenge", "to")
_ROWS = "rows"  # the form without a text, for a program
_FORMS: Mapping[str, Callable[[Iterable[Block]], str]]
_FORMS = {"markdown": render_markdown, "html": render_html, _ROWS: lambda _: ""}
_SINCE = re.compile(r"([1-9][0-9]?)h", re.ASCII)


async def report(request: Request) -> Response:
    """Answer with the report as text, with the number of its jobs, and whether all hosts told everything."""
    service: Service = request.state.service
    arrival: SignedRequest = request.state.signed
    caller, now, fields = arrival.signed.caller, time.time(), _fields(arrival.body)
    service.config.check_recipient(fields.get("to", ""))
    check_time(arrival.signed, fields.get("challenge", ""), int(now), service.config.session_secrets)
    vms = [service.config.vm_named(fields["vm"])] if fields.get("vm") else list(service.config.vms.values())
    if vms == [None]:
        raise BadRequest(*service.config.explain_no_vm(fields["vm"]))
    check_permission(caller, "history", vms[0].name if fields.get("vm") and vms[0] else None, now)
    wanted = [vm for vm in vms if vm and caller.refusal("history", vm.name, now) is None]
    until = datetime.fromtimestamp(now, UTC)
    since = until - timedelta(hours=_hours(fields.get("since") or "8h"))
    form = fields.get("form") or "markdown"
    reading, under_way = _Reading(service, since, is_whole=form != _ROWS), request.state.reports
    if caller.name in under_way:
        raise Unreached("too-many-reads", f"{caller.name} has a report under way", "wait for it, then send this again")
    under_way.add(caller.name)
    try:
        nights = await asyncio.gather(*map(reading.read_night, wanted))
    finally:
        under_way.discard(caller.name)
    text = await run_in_thread(lambda: _FORMS[form](compose_report(nights, since, until)), READ_SECONDS)
    jobs, is_whole = sum(len(night.jobs) for night in nights), not any(night.trouble for night in nights)
    audit.request(arrival.began, "done", caller.name, "report", fields.get("vm", ""), arrival.signed.id)
    summary = {night.vm: line for night in nights if (line := sum_up(night))}
    answer = {"jobs": jobs, "whole": is_whole, "vms": summary, "text": text}
    missing = {night.vm: plain_line(night.trouble) for night in nights if night.trouble}
    return JSONResponse(answer | ({"rows": list_rows(nights), "missing": missing} if form == _ROWS else {}))


def _fields(data: bytes) -> Mapping[str, str]:
    fields = strict_json(data)
    for name, value in fields.items():
        if name not in _FIELDS or not isinstance(value, str) or not is_utf8(value):
            raise BadRequest("a field is unknown or not text", f"use {', '.join(_FIELDS)}, in quotes")
    if fields.get("form") not in (None, "", *_FORMS):
        raise BadRequest('"form" has an unknown value', f"use {' or '.join(_FORMS)}")
    return {name: str(value) for name, value in fields.items()}


def _hours(text: str) -> int:
    found = _SINCE.fullmatch(text)
    if not found or int(found[1]) > MOST_HOURS:
        raise BadRequest('"since" is not a number of hours', f'use 1h to {MOST_HOURS}h, like "8h"')
    return int(found[1])


class _Reading:
    """The reading of one report, which keeps a bounded part of what the hosts send."""

    def __init__(self, service: Service, since: datetime, is_whole: bool) -> None:
        self._service, self._since, self._is_whole = service, since, is_whole
        self._places, self._left = asyncio.Semaphore(HOSTS_AT_ONCE), MOST_CHARS
        self._late = asyncio.get_running_loop().time() + READ_SECONDS

    async def read_night(self, vm: Vm) -> Night:
        """Return a VM's jobs, the newest of them whole; `trouble` says so if the host does not answer."""
        jobs, trouble = list[Job](), ""
        try:
            async with asyncio.timeout_at(self._late), self._places:
                listed = await self._read(vm, line_of("history", vm.vmid), "jobs")
                newest = listed[:MOST_LISTED] if isinstance(listed, list) else []
                found = [job for job in map(read_job, newest) if job and _is_since(job, self._since)]
                if not self._has_room(found):
                    return Night(vm.name, [], TOO_MUCH)
                jobs += reversed(found)  # the host lists the newest first
                trouble = OLDER_MISSING if len(found) == MOST_LISTED else ""
                trouble = (self._is_whole and await self._add_whole(vm, jobs)) or trouble
        except (Unreached, Lost) as error:
            trouble = f"This report is incomplete, because {error.message}."
        except TimeoutError:
            trouble = f"This report is incomplete, because the VM's host did not answer in {READ_SECONDS:g} s."
        return Night(vm.name, jobs, trouble)

    async def _add_whole(self, vm: Vm, jobs: list[Job]) -> str:
        """Add last words to the newest jobs, and the two pictures that are shown; return what is missing."""
        act, trouble, pictured = first_act(jobs), "", set[bool]()
        for n in range(len(jobs) - 1, max(-1, len(jobs) - 1 - MOST_WHOLE), -1):
            whole = await self._read(vm, line_of("job", vm.vmid, id=str(jobs[n]["id"])), "whole_job")
            kept = {"last_words": whole.get("last_words")} if isinstance(whole, dict) else {}
            if isinstance(whole, dict) and whole.get("screen_png") and (n > act) not in pictured:
                kept["screen_png"] = whole["screen_png"]
                pictured.add(n > act)
            if self._has_room(kept):
                jobs[n] = {**jobs[n], **kept}
            else:
                trouble = TOO_MUCH
        return trouble

    def _has_room(self, found: object) -> bool:
        size = len(str(found))
        has_room = size <= self._left
        self._left -= size if has_room else 0
        return has_room

    async def _read(self, vm: Vm, line: str, field: str) -> object:
        messages: list[Message] = await self._service.read(vm, line)
        return read_verdicts(messages[-1], vm.vmid, "").get(field)


def _is_since(job: Job, since: datetime) -> bool:
    start = began(job)
    return start is not None and start >= since
