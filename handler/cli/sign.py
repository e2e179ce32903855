"""`breakglass sign`: the headers of a signed request, for curl."""

import argparse
import os
import sys

from ..auth.signing import ID
from ..client import Signer, new_id
from .environment import caller_key
from .output import DONE, CommandError, say


def add_sign(parser: argparse.ArgumentParser) -> None:
    """Describe `sign`."""
    parser.add_argument("--id", help="use this id instead of a new one")
    parser.set_defaults(run=sign)


def sign(arguments: argparse.Namespace) -> int:
    """Print the headers that sign the body on standard input, for `curl -H @-`."""
    msg_id = checked_id(arguments.id)
    if sys.stdin is None:
        raise CommandError("standard input is closed", "pass the body on standard input: breakglass sign <FILE")
    headers = Signer("", caller_key(os.environ)).headers(msg_id, sys.stdin.buffer.read())
    for name, value in headers.items():
        say(f"{name}: {value}")
    return DONE


def checked_id(msg_id: str | None) -> str:
    """Return the checked id from the arguments, or a new one."""
    if msg_id is not None and not ID.fullmatch(msg_id):
        raise CommandError(f'not an id: "{msg_id}"', "use 8 to 64 of A-Z a-z 0-9 _ -, or leave out --id")
    return msg_id or new_id()
