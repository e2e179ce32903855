"""`breakglass drill`: a real rescue of a VM that is reserved for drills: signed alert, evidence, cycle, proof."""

import argparse
import json
import os
import secrets
import signal
import sys
from datetime import UTC, datetime

from ..base.verbs import VERBS
from ..client import Event, HandlerError, NoAnswer
from .answers import show_document, show_result
from .drill_steps import ID, NOTHING, Drill, Undone, prove, read_proven, send_alert, wait_for_evidence
from .environment import own_signer
from .guest_return import await_guest
from .output import (
    DONE,
    FAILED,
    INTERRUPTED,
    UNKNOWN,
    UNREACHED,
    CommandError,
    agrees,
    complain,
    drop_output,
    has_person,
    reason,
    remark,
    say,
)


def add_drill(parser: argparse.ArgumentParser) -> None:
    """Describe `drill`."""
    parser.description = (
        "Do a real rescue of a VM that has drill = true: send a signed alert, wait for its evidence, power-cycle the "
        "VM, and prove that this happened. Unsaved work in the VM is lost. Its host then records that it is proven. "
        "It needs the signing key of a caller that may do status, forensics, history and cycle."
    )
    parser.add_argument("--vm", required=True, metavar="NAME", help="the VM, which needs drill = true")
    parser.add_argument(
        "--yes", action="store_true", help="don't ask before the power cycle (required if there is no terminal)"
    )
    parser.add_argument("--id", metavar="ID", help="continue this earlier drill; it acts at most once")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.set_defaults(run=drill)


def drill(arguments: argparse.Namespace) -> int:
    """Do a drill. Return 0 if it proves the VM's host."""
    if not arguments.vm:
        raise CommandError("the VM's name is empty; nothing was sent", "write the VM's name")
    if arguments.id is not None and not ID.fullmatch(arguments.id):
        raise CommandError(
            f'this is not the id of a drill: "{arguments.id}"', "copy it from that drill, or leave out --id"
        )
    if not (arguments.yes or has_person()):
        raise CommandError(
            f"a drill power-cycles {arguments.vm}, but there is no terminal at which to ask you", "add --yes"
        )
    signer = own_signer(os.environ)
    msg_id = arguments.id or f"drill-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(6)}"
    one = Drill(signer, arguments.vm, msg_id, arguments.json, is_continued=arguments.id is not None)
    for number in (signal.SIGTERM, signal.SIGHUP):  # these signals end the drill as Ctrl-C does
        signal.signal(number, signal.default_int_handler)
    code, why, hint = _run(one, arguments.yes)
    if code != DONE:
        _end(one, code, why, hint)
    return code


def _run(one: Drill, is_agreed: bool) -> tuple[int, str, str]:
    """Do the steps. Return the exit code, why there is no proof, and what to do."""
    try:
        return _steps(one, is_agreed)
    except KeyboardInterrupt:
        return INTERRUPTED if one.vm_fate == NOTHING else UNKNOWN, "you stopped the drill", ""
    except NoAnswer as lost:
        code = UNKNOWN if one.vm_fate != NOTHING else FAILED if lost.sent else UNREACHED
        return code, f"{one.signer.url}: {lost}", lost.hint
    except HandlerError as error:
        return FAILED, str(error), error.hint
    except Undone as undone:
        return _explain(one, undone.result)
    except CommandError as failed:
        return FAILED, failed.message, failed.hint
    except OSError as error:
        return UNKNOWN, f"can't write the output: {reason(error)}", ""
    except Exception as defect:  # after any error, the operator must learn what happened to the VM
        return UNKNOWN, f"the command itself failed: {defect!r}", "run the command below, and report this line"


def _explain(one: Drill, result: Event) -> tuple[int, str, str]:
    """Return why a verb of the drill is not done. If the verb was the cycle, show its answer."""
    outcome, verb = str(result["outcome"]), str(result["verb"])
    verdict = result.get("verdict")
    sentence = str(verdict.get("sentence")) if isinstance(verdict, dict) else ""
    hints = verdict.get("evidence") if isinstance(verdict, dict) else None
    if verb == "cycle":
        if outcome in ("rejected", "busy", "refused", "unreached"):
            one.vm_fate = f"the cycle of {one.vm} did not begin, so {NOTHING}"
        elif outcome == "failed":
            one.vm_fate = f"the cycle of {one.vm} failed, and its state is {result['state']}"
            if not one.as_json:
                show_result(result)
                show_document(result)
        else:
            one.vm_fate = f"the cycle of {one.vm} may have run, or still runs"
    code = UNREACHED if outcome == "unreached" else FAILED
    if verb == "cycle" and outcome in ("unknown", "running"):
        code = UNKNOWN
    return code, f"{verb} is {outcome}: {sentence}", "; ".join(map(str, hints)) if isinstance(hints, list) else ""


def _end(one: Drill, code: int, why: str, hint: str) -> None:
    """Say why the drill proves nothing, what happened to the VM, and how to continue."""
    try:
        complain(f"the drill proved nothing: {why}; {one.vm_fate}", hint)
        if code == UNKNOWN or one.vm_fate != NOTHING:
            remark("", one.again)
        if one.as_json:
            _print_json(one, "unknown" if code == UNKNOWN else "failed", why)
        sys.stdout.flush()
    except OSError:
        drop_output()


def _print_json(one: Drill, outcome: str, why: str = "") -> None:
    report = {"vm": one.vm, "id": one.id, "outcome": outcome, "why": why, "vm_fate": one.vm_fate}
    say(json.dumps({**report, "capture": one.capture, "page": one.page, "steps": one.steps, "proven": one.proven}))


# --- the steps ---


def _steps(one: Drill, is_agreed: bool) -> tuple[int, str, str]:
    with one.step("status") as notes:
        state = str(one.verb("status")["state"])
        notes.append(f"{one.vm} is {state}")
    if state != "running" and not is_agreed:
        raise CommandError(f"{one.vm} is {state}, not running", f"breakglass call start --vm {one.vm}")
    if not is_agreed and not _agrees(one):
        raise CommandError("you did not agree")
    remark(f"if this is interrupted, run this {one.again}" if not one.as_json else "")
    with one.step("alert") as notes:
        send_alert(one)
        notes += [f"the handler accepted it, and the host began the capture {one.capture}", f"see {one.page}"]
    with one.step("evidence") as notes:
        before, verdict = wait_for_evidence(one)
        notes.append(f"the capture is in history, with the verdict {verdict}")
    with one.step("cycle") as notes:
        one.vm_fate = f"the cycle of {one.vm} may have run, or still runs"
        cycle = one.verb("cycle", one.id, one.is_continued, reason="a drill", proves="drill")
        one.vm_fate = f"the cycle of {one.vm} is done, and the state of the VM is {cycle['state']}"
        notes.append(f"done, {cycle['state']} (id {one.id})")
    with one.step("proof") as notes:
        notes += prove(one, before, cycle)
    with one.step("guest") as notes:
        notes.append(await_guest(one.signer, one.vm, cycle))
    with one.step("proven") as notes:
        notes.append(read_proven(one, cycle))
    if one.as_json:
        _print_json(one, "proven")
    return DONE, "", ""


def _agrees(one: Drill) -> bool:
    remark(f"{VERBS['cycle'].consequence} The drill does this to {one.vm} now.")
    return agrees(f"Power-cycle {one.vm} for a drill?")
