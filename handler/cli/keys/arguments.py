"""The arguments of `breakglass keys`. Its modules are loaded only when they run, so other commands start faster."""

import argparse

from ...auth.signing import BEARER, GRAFANA
from ..reloading import add_reload_arguments
from .configuration import add_config_argument


def add_keys(parser: argparse.ArgumentParser) -> None:
    """Describe `keys`."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    parser.set_defaults(run=_run)
    _add_new(commands.add_parser("new", help="add a caller, and show its secret once", example="keys new phone --pair"))
    _add_list(commands.add_parser("list", help="list the callers, without their secrets", example="keys list"))
    _add_rotate(
        commands.add_parser(
            "rotate", help="give a caller a new secret in addition to the old one", example="keys rotate anna"
        )
    )
    _add_revoke(commands.add_parser("revoke", help="remove a caller", example="keys revoke phone"))


def _add_new(new: argparse.ArgumentParser) -> None:
    new.description = (
        "Write a file for a new caller, callers.d/NAME.toml beside the configuration. The caller's secret is printed "
        "once, to standard output. The handler knows the caller after a reload."
    )
    new.add_argument("name", help="the new caller's name")
    method = new.add_mutually_exclusive_group()
    method.add_argument(
        "--bearer",
        dest="method",
        action="store_const",
        const=BEARER,
        help="create a bearer token, if the sender can't sign",
    )
    method.add_argument(
        "--grafana",
        dest="method",
        action="store_const",
        const=GRAFANA,
        help="create a secret for Grafana's own signature",
    )
    allow = "the verbs that it may send (default: status,forensics,history; with --bearer or --grafana: forensics)"
    new.add_argument("--allow", metavar="VERB,VERB", help=allow)
    new.add_argument(
        "--vms", "--vm", dest="vms", metavar="NAME,NAME", help="the VMs on which it may act (default: all)"
    )
    new.add_argument("--not-after", metavar="TIME", help="when it expires, like 2027-06-01; UTC")
    new.add_argument("--out", metavar="FILE", help="write the caller's secret to this new file and don't print it")
    _add_pair(new)
    new.add_argument("--print", action="store_true", help="print the file instead of writing it")
    _finish(new)


def _add_list(listed: argparse.ArgumentParser) -> None:
    listed.description = (
        "Print one line for each caller: what it may do, on which VMs, and until when. It shows no secret."
    )
    listed.add_argument("--log", metavar="FILE", help="the handler's log, or -: say when each caller was last heard of")
    listed.add_argument("--json", action="store_true", help="print one line of JSON")
    add_config_argument(listed)


def _add_rotate(rotate: argparse.ArgumentParser) -> None:
    rotate.description = (
        "Give a caller one more secret. The old secrets stay valid until you run --drop-old, so that the caller "
        "can switch to the new one at any time before."
    )
    rotate.add_argument("name", help="the caller's name")
    which = rotate.add_mutually_exclusive_group()
    which.add_argument("--out", metavar="FILE", help="write the caller's secret to this new file and don't print it")
    which.add_argument("--drop-old", action="store_true", help="add no secret, and end all secrets but the newest")
    _add_pair(rotate)
    _finish(rotate)


def _add_revoke(revoke: argparse.ArgumentParser) -> None:
    revoke.description = (
        "Remove a caller's file. After a reload, the handler refuses its requests; but requests that run already "
        "continue. It never removes the last caller that signs. For a caller in the configuration itself, it says what "
        "to remove by hand."
    )
    revoke.add_argument("name", help="the caller's name")
    revoke.add_argument(
        "--yes", action="store_true", help="don't ask for confirmation (required if there is no terminal)"
    )
    _finish(revoke)


def _add_pair(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pair",
        action="store_true",
        help="show no secret; draw a QR code with which one device fetches it, and wait until the device has it",
    )
    parser.add_argument("--url", help="with --pair: the handler's address (default: the first of [server] url)")
    what = "the handler's account, if root runs this with --pair (default: the group of the configuration file)"
    parser.add_argument("--user", metavar="NAME", help=what)


def _finish(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    add_config_argument(parser)
    add_reload_arguments(parser)


def _run(arguments: argparse.Namespace) -> int:
    from .listing import keys_list
    from .new import keys_new, keys_rotate
    from .revoke import keys_revoke

    runs = {"new": keys_new, "list": keys_list, "rotate": keys_rotate, "revoke": keys_revoke}
    return runs[arguments.command](arguments)
