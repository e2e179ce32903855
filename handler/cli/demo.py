"""`breakglass demo`. No other module imports the demo."""

import argparse
import os
import tempfile

from .environment import port_number
from .output import CommandError, say
from .starting import listen

_LONGEST_SOCKET = 107  # bytes, see unix(7)
_BELOW = len("/bg12345678/run/qemu-server/102.serial0")  # the longest path below the demo's directory, with some margin
# The states of the demo's VM. `handler/demo/proxmox/world.py` creates them, but only the command `demo` loads that
# file.
SCENARIOS = (
    *("guest-panicked", "guest-hung", "idle", "healthy", "paused", "io-error", "disk-frozen", "qemu-wedged"),
    *("stopped", "stopped-locked"),
)


def add_demo(parser: argparse.ArgumentParser) -> None:
    """Describe `demo`."""
    parser.add_argument("--scenario", choices=SCENARIOS, default=SCENARIOS[0], help="the fault that the VM has")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--no-chat", action="store_true", help="run without claude and the scripted model")
    model.add_argument(
        "--real-model",
        action="store_true",
        help="use the real model with your credential from the environment, which costs money",
    )
    parser.set_defaults(run=demo)


def demo(arguments: argparse.Namespace) -> int:
    """Run a stand-in for Proxmox, the handler and the page on this machine."""
    for probe in listen("127.0.0.1", port_number(os.environ, "0")):
        probe.close()
    _check_temporary(tempfile.gettempdir())
    from ..demo.run import run  # imported here, so that the other commands start without it

    return run(say, arguments.scenario, not arguments.no_chat, arguments.real_model)


def _check_temporary(directory: str) -> None:
    """Raise CommandError if the demo can't run programs or create sockets in the temporary directory."""
    hint = "set TMPDIR to another directory, for example: TMPDIR=$HOME/tmp breakglass demo"
    if os.statvfs(directory).f_flag & os.ST_NOEXEC:
        raise CommandError(f'no program can be run in "{directory}", because it is mounted noexec', hint)
    if len(os.fsencode(directory)) + _BELOW > _LONGEST_SOCKET:
        raise CommandError(f'the path of "{directory}" is too long for the sockets of the demo', hint)
