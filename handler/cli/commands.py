"""The table of commands, and the exit code of every error."""

import argparse
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Any, NamedTuple

from ..agents.pve.words import VERSION
from ..base.findings import ConfigError
from ..base.verbs import VERBS
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
    suggestion,
)


class Command(NamedTuple):
    """A command: what it does, what adds its arguments, an example, and whether its --help has the exit codes.

    `adds` is a function of a module beside this one. The module is loaded only for its command, because loading all of
    them would take most of the time that a command takes.
    """

    name: str
    what: str
    adds: str
    example: str
    has_codes: bool = False

    def describe(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments to a parser."""
        module, _, function = self.adds.rpartition(".")
        add = getattr(import_module(f".{module}", __package__), function)
        add(parser, **({"short": self.name} if self.name in VERBS else {}))


def _short_form(name: str) -> Command:
    does = VERBS[name].consequence.rstrip(".")
    return Command(name, does[0].lower() + does[1:], "call.add_call", f"{name} devvm", True)


# Each task of an operator, with its commands. The overview, docs/cli.md, the completions and the man page follow it.
TASKS: dict[str, tuple[Command, ...]] = {
    "a VM does not answer": (
        *map(_short_form, VERBS),
        Command("call", "run a verb; VERB VM is short for call VERB VM", "call.add_call", "call status", True),
        Command("chat", "talk with claude about a VM", "chat.add_chat", "chat --vm devvm"),
    ),
    "the morning after": (
        Command("log", "list who did what to the VMs last night, and why", "report.add_log", "log --since 12h", True),
        Command("report", "print what happened to the VMs lately", "report.add_report", "report --since 12h", True),
    ),
    "before you need it": (
        Command("doctor", "test the whole path of a request", "doctor.add_doctor", "doctor --vm devvm"),
        Command("drill", "power-cycle a VM that is for drills", "drill.add_drill", "drill --vm devvm", True),
        Command("check", "report the problems of a configuration", "check.add_check", "check"),
        Command("notify", "try the receivers of messages to people", "notify.add_notify", "notify test"),
    ),
    "set up and change": (
        Command("demo", "try Breakglass here, without a Proxmox host", "demo.add_demo", "demo --no-chat"),
        Command("init", "write a configuration, its secrets and its keys", "init.add_init", "init"),
        Command("serve", "run the handler (BREAKGLASS_CONFIG, HOST, PORT)", "serve.add_serve", "serve"),
        Command("host", "set up or upgrade a Proxmox host", "host.add_host", "host upgrade pve1"),
        Command("keys", "add, list, change and remove callers", "keys.arguments.add_keys", "keys new phone --pair"),
        Command("vm", "add, list and remove VMs", "vm.add_vm_commands", "vm list"),
        Command("alert-example", "print a sender's configuration", "host.add_alert_example", "alert-example pve"),
    ),
    "for scripts, and to read": (
        Command("bugreport", "write a file for the maintainers, no secret", "bugreport.add_bugreport", "bugreport"),
        Command("sign", "print the headers that sign the body on standard input", "sign.add_sign", "sign <body.json"),
        Command(
            "docs", "print a document, a section, or what to do about a code", "docs.add_docs", "docs storage-hung"
        ),
        Command("completion", "print the completions of a shell", "docs.add_completion", "completion bash"),
        Command("version", "print the version", "output.add_version", "version"),
    ),
}
_WHAT = "Power verbs for a VM that has stopped answering."
_ABOUT = """\
breakglass help COMMAND shows a command's arguments and an example. Commands that
ask the handler read BREAKGLASS_URL and BREAKGLASS_SECRET_FILE; without them,
~/.config/breakglass/client.toml, which init writes. NO_COLOR=1: no colours.
"""


class CommandParser(argparse.ArgumentParser):
    """A parser whose --help ends with an example, and with the exit codes if `has_codes`."""

    def __init__(self, *, example: str = "", has_codes: bool = False, **more: Any) -> None:
        super().__init__(**more)
        self._more = f"\nexample: breakglass {example}\n" * bool(example) + f"\n{EXIT_CODES}" * has_codes

    def format_help(self) -> str:
        """Return the text of --help."""
        return super().format_help() + self._more


class _Top(CommandParser):
    """The parser of the whole command line. Its --help is the overview."""

    def format_help(self) -> str:
        """Return the commands of each task."""
        groups = (f"\n{task}:\n{''.join(map(_line, commands))}" for task, commands in TASKS.items())
        return f"usage: breakglass COMMAND …\n\n{_WHAT}\n{''.join(groups)}\n{_ABOUT}{self._more}"


def _line(command: Command) -> str:
    return f"  {command.name:<14} {command.what}\n"


def make_parser(name: str = "") -> argparse.ArgumentParser:
    """Return the parser of every command, or of one, which takes less time."""
    top = _Top(prog="breakglass", description=_WHAT, has_codes=True)
    top.add_argument("-V", "--version", action="version", version=f"breakglass {VERSION}")
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=CommandParser)
    for each in _commands():
        if name in ("", each.name):
            added = commands.add_parser(each.name, help=each.what, example=each.example, has_codes=each.has_codes)
            each.describe(added)
    return top


def _commands() -> Iterable[Command]:
    return (each for commands in TASKS.values() for each in commands)


def _parse(words: list[str]) -> argparse.Namespace:
    """Return the arguments. For --help and --version, argparse prints and exits.

    Raises CommandError for a command that does not exist, because a similar one must not run in its place.
    """
    words = [*words[1:], "--help"] if words[:1] == ["help"] else words or ["--help"]
    names = [each.name for each in _commands()]
    if not words[0].startswith("-") and words[0] not in names:
        more = "breakglass --help lists the commands"
        raise CommandError(f'there is no command "{words[0]}"', suggestion(words[0], names, more))
    parser = make_parser(words[0])
    try:
        given, rest = parser.parse_known_args(words)
        if len(rest) == 1 and not rest[0].startswith("-") and getattr(given, "named", "") is None:
            given.named = rest.pop()  # argparse of Python 3.11 gives up a VM's name after an option
        if rest:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        return given
    finally:
        flush_output()


def run() -> int:
    """Run the command that the arguments name; return its exit code."""
    try:
        given = _parse(sys.argv[1:])
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
