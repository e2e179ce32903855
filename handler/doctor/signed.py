"""Sends signed requests like a caller: checks the key, asks for each VM's status, and records the proof."""

import asyncio
import http.client
import os
from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from ..auth.signing import SIGNATURE
from ..base.budget import PROOF_SECONDS
from ..base.findings import ERROR, Finding
from ..base.manager import manager
from ..base.threads import run_in_thread
from ..base.times import rfc3339
from ..base.verdict import read_verdict
from ..client import Signer
from ..config.model import Config, Vm
from .http import Broken, Reply, failure, judge_stranger, send_signed
from .visit import HANDLER, HANDLER_UNIT, Visit, about

# --- Send signed requests like a caller, to check the key and to ask for each VM's status ---

_STATUS_SECONDS = 12.0  # a host that does not answer is noticed after 10 s
_AT_ONCE = 8
_NEW_KEY = "breakglass keys new NAME, then reload the handler"

Echo = Mapping[str, object]

found_ok, found_warning, found_error = about(HANDLER)


def look_at_key(visit: Visit, signer: Signer) -> Generator[Finding, None, Echo]:
    """Yield whether the handler accepts a signed request, and return its answer. Raises Broken otherwise."""
    reply = send_signed(signer, "/echo", {})
    if reply.status != 200 or "caller" not in reply.json:
        raise Broken(_judge_refusal(visit, signer, reply))
    yield found_ok("key-accepted", f"The handler accepts the signing key of {reply.json['caller']}.")
    if visit.config and not visit.problems and reply.json.get("config") not in ("", visit.config.digest):
        yield _judge_other(visit)
    return reply.json


def _judge_other(visit: Visit) -> Finding:
    """Return why the handler has another configuration: its unit names another file, or the file has changed."""
    words = visit.units.get(HANDLER_UNIT, {}).get("Environment", "").split()
    named = [word.partition("=")[2] for word in words if word.startswith("BREAKGLASS_CONFIG=")]
    if named and os.path.realpath(named[-1]) != os.path.realpath(str(visit.path)):
        sentence = f"The unit breakglass starts the handler with {named[-1]}, and not with {visit.path}."
        fix = "correct the path with systemctl edit breakglass, then run systemctl restart breakglass; to check that "
        fix += f"file, export BREAKGLASS_CONFIG={named[-1]}"
        return found_warning("config-other-file", sentence, fix)
    sentence = f"The handler runs with an older configuration: {visit.path} has changed since."
    return found_warning("config-not-loaded", sentence, f"breakglass check {visit.path} && {manager().reload}")


def _judge_refusal(visit: Visit, signer: Signer, reply: Reply) -> Finding:
    """Return why the handler, or something in front of it, does not accept a signed request."""
    code, message, hint = (str(reply.error.get(name, "")) for name in ("code", "message", "hint"))
    if code == "unauthorized":
        return _judge_unknown(visit, signer)
    if code == "wrong-handler":
        urls = ", ".join(visit.config.urls) if visit.config else str(reply.error.get("url"))
        fix = f'add "{signer.url}" to [server] url and run {manager().reload}'
        sentence = f"{signer.url} is not one of the handler's own addresses ({urls}), so the handler refuses requests."
        return found_error("wrong-handler", sentence, fix)
    if code == "forbidden":
        fix = f"{_NEW_KEY if 'expired' in message else hint}, and run {manager().reload}"
        return found_error("forbidden", f"The handler refuses this caller: {message}.", fix)
    if code:
        return found_error(code, f"The handler refuses a signed request: {message}.", hint)
    return judge_stranger(signer.url, "/echo", reply)


def _judge_unknown(visit: Visit, signer: Signer) -> Finding:
    config = visit.config
    if config and any(signer.key in caller.keys for caller in config.callers):
        sentence = "The running handler does not know this signing key, although the configuration file has the key."
        return found_error("key-not-loaded", sentence, f"breakglass check {visit.path} && {manager().reload}")
    names = [caller.name for caller in config.callers if caller.auth_method == SIGNATURE] if config else []
    known = f" of {' or '.join(names)}," if names else ""
    fix = f"set BREAKGLASS_SECRET_FILE to the signing key{known} or make a new one: {_NEW_KEY}, "
    fix += f"and run {manager().reload}"
    return found_error("key-unknown", f"The handler at {signer.url} does not know this signing key.", fix)


