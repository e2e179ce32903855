"""`breakglass drill`: the real thing, on a VM that is there for it: a signed alert, evidence, a cycle, its proof."""

import argparse
import contextlib
import json
import os
import re
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ..client import Event, HandlerError, NoAnswer, Signer, VerbCall, new_id, post
from ..client import call as send
from ..verbs import VERBS
from .call import show_result
from .environment import caller_key, handler_url
from .errors import CommandError, reason
from .output import DONE, FAILED, INTERRUPTED, UNKNOWN, UNREACHED, complain, drop_output, remark, say

_ID = re.compile(r"drill-([0-9]{8}T[0-9]{6}Z)-[0-9a-f]{12}", re.ASCII)
_RUNNING = re.compile(r"state: \w+ \(pid ([0-9]+);")  # how the output of a capture begins
_PID = re.compile(r"pid ([0-9]+)")
_EVIDENCE_SECONDS = 60.0  # a capture takes 20 s at most
_NOTHING = "nothing was changed"


class Failure(Exception):
    """Raised if a step does not do what it has to; the message says why, and `hint` what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass
class Drill:
    """One drill, with what is known of it so far. `vm_fate` says what happened to the VM."""

    signer: Signer
    vm: str
    id: str
    as_json: bool
    vm_fate: str = _NOTHING
    steps: list[dict[str, object]] = field(default_factory=list)
    capture: str = ""
    proven: object = None

    @property
    def again(self) -> str:
        """The command that asks for the same drill."""
        return f"to continue the same drill (it acts at most once): breakglass drill --vm {self.vm} --id {self.id}"

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Show a step when it is done, with its seconds; what is put into the list is said of it."""
        said: list[str] = []
        began = time.monotonic()
        yield said
        seconds = round(time.monotonic() - began, 1)
        self.steps.append({"step": name, "seconds": seconds, "sentence": "; ".join(said)})
        if not self.as_json:
            say(f"{seconds:6.1f} s  {name:<9} {'; '.join(said)}")

    def verb(self, verb: str, msg_id: str = "", **more: str) -> Event:
        """Run a verb on the VM; raise Failure unless it is done."""
        request = VerbCall(verb, self.vm, **more)
        try:
            result = send(self.signer, msg_id or new_id(), request, lambda _: None)
        except HandlerError as error:
            if verb == "cycle" and error.error.get("reached") is False and not error.sent:
                self.vm_fate = f"no cycle of {self.vm} was sent"
            raise
        if result["outcome"] != "done":
            raise _Undone(result)
        return result


class _Undone(Exception):
    def __init__(self, result: Event) -> None:
        super().__init__(str(result["outcome"]))
        self.result = result


def drill(arguments: argparse.Namespace) -> int:
    """Do a drill; return 0 if the VM's host is proven by it."""
    if arguments.id is not None and not _ID.fullmatch(arguments.id):
        raise CommandError(f'not the id of a drill: "{arguments.id}"', "copy it from that drill, or leave out --id")
    is_terminal = all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))
    if not (arguments.yes or is_terminal):
        raise CommandError(f"a drill power-cycles {arguments.vm}, and there is no terminal to ask at", "add --yes")
    signer = Signer(handler_url(os.environ), caller_key(os.environ))
    msg_id = arguments.id or f"drill-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(6)}"
    one = Drill(signer, arguments.vm, msg_id, arguments.json)
    for number in (signal.SIGTERM, signal.SIGHUP):  # they end it as Ctrl-C does
        signal.signal(number, signal.default_int_handler)
    code, why, hint = _run(one, arguments.yes)
    if code != DONE:
        _end(one, code, why, hint)
    return code


def _run(one: Drill, is_agreed: bool) -> tuple[int, str, str]:
    """Do the steps; return the exit code, and why there is no proof with what to do."""
    try:
        return _steps(one, is_agreed)
    except KeyboardInterrupt:
        return INTERRUPTED if one.vm_fate == _NOTHING else UNKNOWN, "you stopped the drill", ""
    except NoAnswer as lost:
        code = UNKNOWN if one.vm_fate != _NOTHING else FAILED if lost.sent else UNREACHED
        return code, f"{one.signer.url}: {lost}", lost.hint
    except HandlerError as error:
        return FAILED, str(error), error.hint
    except _Undone as undone:
        return _explain(one, undone.result)
    except Failure as failure:
        return FAILED, str(failure), failure.hint
    except OSError as error:
        return UNKNOWN, f"can't write the output: {reason(error)}", ""
    except Exception as defect:  # whatever it is, the VM's fate has to be said
        return UNKNOWN, f"the command itself failed: {defect!r}", "run the command below, and report this line"


