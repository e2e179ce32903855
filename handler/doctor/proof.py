"""doctor's last act: without an error, a signed status that each host records as its proof."""

import asyncio
import http.client
from collections.abc import AsyncIterator, Sequence

from ..budget import PROOF_SECONDS
from ..client import Signer
from ..config.model import Config, Vm
from ..findings import ERROR, Finding, ok, warning
from ..threads import run_in_thread
from ..times import rfc3339
from .http import Reply, failure, send_signed
from .visit import Visit

PLACE = "proof"
_CLOCKS_SECONDS = 43_200.0  # by which the host's clock may be behind, less than since yesterday's run


async def prove(visit: Visit, found: Sequence[Finding]) -> AsyncIterator[Finding]:
    """Yield for each host whether it has recorded that it is proven now, or why nothing was asked of it."""
    if any(finding.level == ERROR for finding in found):
        sentence = "No host is recorded as proven, because there are errors."
        yield warning(PLACE, "not-proven", sentence, "mend the errors above, then run doctor again")
    elif visit.config is None:
        yield ok(PLACE, "not-asked", "No host is recorded as proven, because the hosts were not looked at from here.")
    elif visit.signer is None:
        sentence = "No host is recorded as proven, because no signed request was sent."
        yield warning(PLACE, "not-proven", sentence, "export BREAKGLASS_SECRET_FILE=NAME.signing-key")
    else:
        proofs = [_Proof(visit.signer, vm, host) for host, vm in _one_of_each_host(visit.config, visit).items()]
        for finding in await asyncio.gather(*(proof.finish() for proof in proofs)):
            yield finding


def _one_of_each_host(config: Config, visit: Visit) -> dict[str, Vm]:
    """Return the VMs to ask for, by the host that has them: the first of each that the caller may act on."""
    callers = [caller for caller in config.callers if visit.signer and visit.signer.key in caller.keys]
    allowed = [vm for vm in visit.vms if not callers or callers[0].may_act_on(vm.name)]
    found: dict[str, Vm] = {}
    for vm in allowed:
        found.setdefault(visit.owners.get(vm.name, vm.host.name), vm)
    return found


class _Proof:
    """The signed status of one VM, for the host that has it."""

    def __init__(self, signer: Signer, vm: Vm, host: str) -> None:
        self._signer, self._vm, self._host = signer, vm.name, host

    async def finish(self) -> Finding:
        """Send it, and return what became of it; an answer that comes byte by byte is not waited for."""
        try:
            return await run_in_thread(self._run, PROOF_SECONDS)
        except TimeoutError:
            return self._not_proven(f"its status has no whole answer within {PROOF_SECONDS:g} s", "run doctor again")

    def _run(self) -> Finding:
        fields = {"verb": "status", "vm": self._vm, "proves": "doctor"}
        try:
            reply = send_signed(self._signer, "/pve", fields, PROOF_SECONDS / 2)
        except (OSError, http.client.HTTPException) as problem:
            return self._not_proven(f"its status has no answer: {failure(problem)}", "run doctor again")
        return self._judge(reply)

    def _judge(self, reply: Reply) -> Finding:
        outcome, state = reply.json.get("outcome"), reply.json.get("state")
        if outcome == "done" and state != "unknown":
            proven, since = reply.json.get("proven"), rfc3339(reply.began - _CLOCKS_SECONDS)
            if not isinstance(proven, dict) or proven.get("how") != "doctor" or str(proven.get("at")) < since:
                return self._not_proven("it did not record that", "on the host: df /run; df -i /run; date")
            sentence = f"{self._host} is proven at {proven['at']}: a signed status of {self._vm} is done."
            return ok(PLACE, "proven", sentence)
        why = str(reply.error.get("message") or f"the signed status of {self._vm} is {outcome}, {state}")
        return self._not_proven(why, str(reply.error.get("hint") or f"breakglass call status --vm {self._vm}"))

    def _not_proven(self, why: str, fix: str) -> Finding:
        return warning(PLACE, "not-proven", f"{self._host} is not recorded as proven: {why}.", fix)
