"""POST /chat: start a turn, attach to one, or cancel one. Who may, and about which VM, is decided here."""

import hashlib
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from .. import audit
from ..auth.challenge import check_time
from ..auth.signing import Signed
from ..config.model import Config, Vm
from ..errors import BadRequest, IdReused, SessionInvalid, TurnUnknown
from ..service import Service
from .admission import check_permission
from .bodies import ChatRequest, chat_request
from .gate import signed_request
from .replies import NDJSON

if TYPE_CHECKING:
    from ..chat.launch import Ask
    from ..chat.turns import Chat


async def chat(request: Request) -> Response:
    """Answer with the turn's events, one a line; a cancellation with what was cancelled."""
    service: Service = request.state.service
    signed, body, began = signed_request(request.scope["state"])
    asked = chat_request(body)
    check_time(signed, asked.challenge, int(time.time()), service.config.session_secrets)
    may_chat(service.config, signed)
    turns = await service.chatting.chat(stops=bool(asked.cancel))
    if asked.prompt:
        ask = what_is_asked(service.config, signed, asked)
        if ask.resume and await turns.about(turns.store.place(ask.caller, ask.turn)) is None:
            ask = await with_outcomes(service, turns, ask)
        place = await turns.begin(ask)
        about = await turns.about(place)
        if about is not None and about["digest"] != ask.digest:
            raise IdReused("this id already belongs to another turn", "use a new id", reached=False)
        audit.request(began, "turn", signed.caller.name, "chat", ask.vm.name, signed.id)
        return StreamingResponse(turns.follow(place, 0), media_type=NDJSON)
    place = await known_turn(turns, service.config, signed, asked.attach or asked.cancel)
    audit.request(began, "attach" if asked.attach else "cancel", signed.caller.name, "chat", msg_id=signed.id)
    if asked.attach:
        return StreamingResponse(turns.follow(place, asked.after), media_type=NDJSON)
    await turns.cancel(place)
    return JSONResponse({"cancelled": asked.cancel}, 202)


def may_chat(config: Config, signed: Signed, vm: Vm | None = None) -> None:
    """Raise Forbidden unless the caller may chat at all, and about this VM where one is given."""
    check_permission(signed.caller, "chat", vm.name if vm is not None else None, time.time())


def what_is_asked(config: Config, signed: Signed, asked: ChatRequest) -> "Ask":
    """Return the turn to begin; raise SessionInvalid, Forbidden or BadRequest."""
    from ..chat.launch import Ask
    from ..chat.sessions import LIFETIME, Session, seal, unseal

    keys, now, caller = config.session_secrets, time.time(), signed.caller.name
    old = unseal(asked.session, keys, caller, now) if asked.session else None
    if old is not None and asked.vm and asked.vm != old.vm:
        raise SessionInvalid(f"the session is about {old.vm}", "leave it out to begin a new conversation")
    vm = chosen_vm(config, old.vm if old is not None else asked.vm)
    may_chat(config, signed, vm)
    sid = old.sid if old is not None else str(uuid.uuid4())
    token = seal(Session(sid, caller, vm.name, int(now) + LIFETIME), keys)
    digest = hashlib.sha256(f"{asked.vm}\n{asked.session}\n{asked.prompt}".encode()).hexdigest()
    return Ask(signed.id, caller, vm, asked.prompt, sid, old is not None, token, digest)


async def with_outcomes(service: Service, turns: "Chat", ask: "Ask") -> "Ask":
    """Return the turn with a prompt that begins with what became of the session's proposals."""
    from ..chat.proposals import outcomes

    proposals = await turns.proposals(ask.sid)
    told, still = await outcomes(lambda line: service.read(ask.vm, line), ask.vm.vmid, proposals)
    return replace(ask, prompt=told + ask.prompt, still_open=still)


def chosen_vm(config: Config, name: str) -> Vm:
    """Return the VM that is meant; raise BadRequest for none."""
    vm = config.vm_named(name)
    if vm is None:
        message = f"no such VM: {name[:40]!a}" if name else "there are several VMs; name one"
        raise BadRequest(message, f"one of {', '.join(config.vms)}")
    return vm


async def known_turn(turns: "Chat", config: Config, signed: Signed, turn: str) -> Path:
    """Return where a turn of this caller's is; raise TurnUnknown, also for one about a VM that is not his any more."""
    place = turns.store.place(signed.caller.name, turn)
    about = await turns.about(place)
    if about is None or about["vm"] not in config.vms or not signed.caller.may_act_on(str(about["vm"])):
        raise TurnUnknown(
            f"you have no turn {turn}", "finished turns are kept for a day; send the prompt with a new id"
        )
    return place
