"""`breakglass-pve serve`: the forced command of one SSH key."""

import argparse
import hashlib
import os
import sys

from .host import Host, Key
from .serve import Session, opens_session, serve_one
from .words import AGENT_REFUSED, VERBS, VERSION


def main() -> int:
    """Serve what `$SSH_ORIGINAL_COMMAND` asks for; return the exit code."""
    settings = _parser().parse_args()
    os.umask(0o077)
    os.chdir("/")
    os.environ["LC_ALL"] = "C"
    host = Host(settings.vm, settings.root.rstrip("/"))
    key = Key(settings.read_only, settings.name)
    line = os.environ.get("SSH_ORIGINAL_COMMAND")
    if line is None:
        print(f"no shell here; say one of: {', '.join(VERBS)}", file=sys.stderr)
        return AGENT_REFUSED
    try:
        if opens_session(host, key, line):
            Session(host, key, bundle_hash()).run()
            return 0
        return serve_one(host, key, bundle_hash(), line)
    except BrokenPipeError:  # the reader is gone; a job goes on without it
        os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
        return 0


def bundle_hash() -> str:
    """Return the SHA-256 of the file this program was started from, so that the handler can tell versions apart."""
    try:
        with open(sys.argv[0], "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="breakglass-pve", description="The forced command of a breakglass key.")
    parser.add_argument("--version", action="version", version=VERSION)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="answer $SSH_ORIGINAL_COMMAND")
    serve.add_argument("--vm", type=int, required=True, help="the VM that this key serves")
    serve.add_argument("--read-only", action="store_true", help="refuse every verb that changes power")
    serve.add_argument("--as", dest="name", default="", help="who this key is, in records")
    serve.add_argument("--root", default="", help="a prefix for every host path, for tests")
    return parser


if __name__ == "__main__":
    sys.exit(main())