def _explain(one: Drill, result: Event) -> tuple[int, str, str]:
    """Return why a verb of the drill is not done; show its answer if it was the cycle."""
    outcome, verb = str(result["outcome"]), str(result["verb"])
    verdict = result.get("verdict")
    sentence = str(verdict.get("sentence")) if isinstance(verdict, dict) else ""
    hints = verdict.get("evidence") if isinstance(verdict, dict) else None
    if verb == "cycle":
        is_old = isinstance(verdict, dict) and verdict.get("code") == "agent-refused"  # it does not know `proves`
        if is_old or outcome in ("rejected", "busy", "refused", "unreached"):
            one.vm_fate = f"the cycle of {one.vm} did not begin, so {_NOTHING}"
        elif outcome == "failed":
            one.vm_fate = f"the cycle of {one.vm} failed, and its state is {result['state']}"
            if not one.as_json:
                show_result(result)
        else:
            one.vm_fate = f"the cycle of {one.vm} may have run, or still runs"
    code = UNREACHED if outcome == "unreached" else FAILED
    if verb == "cycle" and outcome in ("unknown", "running"):
        code = UNKNOWN
    return code, f"{verb} is {outcome}: {sentence}", "; ".join(map(str, hints)) if isinstance(hints, list) else ""


def _end(one: Drill, code: int, why: str, hint: str) -> None:
    """Say why the drill proves nothing, what happened to the VM, and how to go on."""
    try:
        complain(f"the drill has proven nothing: {why}; {one.vm_fate}", hint)
        if code == UNKNOWN or one.vm_fate != _NOTHING:
            remark("", one.again)
        if one.as_json:
            _print_json(one, "unknown" if code == UNKNOWN else "failed", why)
        sys.stdout.flush()
    except OSError:
        drop_output()


def _print_json(one: Drill, outcome: str, why: str = "") -> None:
    report = {"vm": one.vm, "id": one.id, "outcome": outcome, "why": why, "vm_fate": one.vm_fate}
    say(json.dumps({**report, "capture": one.capture, "steps": one.steps, "proven": one.proven}))


# --- the steps ---


def _steps(one: Drill, is_agreed: bool) -> tuple[int, str, str]:
    with one.step("status") as said:
        state = str(one.verb("status")["state"])
        said.append(f"{one.vm} is {state}")
    if state != "running" and not is_agreed:
        raise Failure(f"{one.vm} is {state}, not running", f"breakglass call start --vm {one.vm}")
    if not is_agreed and not _agrees(one):
        raise Failure("you did not agree")
    remark(f"if this is cut off, {one.again}" if not one.as_json else "")
    with one.step("alert") as said:
        one.capture = _send_alert(one)
        said.append(f"the handler accepted it, and the host began the capture {one.capture}")
    with one.step("evidence") as said:
        before, verdict = _wait_for_evidence(one)
        said.append(f"the capture is in history, with the verdict {verdict}")
    with one.step("cycle") as said:
        one.vm_fate = f"the cycle of {one.vm} may have run, or still runs"
        cycle = one.verb("cycle", one.id, reason="a drill", proves="drill")
        one.vm_fate = f"the cycle of {one.vm} is done, and its state is {cycle['state']}"
        said.append(f"done, {cycle['state']} (id {one.id})")
    with one.step("proof") as said:
        said += _prove(one, before, cycle)
    with one.step("proven") as said:
        said.append(_read_proven(one, cycle))
    if one.as_json:
        _print_json(one, "proven")
    return DONE, "", ""


