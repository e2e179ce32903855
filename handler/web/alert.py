"""POST /alert/{source}: a monitoring system's notification, to captures that the host has acknowledged.

Everything is done before the answer: the captures are the host's own jobs, and a handler that is frozen or ended after
it loses nothing. 503 means that it helps to send the notification again; nothing else does.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .. import audit
from ..alerts.captures import MOST_A_VM, Capture, plan
from ..alerts.payloads import challenge_in, read_payload
from ..auth.challenge import check_time
from ..auth.signing import GRAFANA, Caller, Signed, check_age
from ..config.model import Config, Vm
from ..errors import HostSilent, HostUnreached, StaleTimestamp
from ..proxmox.host import Host
from ..proxmox.outcome import Lost, Message, Unreached
from ..proxmox.wire import capture_line
from ..service import Service
from .admission import check_permission
from .gate import signed_request

ACK_SECONDS = 8.0  # for a host to acknowledge: Alertmanager gives up after 10
_DONE, _ID_REUSED = 0, 17  # of the host's exit codes; a capture that is older than a day is still the same one

Told = Mapping[str, object]


async def alert(request: Request) -> Response:
    """Have the evidence taken for what fires, and say under which jobs."""
    service: Service = request.state.service
    signed, body, began = signed_request(request.scope["state"])
    now, source, caller = time.time(), str(request.path_params["source"]), signed.caller
    check_when(signed, body, int(now), service.config)
    check_permission(caller, "forensics", None, now)
    alerts = read_payload(source, body)
    wanted = plan(source, alerts, service.config.alerts, int(now))
    vms = [service.config.vms[name] for name in wanted.captures]
    permitted = permitted_vms(caller, vms, now)
    refused = sum(len(wanted.captures[vm.name]) for vm in vms if vm not in permitted)
    asking = [
        service.run_on_host(vm, partial(acknowledged, vm=vm, captures=wanted.captures[vm.name], by=caller.name))
        for vm in permitted
    ]
    told = [one for found in await all_of(asking) for one in found]
    answer = answered(told, wanted.ignored + refused)
    _record(began, caller, source, answer)
    return JSONResponse(answer, 202)


def check_when(signed: Signed, body: bytes, now: int, config: Config) -> None:
    """Raise StaleTimestamp when the signature is too old or early, with a challenge to all but Grafana: it can't answer
    one."""
    try:
        check_age(signed, now)
    except StaleTimestamp:
        if signed.caller.auth_method == GRAFANA:
            raise
        check_time(signed, challenge_in(body), now, config.session_secrets)


def permitted_vms(caller: Caller, vms: Sequence[Vm], now: float) -> list[Vm]:
    """Return the VMs that this caller may have captured; raise Forbidden when it may none of several."""
    refusals = {vm.name: caller.refusal("forensics", vm.name, now) for vm in vms}
    found = [vm for vm in vms if refusals[vm.name] is None]
    first = next((refusal for refusal in refusals.values() if refusal is not None), None)
    if first is not None and not found:
        raise first
    return found


async def all_of(asking: Sequence[asyncio.Task[list[Told]]]) -> list[list[Told]]:
    """Return what every host said; raise once all are done when one was out of reach, for then it helps to send again,
    and what the others did stands."""
    ended = await asyncio.gather(*asking, return_exceptions=True)
    for one in ended:
        if isinstance(one, BaseException):
            raise one
    return [one for one in ended if not isinstance(one, BaseException)]


async def acknowledged(host: Host, vm: Vm, captures: Sequence[Capture], by: str) -> list[Told]:
    """Ask one host for captures and return what became of each; the first one first, so that it is the one taken."""
    first, rest, folded = captures[0], captures[1:MOST_A_VM], captures[MOST_A_VM:]
    try:
        async with asyncio.timeout(ACK_SECONDS):
            told = [_told(vm, first, await host.result(capture_line(first, vm.vmid, by)))]
            results = await _together(
                [asyncio.create_task(host.result(capture_line(one, vm.vmid, by))) for one in rest]
            )
    except Unreached as trouble:
        raise HostUnreached(trouble.message, trouble.hint) from None
    except (Lost, TimeoutError) as loss:
        sentence = f"{vm.ssh} did not acknowledge: {str(loss) or f'no answer in {ACK_SECONDS:g} s'}"
        raise HostSilent(sentence, "send it again; it is captured once") from None
    told += [_told(vm, capture, result) for capture, result in zip(rest, results, strict=True)]
    return told + [{**told[0], "duplicate": False, "suppressed": True} for _ in folded]


async def _together(asking: Sequence[asyncio.Task[Message]]) -> list[Message]:
    """Return every result, or raise with the first that fails and leave none running."""
    try:
        return await asyncio.gather(*asking)
    finally:
        for one in asking:
            one.cancel()


def _told(vm: Vm, capture: Capture, result: Message) -> Told:
    """Return what the host made of a capture: its own, one that it had, or that of another alert."""
    if result["exit_code"] not in (_DONE, _ID_REUSED):
        verdict = result.get("verdict")
        code = verdict.get("code") if isinstance(verdict, dict) else result["outcome"]
        return {"vm": vm.name, "job": capture.job, "code": code}
    job = result.get("job", capture.job)
    own, attached = job == capture.job, bool(result.get("attached"))
    return {"vm": vm.name, "job": job, "duplicate": own and attached, "suppressed": not own}


def answered(told: Sequence[Told], ignored: int) -> dict[str, object]:
    """Return the answer's body; `failed` is there when a host refused a capture, which sending again does not mend."""
    accepted = [one for one in told if "code" not in one]
    failed = [one for one in told if "code" in one]
    return {"accepted": accepted, "ignored": ignored, **({"failed": failed} if failed else {})}


def _record(began: float, caller: Caller, source: str, answer: Mapping[str, object]) -> None:
    accepted, failed = answer["accepted"], answer.get("failed", [])
    assert isinstance(accepted, list)
    taken = [one for one in accepted if not one["duplicate"] and not one["suppressed"]]
    outcome = "failed" if failed else "accepted" if taken else "repeated" if accepted else "ignored"
    audit.note("alert", source=source, caller=caller.name, taken=taken, failed=failed, ignored=answer["ignored"])
    audit.request(began, outcome, caller.name, f"alert/{source}", ",".join(sorted({one["vm"] for one in accepted})))
