"""POST /chat: start, attach to or cancel a turn, list or replay conversations, if the caller may do so.

It imports no module of chat that could fail, so a defect there leaves the other routes working (chat/service.py).
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
from .request import ChatRequest, TurnUnknown, parse_chat_body, turn_key
from .service import ChatService

if TYPE_CHECKING:
    from .turns import Chat


async def chat(request: Request) -> Response:
    """Stream the events of a turn or conversation, one per line. `list` and `cancel` return one object."""
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
        turn = turns.build(body, signed, config.session_secrets, now, partial(choose_vm, config, signed))
        read = partial(service.read, turn.vm)
        if body.about and not turn.resume:
            from .proposals import quote_opinion

            check_permission(signed.caller, "history", turn.vm.name, now)
            turn = await quote_opinion(turn, read, body.about)
        lines = await turns.request(turn, read)
        audit.request(began, "turn", signed.caller.name, "chat", turn.vm.name, signed.id)
        return StreamingResponse(lines, media_type=NDJSON)
    if body.list or body.replay:
        return await look_back(turns, config, signed, body, began, now)
    key = turn_key(signed.caller.name, body.attach or body.cancel)
    running = turns.running.get(key)  # clients can follow a running turn even if the disk hangs
    stored = None if running is not None else await turns.disk.run(turns.store.find, key)
    found = running.request.vm.name if running is not None else getattr(stored, "vm", None)
    check_known(config, signed, body.attach or body.cancel, found)
    audit.request(began, "attach" if body.attach else "cancel", signed.caller.name, "chat", msg_id=signed.id)
    if body.attach:
        return StreamingResponse(turns.follow(key, body.after), media_type=NDJSON)
    turns.cancel(key)
    return JSONResponse({"cancelled": body.cancel}, 202)


async def look_back(
    turns: "Chat", config: Config, signed: Signed, body: ChatRequest, began: float, now: float
) -> Response:
    """Return the list of the caller's conversations, or the replay of one."""
    from .conversations import find, find_all, replay
    from .tokens import unseal

    name, keys = signed.caller.name, config.session_secrets
    if body.list:

        def may_see(vm: str) -> bool:
            return vm in config.vms and signed.caller.may_act_on(vm)

        found = await turns.disk.run(find_all, turns.store, name, keys, may_see, now)
        audit.request(began, "list", name, "chat", msg_id=signed.id)
        return JSONResponse({"sessions": found})
    session = unseal(body.session, keys, name, now)
    vm = choose_vm(config, signed, session.vm).name
    conversation = await turns.disk.run(find, turns.store, name, session.sid, vm)
    audit.request(began, "replay", name, "chat", vm, signed.id)
    return StreamingResponse(replay(turns.store, turns.disk, keys, conversation), media_type=NDJSON)


def choose_vm(config: Config, signed: Signed, name: str) -> Vm:
    """Return the VM to chat about. Raises BadRequest if there is none, Forbidden if the caller may not chat."""
    vm = config.vm_named(name)
    if vm is None:
        raise BadRequest(*config.explain_no_vm(name))
    check_permission(signed.caller, "chat", vm.name, time.time())
    return vm


def check_known(config: Config, signed: Signed, turn: str, vm: str | None) -> None:
    """Raise TurnUnknown if a turn does not exist, or if the caller no longer has access to its VM."""
    if vm is None or vm not in config.vms or not signed.caller.may_act_on(vm):
        raise TurnUnknown(
            f"you have no turn {turn}", "finished turns are kept for 30 days; send the prompt with a new id"
        )
