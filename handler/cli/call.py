"""`breakglass call` and the verbs, for a caller, who has a signing key but no configuration."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from ..agents.pve.words import ANYWAY
from ..base.manager import manager
from ..base.verbs import VERBS
from ..client import Event, HandlerError, NoAnswer, VerbCall
from ..client import call as send
from .answers import LOOKS, document_hint, show_document, show_result
from .environment import given_url, name_refused_key, own_signer
from .guest_return import BRINGS_UP, RETURN_SECONDS, await_guest
from .output import (
    DONE,
    FAILED,
    UNKNOWN,
    UNREACHED,
    CommandError,
    Progress,
    complain,
    drop_output,
    reason,
    remark,
    say,
    show,
    suggestion,
)
from .sign import checked_id
from .terminal_text import localized

_RAW = "== "  # begins each part of the evidence, as the host read it
# errors of a request that the handler refuses before it reads the verb
REFUSALS = ("unauthorized", "stale-timestamp", "forbidden", "wrong-handler")
EXIT = {"done": DONE, "unreached": UNREACHED, "unknown": UNKNOWN, "running": UNKNOWN}


@dataclass(frozen=True)
class Display:
    """How to show an answer: as text (with the job's stages unless `quiet`), or as the answer object.

    `full` shows everything that was read, and not only the verdict and its evidence.
    """

    json: bool = False
    quiet: bool = False
    full: bool = False


def _verb(text: str) -> str:
    if text in VERBS:
        return text
    more = f"use {', '.join(VERBS)}"
    raise argparse.ArgumentTypeError(f'there is no verb "{text}"; {suggestion(text, VERBS, more)}')


def add_call(parser: argparse.ArgumentParser, short: str = "") -> None:
    """Describe `call`, or the command that is short for it with this verb."""
    if not short:
        parser.add_argument("verb", metavar="VERB", type=_verb, choices=tuple(VERBS), help=", ".join(VERBS))
    parser.set_defaults(run=call, **({"verb": short} if short else {}), is_short=bool(short))
    is_needed = bool(short) and VERBS[short].mutating
    parser.add_argument(
        "named", nargs="?", metavar="VM", help="the VM" if is_needed else "the VM; needed only if there are several"
    )
    parser.add_argument("--id", help="repeat the earlier request that had this id; it acts at most once")
    parser.add_argument("--vm", action="append", default=[], help="the VM, as another way to name it")
    parser.add_argument("--reason", help="the reason, which the host records")
    if not short or VERBS[short].mutating:
        parser.add_argument("--if-state", metavar="STATE", help="run only if the VM is in this state")
        parser.add_argument(
            "--if-last", metavar="ID", help="run only if this job is still the newest (none: only if there is no job)"
        )
    if short in ("", "history"):
        parser.add_argument("--job", metavar="ID", help="show this job" if short else "with history: show this job")
    if short in ("", "reset", "cycle"):
        what = "override the host's refusal that has this code"
        parser.add_argument("--anyway", choices=tuple(ANYWAY), help=what if short else f"with reset or cycle: {what}")
    parser.add_argument("--json", action="store_true", help="print only the answer object, as one line")
    parser.add_argument("--quiet", action="store_true", help="show no stages, and don't wait for the guest")
    parser.add_argument(
        "--full", action="store_true", help="print everything that the host read, and not only the verdict"
    )


def call(arguments: argparse.Namespace) -> int:
    """Run the verb that the arguments name."""
    arguments.vm = _vm(arguments)
    fields = ("verb", "vm", "reason", "if_state", "if_last", "job", "anyway")
    given = {name: getattr(arguments, name, None) or "" for name in fields}
    request = VerbCall(**given, again=arguments.id is not None)
    display, results = Display(arguments.json, arguments.quiet, arguments.full), list[Event]()
    code = run_verb(request, checked_id(arguments.id), display, results.append)
    if code == DONE and request.verb in BRINGS_UP and not (display.json or display.quiet):
        _show_return(request.vm or str(results[0]["vm"]), results[0])
    return code


def _vm(arguments: argparse.Namespace) -> str:
    """Return the VM's name. A short form that changes power needs it, even if there is only one VM."""
    verb, named = arguments.verb, {each for each in (arguments.named, *arguments.vm) if each is not None}
    if "" in named:  # such as --vm "$VM" without that variable, which must not be the only VM
        raise CommandError("the VM's name is empty; nothing was sent", "write the VM's name")
    if len(named) > 1:
        raise CommandError(f"two VMs are named: {' and '.join(sorted(named))}; nothing was sent", "name one VM")
    if not named and arguments.is_short and VERBS[verb].mutating:
        is_unit = verb in ("start", "stop") and manager().is_systemd
        unit = f"; to {verb} the handler: systemctl {verb} breakglass" if is_unit else ""
        hint = f"to {verb} a VM, write its name: breakglass {verb} devvm{unit}"
        raise CommandError(f"{verb} needs the VM's name; nothing was sent", hint)
    return "".join(named)


def _show_return(vm: str, done: Event) -> None:
    """Wait for the guest to return, and show when it did. This does not change the verb's exit code."""
    hint = f"waiting for the guest's kernel, {RETURN_SECONDS:g} s at most; Ctrl-C ends only this wait"
    try:
        with Progress(f"waiting for the guest of {vm}"):
            told = await_guest(own_signer(os.environ), vm, done, lambda: remark(hint))
        say(told)
    except KeyboardInterrupt:
        complain(f"you stopped waiting for the guest; the {done['verb']} is done")
    except OSError:
        drop_output()


def run_verb(
    request: VerbCall, msg_id: str, display: Display, on_result: Callable[[Event], None] = lambda _: None
) -> int:
    """Run a verb and show its answer. If the outcome is not known, show how to repeat the request.

    `on_result` gets the answer object if one arrived. Returns the exit code.
    """
    signer = own_signer(os.environ)
    try:
        with Progress("" if display.quiet else f"{request.verb} {request.vm}".strip()) as progress:
            result = send(signer, msg_id, request, partial(_show, display, request.verb, progress))
    except KeyboardInterrupt:
        complain(f"you stopped waiting; if {request.verb} was sent, it continues", _repeat_hint(request, msg_id))
        return UNKNOWN
    except OSError as error:
        return _report_no_output(error, request, msg_id)
    except HandlerError as error:
        if display.json:
            say(json.dumps({"error": error.error}))
        is_unknown = error.error.get("code") == "unauthorized"
        complain(*(name_refused_key(os.environ) if is_unknown else (str(error), error.hint)))
        if error.error.get("code") in REFUSALS:
            complain("", document_hint(error.error["code"]))
        return FAILED
    except NoAnswer as lost:
        return _report_loss(signer.url, lost, request, msg_id)
    on_result(result)
    return _report(result, request, msg_id, display)


def _report(result: Event, request: VerbCall, msg_id: str, display: Display) -> int:
    """Show an answer. Return its exit code, even if the output can't be written."""
    code = EXIT.get(str(result["outcome"]), FAILED)
    try:
        if display.json:
            say(json.dumps({name: value for name, value in result.items() if name != "type"}))
            return code
        show_result(result, display.full)
        if result.get("anyway") in ANYWAY:
            complain(*_anyway_offer(request, str(result["anyway"])))
        if code == UNKNOWN:
            complain(f"the outcome of {request.verb} is not known yet", _repeat_hint(request, msg_id))
        show_document(result)
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            complain(_output_fault(error))
        drop_output()
    return code


def _report_no_output(error: OSError, request: VerbCall, msg_id: str) -> int:
    """Return the exit code if the output can't be written. Name the job if it continues."""
    if request.verb in VERBS and VERBS[request.verb].is_job:
        complain(f"{_output_fault(error)}; {request.verb} continues", _repeat_hint(request, msg_id))
    drop_output()
    return UNKNOWN


def _output_fault(error: OSError) -> str:
    closed = isinstance(error, BrokenPipeError)
    return "the output was closed" if closed else f"can't write the output: {reason(error)}"


def _report_loss(url: str, lost: NoAnswer, request: VerbCall, msg_id: str) -> int:
    if not lost.sent:
        unset = "" if given_url(os.environ) else "BREAKGLASS_URL is not set, so this used the default; "
        complain(f"{url}: {lost}; nothing was sent", f"{unset}{lost.hint}")
        complain("", "to act without the handler: breakglass docs runbook without the page")
        return UNREACHED
    complain(f"{url}: {lost}; {request.verb} may have run", _repeat_hint(request, msg_id))
    return UNKNOWN


def _anyway_offer(request: VerbCall, code: str) -> tuple[str, str]:
    """Return the risk of overriding a refusal, and the command that overrides it, with a new id."""
    costs = f"{VERBS[request.verb].consequence} {ANYWAY[code]}"
    return f"to do it anyway, run the command below. {costs}", f"breakglass call {_arguments(request)} --anyway {code}"


def _arguments(request: VerbCall) -> str:
    return f"{request.verb} --vm {request.vm}" if request.vm else request.verb


def _repeat_hint(request: VerbCall, msg_id: str) -> str:
    """Return the command for the same id; a new id would be a second job."""
    anyway = f" --anyway {request.anyway}" if request.anyway else ""
    return f"to ask again (the verb runs at most once): breakglass call {_arguments(request)}{anyway} --id {msg_id}"


def _show(display: Display, verb: str, progress: Progress, message: Mapping[str, object]) -> None:
    if message["type"] == "output" and not display.json:
        text = str(message["text"])
        if display.full or not (verb in LOOKS or text.startswith(_RAW)):
            show(text, sys.stdout if message["stream"] == "stdout" else sys.stderr)
    elif message["type"] == "stage" and not display.quiet:
        progress.await_next(f"{verb}: {message['stage']}")
        show(f"stage: {message['stage']}{_latest_end(message)}\n", sys.stderr)
    elif "trying" in message and not display.quiet:
        show(f"{localized(str(message['trying']))}\n", sys.stderr)


def _latest_end(stage: Mapping[str, object]) -> str:
    """Return the latest time at which the job ends, in local time, or an empty text if the host sent none."""
    try:
        ends = datetime.fromisoformat(str(stage["started"])) + timedelta(seconds=float(str(stage["deadline"])))
        return f" (the job ends by {ends.astimezone():%H:%M:%S})"
    except (KeyError, ValueError, OverflowError):
        return ""
