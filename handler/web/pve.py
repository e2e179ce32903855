"""POST /pve: run a verb on a VM for an authenticated request, or answer why it can't run."""

import json
import time

from starlette.requests import Request
from starlette.responses import Response

from ..auth.signing import Signed
from ..base import audit
from ..base.text import shown
from ..base.verbs import VERBS
from ..config.model import Config
from ..proxmox.outcome import rejected_answer
from ..proxmox.request import VerbRequest
from ..service import Service
from .admission import admit
from .bodies import VerbBody, parse_verb_body
from .client_headers import preferred_wait
from .gate import SignedRequest
from .reads import Answering, AttachedRun, ReadsUnderWay
from .replies import NDJSON, encoded_reply, stream_reply
from .states import ask_about_host


async def pve(request: Request) -> Response:
    """Run a verb. Answer with one object, or with a stream of lines."""
    service: Service = request.state.service
    arrival: SignedRequest = request.state.signed
    signed, began = arrival.signed, arrival.began
    now, body = time.time(), parse_verb_body(arrival.body)
    audit.add(reason=body.reason)
    vm = admit(service.config, signed, body, now)
    if vm is None:
        return _reject(body, signed, began, service.config)
    wanted = body.permitted(vm, signed.id, signed.caller, now)
    if body.verb == "states":
        wanted = ask_about_host(wanted, service.places.host_of(vm), service.config)
    run = _run(service, request.state.reads, wanted, began)
    if NDJSON in request.headers.get("accept", ""):
        return stream_reply(run.stream(service.answers_due))
    seconds = preferred_wait(request.headers.getlist("prefer"))
    answer = await run.finished(service.answers_due, seconds)
    reply = encoded_reply(answer.encoded, answer.status, is_shared=isinstance(run, AttachedRun))
    if seconds is not None:
        reply.headers["preference-applied"] = f"wait={seconds}"
    return reply


def _run(service: Service, reads: ReadsUnderWay, wanted: VerbRequest, began: float) -> Answering:
    """Start a verb, or share the run of an earlier read. A power verb always starts its own run."""
    if wanted.rules.mutating:
        return service.run(wanted, began)
    return reads.attach(wanted, began) or reads.add(wanted, service.run(wanted, began))


def _reject(body: VerbBody, signed: Signed, began: float, config: Config) -> Response:
    caller, verb, vm = signed.caller.name, body.verb, body.vm
    code, sentence, hint = "no-usable-vm", *config.explain_no_vm(vm)
    if verb not in VERBS:
        code, sentence, hint = "no-such-verb", f"no such verb: {json.dumps(verb[:40])}", f"use {', '.join(VERBS)}"
    audit.request(began, "rejected", caller, shown(verb), shown(vm), signed.id)
    answer = rejected_answer(verb[:64], vm[:64], signed.id, caller, code, f"{sentence}; nothing was sent", hint)
    return encoded_reply(answer.encoded, answer.status)
