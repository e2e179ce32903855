"""`breakglass chat`: begins, lists and continues conversations with claude, and tries the sandbox for it."""

import argparse
import json
import os

from ..client import HandlerError, NoAnswer, Signer
from .account import ACCOUNT
from .answers import report_unanswered
from .conversation import ChatClient, fetch_conversations
from .environment import own_signer
from .output import DONE, CommandError, say, show
from .terminal import Terminal
from .terminal_text import table_of

NEWEST = "1"  # the value of `--resume` without a number
_LIST_HINT = "list the conversations with breakglass chat --list, or leave out --resume to begin a new one"


def add_chat(parser: argparse.ArgumentParser) -> None:
    """Describe `chat`."""
    parser.add_argument("--vm", help="the VM; needed only if there are several")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--list", action="store_true", help="list your conversations of the last 30 days, newest first, and exit"
    )
    parser.add_argument("--json", action="store_true", help="with --list: print one line of JSON")
    which.add_argument(
        "--resume",
        nargs="?",
        const=NEWEST,
        metavar="NUMBER",
        help="continue conversation NUMBER of the list; without NUMBER, the newest one",
    )
    which.add_argument(
        "--sandbox", action="store_true", help="test whether this machine can isolate claude, before you install claude"
    )
    user = f"with --sandbox: the handler's account, if root runs this (default: {ACCOUNT})"
    parser.add_argument("--user", metavar="NAME", default=ACCOUNT, help=user)
    parser.set_defaults(run=chat)


def chat(arguments: argparse.Namespace) -> int:
    """Talk with claude about a VM; a proposal runs only if the operator answers y."""
    if arguments.sandbox:
        from .sandbox import try_sandbox  # imported here, so that the other commands start without it

        return try_sandbox(arguments)
    signer = own_signer(os.environ)
    try:
        if arguments.list:
            return _list(signer, arguments.vm or "", arguments.json)
        session = _chosen_session(signer, arguments.resume)
    except (HandlerError, NoAnswer) as error:
        return report_unanswered(signer, error)
    return Terminal(signer, ChatClient(signer, arguments.vm or "", session)).run()


def _list(signer: Signer, vm: str, as_json: bool) -> int:
    found = fetch_conversations(signer)
    if as_json:
        rows = [{"number": number, **each} for number, each in enumerate(found, 1) if vm in ("", each["vm"])]
        say(json.dumps([{name: value for name, value in row.items() if name != "session"} for row in rows]))
        return DONE
    table = table_of(found, vm)
    show(table)
    none = f"there are no conversations about {vm}" if vm else "there are no conversations of the last 30 days"
    say("to continue one: breakglass chat --resume NUMBER" if table else none)
    return DONE


def _chosen_session(signer: Signer, chosen: str | None) -> str:
    """Return the token of the session to continue, or an empty text for a new session."""
    if chosen is None:
        return ""
    found = fetch_conversations(signer)
    if not chosen.isdecimal() or not 1 <= int(chosen) <= len(found):
        raise CommandError(f'there is no conversation "{chosen}"; this handler lists {len(found)}', _LIST_HINT)
    return str(found[int(chosen) - 1]["session"])
