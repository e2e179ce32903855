"""POST /chat: start a turn, attach to one or cancel one, list conversations or replay one. Decides who may do so.

Imports nothing of chat that could fail: a defect there leaves the other routes working (chat/service.py).
"""

import time
from functools import partial
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from ..auth.challenge import check_time
from ..auth.signing import Signed
from ..base import audit
from ..base.errors import BadRequest
from ..config.model import Config, Vm
from ..service import Service
from ..web.admission import check_permission
from ..web.gate import SignedRequest
from ..web.replies import NDJSON
from .request import ChatRequest, TurnUnknown, parse_chat_body
from .service import ChatService

if TYPE_CHECKING:
    from .turns import Chat


async def chat(request: Request) -> Response:
    """Stream the events of a turn or conversation, one a line; `list` and `cancel` get an object."""
    service: Service = request.state.service
    chatting: ChatService = request.state.chatting
    arrival: SignedRequest = request.state.signed
    signed, began = arrival.signed, arrival.began
    body, config, now = parse_chat_body(arrival.body), service.config, time.time()
    config.check_recipient(body.to)
    check_time(signed, body.challenge, int(now), config.session_secrets)
    check_permission(signed.caller, "chat", None, now)
    turns = await chatting.chat(stops=bool(body.cancel))
    if body.prompt:
        turn = await turns.build_request(body, signed, config.session_secrets, now, partial(choose_vm, config, signed))
        turn_dir = await turns.request(turn, partial(service.read, turn.vm))
        audit.request(began, "turn", signed.caller.name, "chat", turn.vm.name, signed.id)
        return StreamingResponse(turns.follow(turn_dir, 0), media_type=NDJSON)
    if body.list or body.replay:
        return await look_back(turns, config, signed, body, began, now)
    turn_dir = turns.store.turn_dir(signed.caller.name, body.attach or body.cancel)
    metadata = await turns.metadata(turn_dir)
    if metadata is None and body.session:
        await turns.check_session(body.session, config.session_secrets, signed.caller.name, now)
    check_known(config, signed, body.attach or body.cancel, metadata)
    audit.request(began, "attach" if body.attach else "cancel", signed.caller.name, "chat", msg_id=signed.id)
    if body.attach:
        return StreamingResponse(turns.follow(turn_dir, body.after), media_type=NDJSON)
    await turns.cancel(turn_dir)
    return JSONResponse({"cancelled": body.cancel}, 202)


async def look_back(
    turns: "Chat", config: Config, signed: Signed, body: ChatRequest, began: float, now: float
) -> Response:
    """Answer with the caller's conversations, or with what was said in one."""
    caller, keys = signed.caller, config.session_secrets
    replay = await turns.open_replay(caller.name, keys)
    if body.list:
        found = await replay.find_all(lambda vm: vm in config.vms and caller.may_act_on(vm), now)
        audit.request(began, "list", caller.name, "chat", msg_id=signed.id)
        return JSONResponse({"sessions": found})
    session = await turns.check_session(body.session, keys, caller.name, now)
    vm = choose_vm(config, signed, session.vm).name
    conversation = await replay.find(session.sid, vm)
    audit.request(began, "replay", caller.name, "chat", vm, signed.id)
    return StreamingResponse(replay.lines(conversation), media_type=NDJSON)


def choose_vm(config: Config, signed: Signed, name: str) -> Vm:
    """Return the VM to chat about; raise BadRequest for none, Forbidden for one that the caller may not chat about."""
    vm = config.vm_named(name)
    if vm is None:
        raise BadRequest(*config.explain_no_vm(name))
    check_permission(signed.caller, "chat", vm.name, time.time())
    return vm


def check_known(config: Config, signed: Signed, turn: str, metadata: dict[str, str] | None) -> None:
    """Raise TurnUnknown for a turn that does not exist, or is about a VM that is no longer this caller's."""
    if metadata is None or metadata["vm"] not in config.vms or not signed.caller.may_act_on(metadata["vm"]):
        raise TurnUnknown(
            f"you have no turn {turn}", "finished turns are kept for 30 days; send the prompt with a new id"
        )
