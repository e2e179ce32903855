"""POST /pve: a signed request to a verb on a VM, or to the reason why not."""

import json
import time
from datetime import UTC, datetime, timedelta

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .. import audit
from ..auth.signing import SIGNATURE, Caller, Signed
from ..config.model import Config, Vm, by_hand
from ..errors import BadRequest, BreakglassError, IdReused
from ..proxmox.outcome import Answer, Asked, answer_without_trailer
from ..proxmox.request import PveRequest
from ..service import Service
from ..verbs import PROPOSAL_ID, VERBS
from .admission import admit
from .bodies import pve_request
from .gate import signed_request
from .replies import NDJSON, error_reply, stream_reply

WARN_BEFORE = timedelta(days=14)


async def pve(request: Request) -> Response:
    """Run a verb: the answer object, or the same as a stream of lines."""
    service: Service = request.state.service
    signed, body, began = signed_request(request.scope["state"])
    now = time.time()
    asked_for = pve_request(body)
    if asked_for.anyway:
        check_overrider(signed)
    caller = signed.caller
    vm = admit(service.config, signed, asked_for.challenge, asked_for.verb, asked_for.vm, now)
    if asked_for.verb not in VERBS or vm is None:
        return _rejected(asked_for, signed.id, caller.name, began, service.config)
    warnings = tuple(_warnings(caller, vm, now))
    commands = by_hand(vm, asked_for.verb)
    asked = Asked(asked_for.verb, vm.name, signed.id, caller.name, commands, warnings, by_hand(vm, "start"))
    run = service.run(asked, asked_for, vm, began)
    if NDJSON in request.headers.get("accept", ""):
        return stream_reply(run.stream(service.stopping))
    return _answered(await run.finished(service.stopping))


def check_overrider(signed: Signed) -> None:
    """Raise BadRequest unless a person says `anyway`: with a signing key, and not as the approval of a proposal."""
    if signed.caller.auth_method != SIGNATURE:
        raise BadRequest(
            'a bearer token can\'t say "anyway"; nothing was sent',
            "a person with a signing key can, in the page or with breakglass call --anyway",
        )
    if signed.id.startswith(PROPOSAL_ID):
        raise BadRequest(
            'the approval of a proposal can\'t say "anyway"; nothing was sent',
            "approve it without, or send the verb as a request of your own, under a new id",
        )


def _warnings(caller: Caller, vm: Vm, now: float) -> list[str]:
    found = []
    if caller.not_after and caller.not_after - datetime.fromtimestamp(now, UTC) < WARN_BEFORE:
        found.append(
            f"the key of {caller.name} expires on {caller.not_after:%Y-%m-%d}; make a new one: breakglass keys new"
        )
    if vm.any_host_key:
        found.append(f"the host key of {vm.name} is not checked: pin vms.{vm.name}.host_key")
    if "chat" in caller.allow and vm.guest is not None and vm.guest.user == "root":
        found.append(f"claude logs in to {vm.name} as root: inside it, it may change anything without asking")
    return found


def _rejected(request: PveRequest, msg_id: str, caller: str, began: float, config: Config) -> Response:
    asked = Asked(request.verb[:64], request.vm[:64], msg_id, caller)
    if request.verb not in VERBS:
        sentence, hint = f"no such verb: {json.dumps(request.verb[:40])}", f"one of {', '.join(VERBS)}"
    else:
        sentence, hint = config.explain_no_vm(request.vm)
    audit.request(began, "rejected", caller, ascii(asked.verb[:32])[1:-1], ascii(asked.vm[:32])[1:-1], msg_id)
    return _answered(answer_without_trailer(asked, "rejected", "rejected", f"{sentence}; nothing was sent", hint))


def _answered(answer: Answer) -> Response:
    if answer.outcome == "id-reused":
        return error_reply(_id_reused(answer))
    return JSONResponse(dict(answer.body), answer.status)


def _id_reused(answer: Answer) -> BreakglassError:
    verdict = answer.body.get("verdict")
    sentence = verdict["sentence"] if isinstance(verdict, dict) else "this id already belongs to something else"
    return IdReused(str(sentence), "use a new id")
