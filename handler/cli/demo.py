"""`breakglass demo`: everything on this machine. Only this loads the demo."""

import argparse

from ..demo.run import run
from .output import say


def demo(arguments: argparse.Namespace) -> int:
    """Run everything on this machine: an embedded Proxmox, the handler, the page."""
    return run(say, arguments.scenario, not arguments.no_chat, arguments.real_model)