def _agrees(one: Drill) -> bool:
    remark(f"{VERBS['cycle'].consequence} The drill does this to {one.vm} now.")
    try:
        return input(f"Power-cycle {one.vm} for a drill? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _send_alert(one: Drill) -> str:
    """Send what a monitoring system would; return the id of the capture that it has started."""
    match = _ID.fullmatch(one.id)
    assert match is not None
    begins = datetime.strptime(match[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)  # the same again for the same id
    payload = {"status": "firing", "labels": {"drill": one.vm}, "annotations": {"summary": "a drill"}}
    payload |= {"fingerprint": one.id, "starts_at": begins.isoformat()}
    [answer] = post(one.signer, "/alert/generic", new_id(), payload)
    accepted, failed = answer.get("accepted"), answer.get("failed")
    if isinstance(failed, list) and failed:
        raise Failure(f"the host refused the capture: {failed[0].get('code')}", f"breakglass call status --vm {one.vm}")
    if not isinstance(accepted, list) or not accepted:
        hint = f"set drill = true under [vms.{one.vm}] if it may be power-cycled at any time, and reload the handler"
        raise Failure(f"{one.vm} is not a VM for drills", hint)
    return str(accepted[0].get("job"))


def _wait_for_evidence(one: Drill) -> tuple[str, str]:
    """Return the process of QEMU that the capture saw, and its verdict."""
    until = time.monotonic() + _EVIDENCE_SECONDS
    while True:
        job = one.verb("history", job=one.capture).get("job")
        if isinstance(job, dict) and job.get("outcome"):
            break
        if time.monotonic() > until:
            raise Failure(f"the capture {one.capture} did not end", f"breakglass call history --job {one.capture}")
        time.sleep(0.5)
    verdict, output = job.get("verdict"), str(job.get("output"))
    if job["outcome"] != "done" or not isinstance(verdict, dict) or not output:
        raise Failure(f"the capture is {job['outcome']}, without evidence", f"breakglass call forensics --vm {one.vm}")
    seen = _RUNNING.search(output)
    return seen[1] if seen else "", str(verdict.get("code"))


def _prove(one: Drill, before: str, cycle: Event) -> list[str]:
    """Return what shows that the cycle was one; raise Failure for what does not."""
    status = one.verb("status")
    found = _PID.search(str(status.get("stdout")))
    if status["state"] != "running" or found is None:
        raise Failure(f"{one.vm} is {status['state']} after the cycle", f"breakglass call start --vm {one.vm}")
    if found[1] == before:
        raise Failure(f"QEMU is the same process as before the cycle, {before}", "report this: a cycle has to end it")
    history = one.verb("history", job=one.id)
    job, place, chain = history.get("job"), cycle.get("chain"), history.get("chain")
    if not isinstance(job, dict) or (job.get("verb"), job.get("outcome")) != ("cycle", "done"):
        raise Failure("history does not have the cycle as done", "breakglass-pve check, on the host as root")
    if not isinstance(place, dict) or not isinstance(chain, dict) or not _is_in_chain(place, chain):
        raise Failure("the chain of jobs does not have the cycle", "breakglass-pve check, on the host as root")
    new = f"process {found[1]} of QEMU runs" + (f", {before} has ended" if before else "")
    return [
        "it runs again",
        new,
        f"line {place['n']} of the chain of {place['node']} is this job",
        "its record says done",
    ]


def _is_in_chain(place: Mapping[str, object], chain: Mapping[str, object]) -> bool:
    """Tell whether the chain is whole and has the line of a job at its place."""
    hashes, newest, number = chain.get("hashes"), chain.get("n"), place.get("n")
    if chain.get("broken") or not (isinstance(hashes, list) and isinstance(newest, int) and isinstance(number, int)):
        return False
    back = newest - number + 1
    return 1 <= back <= len(hashes) and hashes[-back] == str(place.get("head"))[:16]


def _read_proven(one: Drill, cycle: Event) -> str:
    """Return when and by whom the host was proven, as the job says; raise Failure unless it was this drill.

    A doctor may have proven the host since, so a status would not do.
    """
    proven, began = cycle.get("proven"), str(cycle.get("started"))
    if not isinstance(proven, dict) or proven.get("how") != "drill" or str(proven.get("at")) < began:
        raise Failure("the host could not record that it is proven", "on the host: df /run; df -i /run")
    one.proven = proven
    return f"{one.vm} and its host are proven: {proven['at']}, by {proven['by']}"
