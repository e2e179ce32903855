"""`breakglass call`, `chat` and `sign`: the commands of a caller, who has a key and no configuration."""

import argparse
import os
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from ..auth.signing import ID, secret_bytes
from ..verbs import ANYWAY, VERBS
from .client import Conversation, HandlerError, NoAnswer, Signer, VerbCall, new_id
from .client import call as send
from .output import DONE, FAILED, UNKNOWN, UNREACHED, USAGE, complain, say, show
from .terminal import Terminal, memory, recall, remember

_EXIT = {"done": DONE, "unreached": UNREACHED, "unknown": UNKNOWN, "running": UNKNOWN}


def handler_url() -> str:
    """Return where the handler is."""
    return os.environ.get("BREAKGLASS_URL", "http://127.0.0.1:8080")


def caller_key(environment: Mapping[str, str]) -> bytes:
    """Return the signing key from BREAKGLASS_SECRET_FILE or BREAKGLASS_SECRET; never from the command line."""
    file = environment.get("BREAKGLASS_SECRET_FILE")
    secret = Path(file).read_text(encoding="ascii").strip() if file else environment.get("BREAKGLASS_SECRET", "")
    return secret_bytes(secret)


def sign(arguments: argparse.Namespace) -> int:
    """Print the headers that sign the body on standard input, for `curl -H @-`."""
    msg_id = arguments.id or new_id()
    if not ID.fullmatch(msg_id):
        complain(f'not an id: "{msg_id}"', "8 to 64 of A-Z a-z 0-9 _ -")
        return USAGE
    headers = Signer("", caller_key(os.environ)).headers(msg_id, sys.stdin.buffer.read())
    for name, value in headers.items():
        say(f"{name}: {value}")
    return DONE


def call(arguments: argparse.Namespace) -> int:
    """Run the verb that the arguments name."""
    fields = ("verb", "vm", "reason", "if_state", "if_last", "job", "anyway")
    request = VerbCall(**{name: getattr(arguments, name) or "" for name in fields})
    msg_id = arguments.id or new_id()
    if not ID.fullmatch(msg_id):
        complain(f'not an id: "{msg_id}"', "8 to 64 of A-Z a-z 0-9 _ -")
        return USAGE
    return _run(request, msg_id)


def _run(request: VerbCall, msg_id: str) -> int:
    """Run a verb and show its answer; if the outcome is not known, say how to ask for the same job again."""
    url = handler_url()
    try:
        result = send(Signer(url, caller_key(os.environ)), msg_id, request, _show)
    except KeyboardInterrupt:
        complain(f"you stopped waiting; {request.verb} goes on where it is", _again(request, msg_id))
        return UNKNOWN
    except HandlerError as error:
        complain(str(error), error.hint)
        return FAILED
    except NoAnswer as lost:
        return _report_loss(url, lost, request, msg_id)
    code = _show_result(result)
    if result.get("anyway") in ANYWAY:
        complain(*_offer(request, str(result["anyway"])))
    if code == UNKNOWN:
        complain(f"the outcome of {request.verb} is not known yet", _again(request, msg_id))
    return code


def _report_loss(url: str, lost: NoAnswer, request: VerbCall, msg_id: str) -> int:
    if not lost.sent:
        complain(f"{url}: {lost}; nothing was sent", lost.hint)
        complain("", "without the handler: see docs/runbook.md")
        return UNREACHED
    complain(f"{url}: {lost}; {request.verb} may have run", _again(request, msg_id))
    return UNKNOWN


def _offer(request: VerbCall, code: str) -> tuple[str, str]:
    """Return what it costs to lift a refusal, and the command that does: under a new id, for this one is spent."""
    costs = f"{VERBS[request.verb].consequence} {ANYWAY[code].cost}"
    return f"to do it anyway, run the command below. {costs}", f"breakglass call {_words(request)} --anyway {code}"


def _words(request: VerbCall) -> str:
    return f"{request.verb} --vm {request.vm}" if request.vm else request.verb


def _again(request: VerbCall, msg_id: str) -> str:
    """Return the command that asks for the same job: a new id would be a second one."""
    anyway = f" --anyway {request.anyway}" if request.anyway else ""
    return f"the same again, which acts once: breakglass call {_words(request)}{anyway} --id {msg_id}"


def _show(message: Mapping[str, object]) -> None:
    if message["type"] == "output":
        show(str(message["text"]), sys.stdout if message["stream"] == "stdout" else sys.stderr)
    elif message["type"] == "stage":
        show(f"stage: {message['stage']}{_latest(message)}\n", sys.stderr)


def _latest(stage: Mapping[str, object]) -> str:
    """Return by when the job ends at the latest, in this machine's time zone; nothing where the host did not tell."""
    try:
        ends = datetime.fromisoformat(str(stage["started"])) + timedelta(seconds=float(str(stage["deadline"])))
        return f" (the job ends by {ends.astimezone():%H:%M:%S})"
    except (KeyError, ValueError, OverflowError):
        return ""


def _show_result(result: Mapping[str, object]) -> int:
    outcome = str(result["outcome"])
    verdict = result.get("verdict")
    if isinstance(verdict, dict):
        said = str(verdict["sentence"]) in str(result.get("stderr"))  # a job's own output was shown as it came
        evidence = "\n    ".join(_texts(verdict.get("evidence")))
        complain("" if said and result["reached"] else str(verdict["sentence"]), evidence)
    job = result.get("job")
    if isinstance(job, dict):
        show(str(job.get("output", "")))
    elif "job" in result:
        complain("no such job is known on the host")
    for warning in _texts(result.get("warnings")):
        complain(f"warning: {warning}")
    say(f"{result['verb']} {result['vm']}: {outcome}, {result['state']} (id {result['id']})")
    if outcome not in ("done", "rejected", "busy", "refused"):
        for line in _texts(result.get("by_hand")):
            complain(f"by hand: {line}")
    return _EXIT.get(outcome, FAILED)


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def chat(arguments: argparse.Namespace) -> int:
    """Talk with claude about a VM; what it proposes runs only when the answer is y."""
    path = memory(os.environ)
    signer = Signer(handler_url(), caller_key(os.environ))
    conversation = Conversation(signer, arguments.vm or "", recall(path) if arguments.resume else "")

    def approve(msg_id: str, request: VerbCall) -> str:
        return _OUTCOMES.get(_run(request, msg_id), "It failed.")

    outcome = Terminal(conversation, input, show, complain, approve, lambda token: remember(path, token)).run()
    return _EXIT.get(outcome, FAILED)


_OUTCOMES = {DONE: "It ran and is done.", UNREACHED: "It was not sent.", UNKNOWN: "Whether it ran is not known."}
