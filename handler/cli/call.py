"""`breakglass call` and `sign`: commands for a caller, which has a signing key but no configuration."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from ..agents.pve.words import ANYWAY
from ..auth.signing import ID
from ..base.manager import manager
from ..base.verbs import VERBS
from ..client import Event, HandlerError, NoAnswer, Signer, VerbCall, new_id
from ..client import call as send
from .answers import LOOKS, document_hint, show_document, show_result
from .environment import caller_key, given_url, name_refused_key, own_signer
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
)
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


def sign(arguments: argparse.Namespace) -> int:
    """Print the headers that sign the body on standard input, for `curl -H @-`."""
    msg_id = _checked_id(arguments.id)
    if sys.stdin is None:
        raise CommandError("standard input is closed", "pass the body on standard input: breakglass sign <FILE")
    headers = Signer("", caller_key(os.environ)).headers(msg_id, sys.stdin.buffer.read())
    for name, value in headers.items():
        say(f"{name}: {value}")
    return DONE


def _checked_id(msg_id: str | None) -> str:
    """Return the checked id from the arguments, or a new one."""
    if msg_id is not None and not ID.fullmatch(msg_id):
        raise CommandError(f'not an id: "{msg_id}"', "use 8 to 64 of A-Z a-z 0-9 _ -, or leave out --id")
    return msg_id or new_id()


def call(arguments: argparse.Namespace) -> int:
    """Run the verb that the arguments name."""
    arguments.vm = _vm(arguments)
    fields = ("verb", "vm", "reason", "if_state", "if_last", "job", "anyway")
    given = {name: getattr(arguments, name, None) or "" for name in fields}
    request = VerbCall(**given, again=arguments.id is not None)
    display, results = Display(arguments.json, arguments.quiet, arguments.full), list[Event]()
    code = run_verb(request, _checked_id(arguments.id), display, results.append)
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
