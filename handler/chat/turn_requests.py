"""The turn that a body of POST /chat asks for, and what claude gets to know of its earlier proposals."""

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..auth.signing import Signed
from ..base.errors import Lost, Unreached
from ..claude.command import ClaudeTurn
from ..config.model import Vm
from ..proxmox.outcome import Message
from ..proxmox.wire import job_line
from .request import ChatRequest, SessionInvalid
from .sessions import LIFETIME, Session, check_directory, seal, unseal

# --- Finds out what became of claude's proposals, and words it for the beginning of claude's next turn ---
#
# The VM's host answers this, because neither the client nor claude is a trusted source. A proposal without a final
# answer is looked up again at the next turn.

SECONDS = 3.0
MOST = 8  # only the newest proposals are looked up

Proposal = Mapping[str, str]  # verb, job
Read = Callable[[str], Awaitable[list[Message]]]


async def fetch_outcomes(read: Read, vmid: int, proposals: Sequence[Proposal]) -> tuple[str, list[Proposal]]:
    """Return the text that claude gets, and the proposals that are still open."""
    newest = proposals[-MOST:]
    outcomes = await asyncio.gather(*(_fetch_outcome(read, vmid, each) for each in newest))
    pairs = list(zip(newest, outcomes, strict=True))
    text = " ".join(f"You proposed {proposal['verb']}: {sentence}." for proposal, (sentence, _) in pairs)
    still_open = [proposal for proposal, (_, is_final) in pairs if not is_final]
    return (f"[From breakglass, not from the operator. {text}]\n\n" if text else ""), still_open


async def _fetch_outcome(read: Read, vmid: int, proposal: Proposal) -> tuple[str, bool]:
    """Return what became of one proposal, and whether that is final."""
    try:
        async with asyncio.timeout(SECONDS):
            job = (await read(job_line(vmid, proposal["job"])))[-1].get("whole_job")
    except (TimeoutError, Unreached, Lost):
        return "the host can't be reached now, so it is unknown whether it was approved", False
    if not isinstance(job, dict):
        return "it is not approved, so it has not run", False
    approved = f"{job.get('by')} approved it"
    if job.get("outcome") is None:
        return f"{approved}, and it is running", False
    verdict = job.get("verdict")
    why = f" ({verdict.get('sentence')})" if isinstance(verdict, dict) and verdict.get("sentence") else ""
    return f"{approved}, and it ended: {job['outcome']}{why}", True


# --- The turn that a body of POST /chat asks for. Pure, except for the random id of a new session ---


@dataclass(frozen=True, kw_only=True)
class TurnRequest(ClaudeTurn):
    """A turn that a caller may start. `turn` is its webhook-id, and `typed` the prompt as the operator wrote it."""

    turn: str
    caller: str
    token: str = ""
    digest: str = ""
    still_open: Sequence[Mapping[str, str]] = ()  # proposals of earlier turns
    typed: str = ""

    @property
    def metadata(self) -> dict[str, str]:
        """What the store keeps about the turn beside its events."""
        return {"vm": self.vm.name, "sid": self.sid, "digest": self.digest}

    @property
    def record(self) -> dict[str, str]:
        """What the store keeps of a turn that is started: what was typed, too."""
        return {**self.metadata, "prompt": self.typed}


async def build_turn_request(
    body: ChatRequest,
    signed: Signed,
    keys: Sequence[str],
    now: float,
    choose_vm: Callable[[str], Vm],
    find_id: Callable[[], Awaitable[str]],
) -> TurnRequest:
    """Return the turn to start. Raises SessionInvalid, SessionElsewhere, and what the two functions raise.

    `choose_vm` returns the VM of a name, or the only one for an empty name, and decides whether the caller may chat
    about it. `find_id` returns the id of sessions.dir.
    """
    caller = signed.caller.name
    old = unseal(body.session, keys, caller, now) if body.session else None
    if old is not None and body.vm and body.vm != old.vm:
        raise SessionInvalid(f"the session is for another VM, {old.vm}", "begin a new conversation")
    vm = choose_vm(old.vm if old is not None else body.vm)
    directory = await find_id()
    if old is not None:
        check_directory(old, directory)
    sid = old.sid if old is not None else str(uuid.uuid4())
    token = seal(Session(sid, caller, vm.name, int(now) + LIFETIME, directory), keys)
    parts = (f"{body.tools}:{body.vm}" if body.tools else body.vm, body.session, body.prompt)
    return TurnRequest(
        vm=vm,
        prompt=body.prompt,
        sid=sid,
        resume=old is not None,
        tools=body.tools,
        turn=signed.id,
        caller=caller,
        token=token,
        digest=hashlib.sha256("\n".join(parts).encode()).hexdigest(),
        typed=body.prompt,
    )


async def prepend_outcomes(request: TurnRequest, read: Read, proposals: Sequence[Proposal]) -> TurnRequest:
    """Return the turn with the outcomes of the session's proposals at the beginning of its prompt."""
    text, still_open = await fetch_outcomes(read, request.vm.vmid, proposals)
    return replace(request, prompt=text + request.prompt, still_open=still_open)
