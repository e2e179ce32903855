"""How commands show a handler's answer, and how they end without one."""

from collections.abc import Mapping

from ..base.verbs import CALM
from ..client import HandlerError, NoAnswer, Signer
from .output import FAILED, UNREACHED, complain, say, show
from .terminal_text import opinion_line, seen_line

LOOKS = ("status", "forensics")  # verbs whose answer is the verdict


def report_unanswered(signer: Signer, error: HandlerError | NoAnswer, if_sent: str = "") -> int:
    """Print why a request has failed; return the exit code. `if_sent` says what to do if it may have arrived."""
    if isinstance(error, HandlerError):
        complain(str(error), error.hint)
    elif error.sent:
        complain(f"{signer.url}: {error}", if_sent or error.hint)
    else:
        complain(f"{signer.url}: {error}; nothing was sent", error.hint)
        return UNREACHED
    return FAILED


def show_result(result: Mapping[str, object], is_full: bool = False) -> None:
    """Show an answer: first the VM's state, then the verdict and warnings, and the commands for people if it failed.

    With `is_full`, the verdict of a `forensics` is already in the output.
    """
    outcome, job = str(result["outcome"]), result.get("job")
    if isinstance(job, dict):
        show(str(job.get("output", "")))
        if line := opinion_line(job.get("opinion")):
            say(line)
    elif "job" in result:
        complain("the host has no such job", "list the jobs: breakglass call history")
    say(_headline(result, outcome, str(result["state"])), _tone(result))
    if not (is_full and "\nverdict: " in str(result.get("stdout"))):
        _show_verdict(result, has_output=is_full or result["verb"] not in LOOKS)
    if line := seen_line(result.get("seen")):
        say(line)
    for warning in _texts(result.get("warnings")):
        complain(f"warning: {warning}")
    if outcome not in ("done", "rejected", "busy", "refused"):
        for line in _texts(result.get("by_hand")):
            complain(f"by hand: {line}")


def show_document(result: Mapping[str, object]) -> None:
    """Show the `breakglass docs` command that explains a refusal, a failure or a fault."""
    verdict, outcome = result.get("verdict"), result["outcome"]
    if not isinstance(verdict, dict) or outcome in ("running", "unknown"):
        return
    hint = document_hint(verdict["code"])
    if outcome != "done":
        complain("", hint)
    elif result["verb"] == "forensics" and verdict["code"] != "healthy":
        say(f"    {hint}")


def document_hint(code: object) -> str:
    """Return the command that explains a code."""
    return f"what to do: breakglass docs {code}"


def _tone(result: Mapping[str, object]) -> str:
    """Return how the answer's first line is meant. The VM of a look that is done may still need help."""
    verdict = result.get("verdict")
    if result["outcome"] != "done":
        return "bad"
    is_calm = not isinstance(verdict, dict) or verdict.get("code") in CALM
    return "good" if is_calm or result["verb"] not in LOOKS else "warning"


def _headline(result: Mapping[str, object], outcome: str, state: str) -> str:
    """Return one line with the VM's state, if the answer has it, and the outcome of the verb."""
    is_look = (result["verb"], outcome) == ("status", "done")
    facts = ["status" if is_look else f"{result['verb']} {outcome}", f"id {result['id']}"]
    facts += [f"on Proxmox {name}"] if (name := result.get("proxmox_name")) not in (None, "", result["vm"]) else []
    first, *more = [state, *facts] if is_look or state != "unknown" else facts
    return f"{result['vm'] or 'no VM'}: {first} ({', '.join(more)})"


def _show_verdict(result: Mapping[str, object], has_output: bool) -> None:
    """Show the verdict's sentence and evidence. If the verb is not done, show them as an error."""
    verdict = result.get("verdict")
    if not isinstance(verdict, dict):
        return
    sentence = str(verdict["sentence"])
    was_shown = has_output and result["reached"] and sentence in str(result.get("stderr"))
    evidence = _texts(verdict.get("evidence"))
    if result["outcome"] == "done":
        say("\n    ".join([sentence, *evidence]))
    else:
        complain("" if was_shown else sentence, "\n    ".join(evidence))


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []
