"""What became of what claude proposed: asked of the host, which remembers, and told to claude as its next turn begins.

Nobody's word is taken for it, neither the client's nor claude's. What is not settled is asked about again next time.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from ..proxmox.outcome import Lost, Message, Unreached

SECONDS = 3.0
MOST = 8  # of the newest that a turn begins with

Proposal = Mapping[str, str]  # verb, job
Read = Callable[[str], Awaitable[list[Message]]]


async def outcomes(read: Read, vmid: int, proposals: Sequence[Proposal]) -> tuple[str, list[Proposal]]:
    """Return what to tell claude, and which proposals are still open."""
    newest = proposals[-MOST:]
    found = await asyncio.gather(*(_outcome(read, vmid, each) for each in newest))
    told = " ".join(f"You proposed {each['verb']}: {said}." for each, (said, _) in zip(newest, found, strict=True))
    still = [each for each, (_, settled) in zip(newest, found, strict=True) if not settled]
    return (f"[From breakglass, not from the operator. {told}]\n\n" if told else ""), still


async def _outcome(read: Read, vmid: int, proposal: Proposal) -> tuple[str, bool]:
    """Return what became of one proposal, and whether that is its end."""
    try:
        async with asyncio.timeout(SECONDS):
            job = (await read(f"job vm={vmid} id={proposal['job']}"))[-1].get("whole_job")
    except (TimeoutError, Unreached, Lost):
        return "the host can't be asked now whether it was approved", False
    if not isinstance(job, dict):
        return "nobody has approved it, so it has not run", False
    who = f"{job.get('by')} approved it"
    if job.get("outcome") is None:
        return f"{who}, and it is running", False
    verdict = job.get("verdict")
    why = f" ({verdict.get('sentence')})" if isinstance(verdict, dict) and verdict.get("sentence") else ""
    return f"{who}, and it ended: {job['outcome']}{why}", True
