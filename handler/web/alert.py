"""POST /alert/{source}: start a capture for each alert of a monitoring system's notification.

The answer is sent after the hosts have acknowledged the captures, which then are jobs on the hosts and continue without
the handler. Only a 503 means that the sender should send the notification again.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from weakref import WeakValueDictionary

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..alerts.payloads import challenge_in, read_payload
from ..alerts.rules import MOST_A_VM, Capture, Plan, Rule, drill_rules, plan
from ..auth.challenge import check_time
from ..auth.signing import GRAFANA, Caller, Signed, check_age
from ..base import audit, counts
from ..base.errors import Lost, StaleTimestamp, Unreached
from ..base.threads import DaemonThreads
from ..base.verdict import read_verdict
from ..config.model import Config, Vm
from ..config.server import page_link
from ..proxmox.host import HostConnection
from ..proxmox.outcome import Message
from ..proxmox.wire import capture_line
from ..service import Service
from .admission import check_permission
from .gate import SignedRequest

ACK_SECONDS = 6.0  # for a host's acknowledgement, once the host is found; Alertmanager gives up after 10 s
MATCH_SECONDS = 1.0  # processor time for comparing one notification with the entries; alerts beyond this are ignored
# for a comparison and its time in the queue; a sender whose notification takes longer must send it again
PLAN_SECONDS = 2.0
MOST_WAITING = 64  # notifications of one caller, each up to 1 MiB; any further notification gets 503 at once
_HOST_CHARACTERS = 64  # of a word from the host's answer, because up to 1000 statuses repeat that word
_DONE, _ID_REUSED = 0, 17  # exit codes of the host; a reused id is a capture that is older than a day

CaptureStatus = Mapping[str, object]
_matching = DaemonThreads("alerts", 1)
_turns = WeakValueDictionary[str, asyncio.Lock]()  # by caller
_waiting = Counter[str]()  # number of waiting notifications, by caller


async def alert(request: Request) -> Response:
    """Start the captures, and answer with their jobs."""
    service: Service = request.state.service
    arrival: SignedRequest = request.state.signed
    now, source, caller = time.time(), str(request.path_params["source"]), arrival.signed.caller
    check_alert_time(arrival.signed, arrival.body, int(now), service.config)
    check_permission(caller, "forensics", None, now)
    config = service.config
    rules = (*drill_rules(vm.name for vm in config.vms.values() if vm.drill), *config.alerts)
    wanted = await make_plan(source, arrival.body, rules, int(now), config.session_secrets[-1], caller.name)
    vms = [config.vms[name] for name in wanted.captures]
    permitted = permitted_vms(caller, vms, now)
    refused = sum(len(wanted.captures[vm.name]) for vm in vms if vm not in permitted)
    tasks = [
        service.run_on_host(vm, partial(acknowledge, vm=vm, captures=wanted.captures[vm.name], caller=caller.name))
        for vm in permitted
    ]
    await asyncio.gather(*tasks, return_exceptions=True)  # a host that can't be reached must not affect the others
    taken = {vm: task.result() for vm, task in zip(permitted, tasks, strict=True) if task.exception() is None}
    await request.state.telling.see_alert(taken, wanted.captures, caller.name)
    statuses = [with_link(status, config.urls) for task in tasks for status in task.result()]
    answer = answer_body(statuses, wanted.ignored + refused)
    _record(arrival.began, caller, source, answer)
    return JSONResponse(answer, 202)


async def make_plan(source: str, body: bytes, rules: Sequence[Rule], now: int, secret: str, caller: str) -> Plan:
    """Return what to capture. Compares in a thread, because many alerts would delay every other request.

    Each caller's notifications are compared one at a time, so a sender of very many delays no other caller. Raises
    Unreached if earlier notifications use up the time.
    """
    given_up = time.monotonic() + PLAN_SECONDS

    def match() -> Plan:
        if time.monotonic() >= given_up:
            raise TimeoutError
        until = time.thread_time() + MATCH_SECONDS
        return plan(source, read_payload(source, body), rules, now, secret, lambda: time.thread_time() < until)

    turn = _turns.setdefault(caller, asyncio.Lock())
    _waiting[caller] += 1
    try:
        async with asyncio.timeout(PLAN_SECONDS if _waiting[caller] <= MOST_WAITING else 0), turn:
            return await _matching.run(match, seconds=PLAN_SECONDS)
    except TimeoutError:
        reason = "other notifications are being compared with [[alerts]]"
        raise Unreached("busy", reason, "send the notification again") from None
    finally:
        _waiting[caller] -= 1


def check_alert_time(signed: Signed, body: bytes, now: int, config: Config) -> None:
    """Raise StaleTimestamp when the signature is too old or too early.

    The error has a challenge, except for Grafana, which can't answer one.
    """
    try:
        check_age(signed, now)
    except StaleTimestamp:
        if signed.caller.auth_method == GRAFANA:
            raise
        check_time(signed, challenge_in(body), now, config.session_secrets)


def permitted_vms(caller: Caller, vms: Sequence[Vm], now: float) -> list[Vm]:
    """Return the VMs that the caller may capture; raise Forbidden if there are none."""
    refusals = {vm.name: caller.refusal("forensics", vm.name, now) for vm in vms}
    found = [vm for vm in vms if refusals[vm.name] is None]
    first = next((refusal for refusal in refusals.values() if refusal is not None), None)
    if first is not None and not found:
        raise first
    return found


async def acknowledge(host: HostConnection, vm: Vm, captures: Sequence[Capture], caller: str) -> list[CaptureStatus]:
    """Ask a VM's host for captures, and return their statuses. The first capture is sent before the others."""
    first, rest, folded = captures[0], captures[1:MOST_A_VM], captures[MOST_A_VM:]

    async def ask(capture: Capture) -> CaptureStatus:
        return _status(vm, capture, await host.result(capture_line(capture, vm.vmid, caller)))

    try:
        async with asyncio.timeout(ACK_SECONDS):
            statuses = [await ask(first), *await asyncio.gather(*map(ask, rest))]
    except (Lost, TimeoutError) as error:
        reason = error.message if isinstance(error, Lost) else f"no answer in {ACK_SECONDS:g} s"
        raise Lost(
            f"{host.host.ssh} did not confirm that the capture began: {reason}",
            "send the notification again; each alert is captured once",
        ) from None
    return statuses + [{**statuses[0], "duplicate": False, "suppressed": True} for _ in folded]


