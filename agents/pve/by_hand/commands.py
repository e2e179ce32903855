"""The commands for a person in a shell of the host, and their arguments."""

import argparse
import os
from collections.abc import Callable

from ..check.check import check
from ..check.findings import ERROR, printable
from ..check.heartbeats import list_heartbeats
from ..vm_list import parse_vm_list
from ..words import ANYWAY, GOES_WITH, VERBS
from .allow import allow
from .revoke import revoke
from .verbs import BY_HAND, ID, run_verb


def add_by_hand(add_parser: Callable[..., argparse.ArgumentParser], serve: argparse.ArgumentParser) -> None:
    """Add these commands to the command line's parser, and the options that `serve` shares with them."""
    checking = add_parser("check", help="verify the installation")
    checking.add_argument("--user", help="the account that the keys log in to (default: the one of sshd's settings)")
    allowing = add_parser("allow", help="let this host's keys reach one more VM, or add a key", allow_abbrev=False)
    allowing.add_argument("vm", type=_vm_number, metavar="VM", nargs="?", help="the VM's number")
    allowing.add_argument("--user", default="breakglass", help="the account that the keys log in to")
    allowing.add_argument("--key", help="the public key that reaches the VM, like 'ssh-ed25519 AAAA…'")
    allowing.add_argument(
        "--from", dest="source", metavar="ADDRESS", help="the handler's address, which sshd then never penalises"
    )
    revoking = add_parser("revoke", help="take a key away from this host, and the account with its last key")
    revoking.add_argument("--user", default="breakglass", help="the account that the key logs in to")
    revoking.add_argument("--key", required=True, help="the public key, like 'ssh-ed25519 AAAA…'")
    beating = add_parser("heartbeat", help="tell which guests on this host answer, and which don't")
    beating.add_argument("vm", type=_vm_number, metavar="VM", nargs="?", help="one VM's number (default: all)")
    verbs = [_add_verb(add_parser(verb, help=VERBS[verb].consequence, allow_abbrev=False), verb) for verb in BY_HAND]
    for parser in (serve, allowing, *(each for each, verb in zip(verbs, BY_HAND, strict=True) if VERBS[verb].is_job)):
        parser.add_argument("--no-last-words", action="store_true", help="never read a guest's kernel log")
    for parser in (serve, checking, allowing, revoking, beating, *verbs):
        parser.add_argument(
            "--root", default="", type=lambda text: text.rstrip("/"), help="a prefix for every host path, for tests"
        )


def _add_verb(parser: argparse.ArgumentParser, verb: str) -> argparse.ArgumentParser:
    parser.add_argument("vm", type=_vm_number, metavar="VM", help="the VM's number")
    if VERBS[verb].is_job:
        parser.add_argument("--id", type=_job_id, help="an id that was used before: attach to its job")
        parser.add_argument("--reason", default="", help="why, for the record")
    if verb == "forensics":
        parser.add_argument("--full", action="store_true", help="print all that was read, not only the verdict")
    if words := [word for word in ANYWAY if verb in GOES_WITH[word]]:
        parser.add_argument("--anyway", choices=words, default="", help="the code of a refusal to override")
    return parser


def run_by_hand(settings: argparse.Namespace, root: str, own_file: str) -> int:
    """Run a command; return the exit code, which is 1 for an error of the other commands or a lost heartbeat."""
    if settings.command in BY_HAND:
        return run_verb(settings, own_file)
    errors = 0
    if settings.command == "heartbeat":
        for line, is_lost in list_heartbeats(root, settings.vm):
            print(line, flush=True)
            errors += is_lost
        return 1 if errors else 0
    if settings.command == "check":
        findings = check(root, settings.user, own_file)
    elif settings.command == "revoke":
        findings = revoke(settings)
    else:
        findings = allow(settings, os.path.realpath(own_file))
    for finding in findings:
        print(printable(str(finding)), flush=True)
        errors += finding.level == ERROR
    return 1 if errors else 0


def _vm_number(text: str) -> int:
    try:
        number = parse_vm_list(text).only
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if number is None:
        raise argparse.ArgumentTypeError("name one VM, like 103")
    return number


def _job_id(text: str) -> str:
    if not ID.fullmatch(text):
        raise argparse.ArgumentTypeError("an id has 8 to 64 of A-Z a-z 0-9 _ -")
    return text
