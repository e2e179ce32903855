"""The command line of the host agent: `serve` is the forced command of one SSH key, the others are for a person."""

import argparse
import hashlib
import os
import sys

from .by_hand.commands import add_by_hand, run_by_hand
from .host.paths import Key, log
from .serving.serve import serve_one
from .serving.session import Session, opens_session
from .vm_list import VmList, parse_vm_list
from .words import AGENT_REFUSED, VERBS, VERSION


def main() -> int:
    """Run the command that the arguments name; return the exit code."""
    settings = _parser().parse_args()
    own_file = os.path.abspath(sys.argv[0])
    os.umask(0o077)
    os.chdir("/")
    os.environ["LC_ALL"] = "C"
    if settings.command != "serve":
        return run_by_hand(settings, settings.root, own_file)
    return _serve(Key(settings.vms, settings.read_only, settings.name, settings.root, not settings.no_last_words))


def _serve(key: Key) -> int:
    """Answer `$SSH_ORIGINAL_COMMAND`; return the exit code."""
    line = os.environ.get("SSH_ORIGINAL_COMMAND")
    if line is None:
        log(key.root, "refused (no command): a shell was requested")
        print(f"this key opens no shell; send one of: {', '.join(VERBS)}", file=sys.stderr)
        return AGENT_REFUSED
    try:
        if opens_session(key, line):
            Session(key, bundle_hash()).run()
            return 0
        return serve_one(key, bundle_hash(), line)
    except BrokenPipeError:  # the reader of the output has ended, but a job continues without it
        os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
        return 0


def bundle_hash() -> str:
    """Return the SHA-256 of this program's file, by which the handler recognizes a version."""
    try:
        with open(sys.argv[0], "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="breakglass-pve", description="The forced command of a breakglass key.")
    parser.add_argument("--version", action="version", version=VERSION)
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    serve = commands.add_parser("serve", help="answer $SSH_ORIGINAL_COMMAND", allow_abbrev=False)
    serve.add_argument("--vms", type=_vm_list, required=True, help="the VMs that this key serves: 102,110-119 or all")
    serve.add_argument("--read-only", action="store_true", help="refuse every verb that changes power")
    serve.add_argument("--as", dest="name", default="", help="the name of this key in records")
    add_by_hand(commands.add_parser, serve)
    return parser


def _vm_list(text: str) -> VmList:
    try:
        return parse_vm_list(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