def look_at_vms(signer: Signer, names: Sequence[str]) -> Iterator[Finding]:
    """Yield the findings from a signed status of each VM."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield from pool.map(lambda name: _status(signer, name), names)


def _status(signer: Signer, vm: str) -> Finding:
    found_ok, found_warning, found_error = about(f"VM {vm}")
    try:
        reply = send_signed(signer, "/pve", {"verb": "status", "vm": vm}, timeout=_STATUS_SECONDS)
    except (OSError, http.client.HTTPException) as problem:
        sentence = f"A signed status request for {vm} gets no answer: {failure(problem)}."
        return found_error("status-no-answer", sentence, "fix what doctor reports about the VM's host")
    outcome, state = str(reply.json.get("outcome", "")), str(reply.json.get("state"))
    if reply.error.get("code") == "forbidden":
        message, hint = reply.error.get("message"), reply.error.get("hint")
        sentence = f"The caller can't request the status of {vm}: {message}."
        return found_error("status-forbidden", sentence, f"{hint}, and run {manager().reload}")
    if reply.error:
        sentence = f"A signed status request for {vm} is refused: {reply.error.get('message')}."
        return found_error("status-refused", sentence, str(reply.error.get("hint")) or manager().reload)
    if not outcome:
        return judge_stranger(signer.url, "/pve", reply)
    if outcome != "done":
        verdict = read_verdict(reply.json)
        why = f": {verdict.sentence}" if verdict.sentence else ""
        sentence = f"The answer to a signed status request for {vm} is {outcome}{why}."
        fix = "; ".join(verdict.evidence) or "fix what doctor reports about the VM's host"
        return found_error(f"status-{outcome}", sentence, fix)
    if state == "unknown":
        return found_warning("status-state", f"The state of {vm} is not known.", f"breakglass call forensics --vm {vm}")
    return found_ok("status", f"A signed status request for {vm} is done: {state}.")


# --- doctor's last step: if there is no error, send a signed status that each host records as its proof ---

proof_ok, proof_warning, _ = about("proof")
_CLOCKS_SECONDS = 43_200.0  # how far the host's clock may be behind, which is less than a day since yesterday's run


async def prove(visit: Visit, found: Sequence[Finding]) -> AsyncIterator[Finding]:
    """Yield for each host whether it has recorded the proof, or why it was not asked."""
    if any(finding.level == ERROR for finding in found):
        return  # the errors say what to do, and no host is proven before that
    if visit.config is None:
        yield proof_ok("not-asked", "No host is recorded as proven, because the hosts were not checked from here.")
    elif visit.signer is None:
        sentence = "No host is recorded as proven, because no signed request was sent."
        yield proof_warning("not-proven", sentence, "export BREAKGLASS_SECRET_FILE=NAME.signing-key")
    else:
        vms = _one_of_each_host(visit.config, visit).items()
        late = [host for host, _ in vms if any((each.place, each.code) == (f"host {host}", "qm") for each in found)]
        for host in late:
            yield _not_proven(host, "its qm gives no answer", f"fix what doctor reports about host {host}")
        asked = [ask_for_proof(visit.signer, vm.name, host) for host, vm in vms if host not in late]
        for finding in await asyncio.gather(*asked):
            yield finding


def _one_of_each_host(config: Config, visit: Visit) -> dict[str, Vm]:
    """Return the first VM of each host that the caller may act on."""
    callers = [caller for caller in config.callers if visit.signer and visit.signer.key in caller.keys]
    allowed = [vm for vm in visit.vms if not callers or callers[0].may_act_on(vm.name)]
    found: dict[str, Vm] = {}
    for vm in allowed:
        found.setdefault(visit.owners.get(vm.name, vm.host.name), vm)
    return found


async def ask_for_proof(signer: Signer, vm: str, host: str) -> Finding:
    """Send a signed status of a VM to prove its host. Does not wait for an answer that arrives too slowly."""
    fields = {"verb": "status", "vm": vm, "proves": "doctor"}
    try:
        send = partial(send_signed, signer, "/pve", fields, PROOF_SECONDS / 2)
        reply = await run_in_thread(send, PROOF_SECONDS)
    except Broken as end:
        return _not_proven(host, end.finding.sentence.rstrip("."), end.finding.fix)
    except (OSError, http.client.HTTPException) as problem:
        return _not_proven(host, f"the status request has no answer: {failure(problem)}", "run doctor again")
    return judge_proof(reply, vm, host)


def judge_proof(reply: Reply, vm: str, host: str) -> Finding:
    """Return a finding about whether the host has recorded the proof, according to the answer."""
    outcome, state = reply.json.get("outcome"), reply.json.get("state")
    if outcome == "done" and state != "unknown":
        proven, since = reply.json.get("proven"), rfc3339(reply.began - _CLOCKS_SECONDS)
        if not isinstance(proven, dict) or proven.get("how") != "doctor" or str(proven.get("at")) < since:
            return _not_proven(host, "the host did not record the proof", "on the host: df /run; df -i /run; date")
        return proof_ok(
            "proven", f"{host} is proven at {proven['at']}, because a signed status request for {vm} is done."
        )
    why = str(reply.error.get("message") or f"the answer to the signed status request for {vm} is {outcome}, {state}")
    return _not_proven(host, why, str(reply.error.get("hint") or f"breakglass call status --vm {vm}"))


def _not_proven(host: str, why: str, fix: str) -> Finding:
    return proof_warning("not-proven", f"{host} is not recorded as proven: {why}.", fix)
