"""The `breakglass` command: its arguments. What each of them does is in `commands/`, loaded when it is asked for."""

import argparse
import importlib

from ..alerts.examples import EXAMPLES
from ..auth.signing import BEARER, GRAFANA
from ..verbs import ANYWAY, VERBS
from .output import USAGE, complain

# The states that the demo can put its VM into. `handler/demo/proxmox/world.py` makes them; only `demo` loads it.
SCENARIOS = (
    *("idle", "healthy", "paused", "guest-panicked", "io-error", "disk-frozen", "qemu-wedged"),
    *("stopped", "stopped-locked"),
)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="breakglass", description="Power verbs for a VM that has stopped answering.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    trying = commands.add_parser("demo", help="try it here: nothing but this machine is touched")
    trying.add_argument("--scenario", choices=SCENARIOS, default=SCENARIOS[0], help="what is wrong with the VM")
    model = trying.add_mutually_exclusive_group()
    model.add_argument("--no-chat", action="store_true", help="without claude and the scripted model")
    model.add_argument("--real-model", action="store_true", help="with the model that your credential opens; it costs")
    trying.set_defaults(run="demo.demo")
    commands.add_parser("serve", help="run the handler (BREAKGLASS_CONFIG, HOST, PORT)").set_defaults(run="serve.serve")
    keys = commands.add_parser("keys", help="make a caller's key").add_subparsers(required=True, metavar="new")
    new = keys.add_parser("new", help="print a new caller's entry")
    new.add_argument("name")
    way = new.add_mutually_exclusive_group()
    way.add_argument("--bearer", dest="way", action="store_const", const=BEARER, help="a token, for what can't sign")
    way.add_argument("--grafana", dest="way", action="store_const", const=GRAFANA, help="Grafana's own signature")
    new.set_defaults(run="keys.keys_new")
    signing = commands.add_parser("sign", help="print signing headers for the body on standard input")
    signing.add_argument("--id", help="sign this id again instead of a new one")
    signing.set_defaults(run="call.sign")
    _add_call(commands.add_parser("call", help="run a verb (BREAKGLASS_URL, BREAKGLASS_SECRET_FILE)"))
    exemplary = commands.add_parser("alert-example", help="print a monitoring system's configuration (BREAKGLASS_URL)")
    exemplary.add_argument("source", choices=EXAMPLES)
    exemplary.add_argument("--url", help="of this handler (BREAKGLASS_URL)")
    exemplary.set_defaults(run="host.alert_example")
    talking = commands.add_parser("chat", help="talk with claude about a VM (BREAKGLASS_URL, BREAKGLASS_SECRET_FILE)")
    talking.add_argument("--vm", help="which VM; may be left out when there is one")
    talking.add_argument("--resume", action="store_true", help="go on with the last conversation")
    talking.set_defaults(run="call.chat")
    host = commands.add_parser("host", help="the Proxmox host's side").add_subparsers(required=True, metavar="COMMAND")
    bundling = host.add_parser("bundle", help="write the host agent, to standard output without FILE")
    bundling.add_argument("file", nargs="?")
    bundling.set_defaults(run="host.host_bundle")
    installing = host.add_parser("install-commands", help="print what to run on the host, as root (BREAKGLASS_CONFIG)")
    installing.add_argument("--vm", help="which VM; may be left out when there is one")
    installing.add_argument("--from", dest="source", metavar="ADDRESS", help="the handler's, which sshd must not ban")
    installing.set_defaults(run="host.host_install_commands")
    return top


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
    calling.set_defaults(run="call.call")


def main() -> int:
    """Run the command that the arguments name; return its exit code."""
    arguments = parser().parse_args()
    module, _, name = arguments.run.partition(".")
    command = getattr(importlib.import_module(f"breakglass.cli.{module}"), name)
    try:
        return int(command(arguments))
    except (OSError, ValueError) as error:
        complain(str(error), "is BREAKGLASS_SECRET_FILE or BREAKGLASS_SECRET set to a whsec_… secret?")
        return USAGE
