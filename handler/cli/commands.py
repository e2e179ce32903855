"""The table of commands, and the exit code of every error."""

import argparse
from typing import Any

from ..agents.pve.words import VERSION
from ..base.findings import ConfigError
from . import arguments, call, docs, notify, serve
from .keys.arguments import add_keys
from .output import (
    EXIT_CODES,
    FAILED,
    INTERRUPTED,
    USAGE,
    CommandError,
    complain,
    drop_output,
    flush_output,
    reason,
    version,
)
from .vm import add_vm_commands


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    codes: Any = {"epilog": EXIT_CODES, "formatter_class": argparse.RawDescriptionHelpFormatter}
    what = "Power verbs for a VM that has stopped answering."
    top = argparse.ArgumentParser(prog="breakglass", description=what, **codes)
    top.add_argument("--version", action="version", version=f"breakglass {VERSION}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    arguments.add_demo(commands.add_parser("demo", help="try Breakglass on this machine, without a Proxmox host"))
    arguments.add_init(commands.add_parser("init", help="write a configuration, its secrets and its keys"))
    commands.add_parser("serve", help="run the handler (BREAKGLASS_CONFIG, HOST, PORT)").set_defaults(run=serve.serve)
    arguments.add_check(
        commands.add_parser("check", help="report the problems of a configuration without starting anything")
    )
    arguments.add_doctor(commands.add_parser("doctor", help="test the whole path of a request before you need it"))
    what = "power-cycle a VM that has drill = true, to prove a rescue (BREAKGLASS_URL, BREAKGLASS_SECRET_FILE)"
    arguments.add_drill(commands.add_parser("drill", help=what, **codes))
    add_keys(commands.add_parser("keys", help="add, list, change and remove callers (BREAKGLASS_CONFIG)"))
    sign = commands.add_parser("sign", help="print the signature headers for the body on standard input")
    sign.add_argument("--id", help="use this id instead of a new one")
    sign.set_defaults(run=call.sign)
    what = "run a verb (BREAKGLASS_URL, BREAKGLASS_SECRET_FILE)"
    arguments.add_call(commands.add_parser("call", help=what, **codes))
    arguments.add_alert_example(
        commands.add_parser("alert-example", help="print a monitoring system's configuration (BREAKGLASS_URL)")
    )
    arguments.add_chat(
        commands.add_parser("chat", help="talk with claude about a VM (BREAKGLASS_URL, BREAKGLASS_SECRET_FILE)")
    )
    arguments.add_host(commands.add_parser("host", help="set up or upgrade a Proxmox host"))
    arguments.add_report(
        commands.add_parser("report", help="print what happened to the VMs in the last hours", **codes)
    )
    arguments.add_log(commands.add_parser("log", help="list who did what to the VMs last night, and why", **codes))
    arguments.add_bugreport(commands.add_parser("bugreport", help="write a file for the maintainers, without a secret"))
    add_vm_commands(commands.add_parser("vm", help="add, list and remove VMs (BREAKGLASS_CONFIG)"))
    notify.add_notify(commands.add_parser("notify", help="try the receivers of messages to people"))
    document = commands.add_parser("docs", help="print a document, what to do about a code, or the list of documents")
    document.add_argument("name", nargs="?", metavar="NAME", help="a document (runbook) or a code (storage-hung)")
    document.set_defaults(run=docs.docs)
    commands.add_parser("version", help="print the version").set_defaults(run=lambda _: version(VERSION))
    return top


def _parse() -> argparse.Namespace:
    """Return the arguments. For --help and --version, argparse prints and exits."""
    try:
        return make_parser().parse_args()
    finally:
        flush_output()


def run() -> int:
    """Run the command that the arguments name; return its exit code."""
    try:
        given = _parse()
        return int(given.run(given))
    except CommandError as error:
        complain(error.message, error.hint)
        return error.code
    except ConfigError as error:
        complain(f"the configuration can't be used\n{error}")
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output has ended early, as `head` does
        drop_output()
        return FAILED
    except OSError as error:
        complain(
            f'"{error.filename}": {reason(error)}' if error.filename else f"can't write the output: {reason(error)}"
        )
        drop_output()
        return FAILED
