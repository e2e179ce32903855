"""Finds the outcomes of claude's proposals, and describes them at the beginning of claude's next turn.

The VM's host answers this, because neither the client nor claude is a trusted source. A proposal without a final answer
is looked up again at the next turn.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from ..base.errors import Lost, Unreached
from ..base.text import plain_line
from ..base.verdict import read_verdict
from ..proxmox.outcome import Message
from ..proxmox.wire import line_of
from .request import Proposal, TurnRequest

SECONDS = 3.0
MOST = 8  # only the newest proposals are looked up
OPINION_CHARS = 300

Read = Callable[[str], Awaitable[list[Message]]]


async def prepend_outcomes(request: TurnRequest, read: Read, proposals: Sequence[Proposal]) -> TurnRequest:
    """Return the turn with the outcomes of the session's proposals added."""
    newest = proposals[-MOST:]
    found = await asyncio.gather(*(_fetch_outcome(read, request.vm.vmid, each) for each in newest))
    pairs = list(zip(newest, found, strict=True))
    text = " ".join(f"You proposed {proposal['verb']}: {sentence}." for proposal, (sentence, _) in pairs)
    still_open = [proposal for proposal, (_, is_final) in pairs if not is_final]
    outcomes = f"[From breakglass, not from the operator. {text}]\n\n" if text else ""
    return replace(request, outcomes=outcomes, still_open=still_open)


async def quote_opinion(request: TurnRequest, read: Read, job: str) -> TurnRequest:
    """Return the first turn of a conversation that continues from the opinion on a capture, if the host has one."""
    found: object = None
    with suppress(TimeoutError, Unreached, Lost):
        async with asyncio.timeout(SECONDS):
            found = (await read(line_of("job", request.vm.vmid, id=job)))[-1].get("whole_job")
    opinion = found.get("opinion") if isinstance(found, dict) else None
    if not isinstance(opinion, dict):
        return request
    said = json.dumps(plain_line(str(opinion.get("text")))[:OPINION_CHARS], ensure_ascii=False)
    text = f"Without tools, and perhaps misled by the evidence, you have said about the capture {job}: {said}"
    return replace(request, outcomes=f"[From breakglass, not from the operator. {text}]\n\n")


async def _fetch_outcome(read: Read, vmid: int, proposal: Proposal) -> tuple[str, bool]:
    """Return the outcome of one proposal, and whether it is final."""
    try:
        async with asyncio.timeout(SECONDS):
            found = (await read(line_of("job", vmid, id=proposal["job"])))[-1]
    except (TimeoutError, Unreached, Lost):
        return "the host can't be reached now, so it is not known whether the proposal was approved", False
    job = found.get("whole_job")
    if not isinstance(job, dict) and found.get("last") not in (None, proposal.get("last")):
        return "another verb has changed the VM's power, so the proposal can't be approved any more", True
    if not isinstance(job, dict):
        return "the proposal is not approved, so the verb has not run", False
    approved = f"{job.get('by')} approved it"
    if job.get("outcome") is None:
        return f"{approved}, and it is running", False
    why = f" ({sentence})" if (sentence := read_verdict(job).sentence) else ""
    return f"{approved}, and it ended: {job['outcome']}{why}", True
