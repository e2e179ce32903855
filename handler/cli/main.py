"""The `breakglass` command: its arguments, and how every error ends. One file each for what the commands do."""

import argparse

from ..agents.pve.words import VERSION
from ..alerts.examples import EXAMPLES
from ..auth.signing import BEARER, GRAFANA
from ..config.problems import ConfigError
from ..verbs import ANYWAY, VERBS
from . import call, demo, host, keys, serve
from .errors import CommandError, reason
from .output import EXIT_CODES, FAILED, INTERRUPTED, USAGE, complain, drop_output, version

# The states that the demo can put its VM into. `handler/demo/proxmox/world.py` makes them; only `demo` loads it.
SCENARIOS = (
    *("idle", "healthy", "paused", "guest-panicked", "io-error", "disk-frozen", "qemu-wedged"),
    *("stopped", "stopped-locked"),
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    top = argparse.ArgumentParser(
        prog="breakglass",
        description="Power verbs for a VM that has stopped answering.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"breakglass {VERSION}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands.add_parser("demo", help="try it on this machine; nothing else is touched"))
    commands.add_parser("serve", help="run the handler (BREAKGLASS_CONFIG, HOST, PORT)").set_defaults(run=serve.serve)
    _add_keys(commands.add_parser("keys", help="make a caller's key"))
    signing = commands.add_parser("sign", help="print signing headers for the body on standard input")
    signing.add_argument("--id", help="sign this id again instead of a new one")
    signing.set_defaults(run=call.sign)
    _add_call(
        commands.add_parser(
            "call",
            help="run a verb (BREAKGLASS_URL, BREAKGLASS_SECRET_FILE)",
            epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    _add_alert_example(
        commands.add_parser("alert-example", help="print a monitoring system's configuration (BREAKGLASS_URL)")
    )
    _add_chat(commands.add_parser("chat", help="talk with claude about a VM (BREAKGLASS_URL, BREAKGLASS_SECRET_FILE)"))
    _add_host(commands.add_parser("host", help="set up the Proxmox host"))
    commands.add_parser("version", help="print the version").set_defaults(run=lambda _: version(VERSION))
    return top


def _add_demo(trying: argparse.ArgumentParser) -> None:
    trying.add_argument("--scenario", choices=SCENARIOS, default=SCENARIOS[0], help="what is wrong with the VM")
    model = trying.add_mutually_exclusive_group()
    model.add_argument("--no-chat", action="store_true", help="leave out claude and the scripted model")
    model.add_argument(
        "--real-model", action="store_true", help="use your credential from the environment; the model's use is billed"
    )
    trying.set_defaults(run=demo.demo)


def _add_keys(making: argparse.ArgumentParser) -> None:
    new = making.add_subparsers(required=True, metavar="new").add_parser("new", help="print a new caller's entry")
    new.add_argument("name")
    way = new.add_mutually_exclusive_group()
    way.add_argument(
        "--bearer",
        dest="way",
        action="store_const",
        const=BEARER,
        help="create a bearer token, if the sender can't sign",
    )
    way.add_argument(
        "--grafana", dest="way", action="store_const", const=GRAFANA, help="create a secret for Grafana's own signature"
    )
    new.set_defaults(run=keys.keys_new)


def _add_call(calling: argparse.ArgumentParser) -> None:
    calling.add_argument("verb", help=", ".join(VERBS))
    calling.add_argument("--id", help="ask again about this id: it acts once however often it is sent")
    calling.add_argument("--vm", help="which VM; may be left out when there is one")
    calling.add_argument("--reason", help="why, for the record")
    calling.add_argument("--if-state", help="run only if the host sees this state")
    calling.add_argument("--if-last", help="run only if this is still the newest job, or none")
    calling.add_argument("--job", help="with history: show this job")
    calling.add_argument(
        "--anyway", choices=ANYWAY, help="with reset and cycle: act although the host refuses for this"
    )
    calling.add_argument("--json", action="store_true", help="print the answer object alone, as one line")
    calling.add_argument("--quiet", action="store_true", help="leave out the stages of the job")
    calling.set_defaults(run=call.call)


def _add_alert_example(exemplary: argparse.ArgumentParser) -> None:
    exemplary.add_argument("source", choices=EXAMPLES)
    exemplary.add_argument("--url", help="this handler's address (BREAKGLASS_URL)")
    exemplary.set_defaults(run=host.alert_example)


def _add_chat(talking: argparse.ArgumentParser) -> None:
    talking.add_argument("--vm", help="which VM; may be left out when there is one")
    talking.add_argument("--resume", action="store_true", help="continue the last session")
    talking.set_defaults(run=call.chat)


def _add_host(setting_up: argparse.ArgumentParser) -> None:
    commands = setting_up.add_subparsers(required=True, metavar="COMMAND")
    bundling = commands.add_parser("bundle", help="write the host agent to FILE, or to standard output")
    bundling.add_argument("file", nargs="?", metavar="FILE")
    bundling.set_defaults(run=host.host_bundle)
    installing = commands.add_parser(
        "install-commands", help="print what to run on the host, as root (BREAKGLASS_CONFIG)"
    )
    installing.add_argument("--vm", help="which VM; may be left out when there is one")
    installing.add_argument(
        "--from", dest="source", metavar="ADDRESS", help="the handler's address, which sshd must not ban"
    )
    installing.set_defaults(run=host.host_install_commands)


def main() -> int:
    """Run the command that the arguments name; return its exit code."""
    arguments = parser().parse_args()
    try:
        return int(arguments.run(arguments))
    except CommandError as error:
        complain(error.message, error.hint)
        return error.code
    except ConfigError as error:
        complain(f"the configuration can't be used\n{error}")
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        drop_output()
        return FAILED
    except OSError as error:
        complain(
            f'"{error.filename}": {reason(error)}' if error.filename else f"can't write the output: {reason(error)}"
        )
        drop_output()
        return FAILED
