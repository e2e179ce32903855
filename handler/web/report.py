"""POST /report: what happened to a caller's VMs, from the hosts' records."""

import asyncio
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..auth.challenge import check_time
from ..base import audit
from ..base.cures import read_verdicts
from ..base.errors import BadRequest, Lost, Unreached
from ..config.model import Vm
from ..proxmox.outcome import Message
from ..proxmox.wire import job_line
from ..report.night import Job, Night, compose_report
from ..report.render import render_html, render_markdown
from ..service import Service
from .admission import check_permission
from .bodies import is_utf8, strict_json
from .gate import SignedRequest

MOST_HOURS = 72
MOST_WHOLE = 12  # jobs of a VM that are read with their picture, the newest
READ_SECONDS = 20.0  # for all that is read
HOSTS_AT_ONCE = 8
_FIELDS = ("vm", "since", "form", "challenge", "to")
_FORMS = {"markdown": render_markdown, "html": render_html}
_SINCE = re.compile(r"([1-9][0-9]?)h", re.ASCII)


async def report(request: Request) -> Response:
    """Answer with the report as text, and with the number of its jobs."""
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
    places, late = asyncio.Semaphore(HOSTS_AT_ONCE), asyncio.get_running_loop().time() + READ_SECONDS
    nights = await asyncio.gather(*(_read_night(service, vm, since, places, late) for vm in wanted))
    blocks = compose_report(nights, since, until)
    jobs = sum(len(night.jobs) for night in nights)
    audit.request(arrival.began, "done", caller.name, "report", fields.get("vm", ""), arrival.signed.id)
    return JSONResponse({"jobs": jobs, "text": _FORMS[fields.get("form") or "markdown"](blocks)})


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


async def _read_night(service: Service, vm: Vm, since: datetime, places: asyncio.Semaphore, late: float) -> Night:
    """Return a VM's jobs since a time, the newest of them whole; a host that does not answer is a trouble of it."""
    jobs = list[Job]()
    try:
        async with asyncio.timeout_at(late), places:
            listed = await _read(service, vm, f"history vm={vm.vmid}", "jobs")
            found = [job for job in listed if isinstance(job, dict)] if isinstance(listed, list) else []
            jobs += [job for job in reversed(found) if _is_since(job, since)]  # the host lists the newest first
            for n in range(len(jobs) - 1, max(-1, len(jobs) - 1 - MOST_WHOLE), -1):
                whole = await _read(service, vm, job_line(vm.vmid, str(jobs[n]["id"])), "whole_job")
                jobs[n] = {**jobs[n], **whole} if isinstance(whole, dict) else jobs[n]
    except (Unreached, Lost) as error:
        return Night(vm.name, jobs, f"This report is incomplete, because {error.message}.")
    except TimeoutError:
        return Night(
            vm.name, jobs, f"This report is incomplete, because the VM's host did not answer in {READ_SECONDS:g} s."
        )
    return Night(vm.name, jobs)


async def _read(service: Service, vm: Vm, line: str, field: str) -> object:
    messages: list[Message] = await service.read(vm, line)
    return read_verdicts(messages[-1], vm.vmid, "").get(field)


def _is_since(job: Job, since: datetime) -> bool:
    try:
        return datetime.fromisoformat(str(job.get("started"))) >= since
    except (ValueError, TypeError):
        return False
