"""The commands for a person at the host: `check` verifies the installation, `allow` adds a VM to the key lines."""

import argparse
from collections.abc import Callable

from ..vm_list import parse_vm_list
from .allow import allow
from .check import check
from .findings import ERROR, printable


def add_by_hand(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Describe the two commands to the parser of the command line."""
    checking = add_parser("check", help="verify the installation; as root, at the host")
    allowing = add_parser("allow", help="let this host's keys reach one more VM; as root, at the host")
    allowing.add_argument("vm", type=_vm_number, metavar="VM", help="the VM's number")
    checking.add_argument("--user", help="the account that the keys log in to (default: what sshd is set up for)")
    allowing.add_argument("--user", default="breakglass", help="the account that the keys log in to")
    for parser in (checking, allowing):
        parser.add_argument("--root", default="", help="a prefix for every host path, for tests")


def run_by_hand(settings: argparse.Namespace, root: str, own_file: str) -> int:
    """Run one of the two and print one line a finding; return 1 when one of them is an error."""
    errors = 0
    check_all = settings.command == "check"
    for finding in check(root, settings.user, own_file) if check_all else allow(root, settings.user, settings.vm):
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