def _status(vm: Vm, capture: Capture, result: Message) -> CaptureStatus:
    """Return whether the host took the capture, had it already, attached it to another one, or failed."""
    if result["exit_code"] not in (_DONE, _ID_REUSED):
        code = read_verdict(result).code or str(result["outcome"])
        return {"vm": vm.name, "job": capture.job, "code": code}
    job = str(result.get("job", capture.job))[:_HOST_CHARACTERS]
    is_own, attached = job == capture.job, bool(result.get("attached"))
    return {"vm": vm.name, "job": job, "duplicate": is_own and attached, "suppressed": not is_own}


def with_link(status: CaptureStatus, urls: Sequence[str]) -> CaptureStatus:
    """Return a status with the page's address, if the handler knows its URL. A refusal gets no job."""
    job = "" if "code" in status else str(status["job"])
    return {**status, "page": page_link(urls[0], str(status["vm"]), job)} if urls else status


def answer_body(statuses: Sequence[CaptureStatus], ignored: int) -> dict[str, object]:
    """Return the answer's body.

    The body has `failed` only if a host refused a capture. In that case it does not help to send the notification
    again.
    """
    accepted = [each for each in statuses if "code" not in each]
    failed = [each for each in statuses if "code" in each]
    return {"accepted": accepted, "ignored": ignored, **({"failed": failed} if failed else {})}


def _record(began: float, caller: Caller, source: str, answer: Mapping[str, object]) -> None:
    accepted, failed = answer["accepted"], answer.get("failed", [])
    assert isinstance(accepted, list)
    assert isinstance(failed, list)
    taken = [each for each in accepted if not each["duplicate"] and not each["suppressed"]]
    outcome = "failed" if failed else "accepted" if taken else "repeated" if accepted else "ignored"
    counts.in_use.add_captures(source, len(taken), len(accepted) - len(taken), len(failed))
    audit.note("alert", source=source, caller=caller.name, taken=taken, failed=failed, ignored=answer["ignored"])
    audit.request(began, outcome, caller.name, f"alert/{source}", ",".join(sorted({each["vm"] for each in accepted})))
