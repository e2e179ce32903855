"""`breakglass chat`: begins, lists and continues conversations with claude."""

import argparse
import os

from ..client import Event, HandlerError, NoAnswer, Signer, VerbCall, new_id
from ..client import call as send
from .call import EXIT, Display, run_verb
from .conversation import ChatClient, fetch_conversations
from .environment import caller_key, handler_url
from .output import DONE, FAILED, UNREACHED, CommandError, complain, say, show
from .terminal import Terminal
from .terminal_text import table_of

NEWEST = "1"  # what `--resume` without a number stands for
_LIST_HINT = "list the conversations with breakglass chat --list, or leave out --resume to begin a new one"
_ENDED = ("done", "failed", "refused", "busy")  # the host's last word for an id


def chat(arguments: argparse.Namespace) -> int:
    """Talk with claude about a VM; a proposal runs only if the operator answers y."""
    signer = Signer(handler_url(os.environ), caller_key(os.environ))
    try:
        if arguments.list:
            return _list(signer, arguments.vm or "")
        session = _chosen_session(signer, arguments.resume)
    except HandlerError as error:
        complain(str(error), error.hint)
        return FAILED
    except NoAnswer as lost:
        complain(f"{signer.url}: {lost}", lost.hint)
        return FAILED if lost.sent else UNREACHED
    return _talk(signer, ChatClient(signer, arguments.vm or "", session))


def _list(signer: Signer, vm: str) -> int:
    table = table_of(fetch_conversations(signer), vm)
    show(table)
    none = f"there are no conversations about {vm}" if vm else "there are no conversations of the last 30 days"
    say("to continue one: breakglass chat --resume NUMBER" if table else none)
    return DONE


def _chosen_session(signer: Signer, chosen: str | None) -> str:
    """Return the token of the session to continue, empty for a new one."""
    if chosen is None:
        return ""
    found = fetch_conversations(signer)
    if not chosen.isdecimal() or not 1 <= int(chosen) <= len(found):
        raise CommandError(f'there is no conversation "{chosen}"; this handler lists {len(found)}', _LIST_HINT)
    return str(found[int(chosen) - 1]["session"])


def _talk(signer: Signer, conversation: ChatClient) -> int:

    def approve(msg_id: str, request: VerbCall) -> bool:
        results: list[Event] = []
        run_verb(request, msg_id, Display(), results.append)
        return any(result["outcome"] in _ENDED for result in results)

    terminal = Terminal(
        conversation,
        ask=input,
        show=show,
        complain=complain,
        approve=approve,
        look_up=lambda vm, job: _look_up(signer, vm, job),
    )
    return EXIT.get(terminal.run(), FAILED)


def _look_up(signer: Signer, vm: str, job_id: str) -> str:
    """Return what became of a proposal, empty if the host does not know its id."""
    try:
        result = send(signer, new_id(), VerbCall("history", vm, job=job_id), lambda _: None)
    except (HandlerError, NoAnswer) as error:
        return f"it is not known whether it ran: {error}"
    if result["outcome"] != "done" or "job" not in result:
        return "it is not known whether it ran, because the host can't be asked"
    job = result["job"]
    if not isinstance(job, dict):
        return ""
    return f"approved by {job.get('by')}, and {job.get('outcome') or 'still running'}"
