"""`breakglass host` and `alert-example`: what other machines are set up with, as text."""

import argparse
import json
import os
from pathlib import Path

from ..alerts.examples import example
from ..errors import ConfigError
from .call import handler_url
from .output import DONE, USAGE, complain, say, show
from .serve import config_path, load_config


def host_bundle(arguments: argparse.Namespace) -> int:
    """Write the host agent as one file."""
    from ..agents.bundle import bundle

    if arguments.file is None:
        show(bundle())
        return DONE
    path = Path(arguments.file)
    path.write_text(bundle(), encoding="utf-8")
    path.chmod(0o755)
    return DONE


def host_install_commands(arguments: argparse.Namespace) -> int:
    """Print what to run on the Proxmox host for one VM; public keys only."""
    from ..proxmox.connect import public_key
    from .install import Keys, recipe

    try:
        config = load_config(config_path(), os.environ)
        vm = config.vms[_chosen_vm(list(config.vms), arguments.vm)]
        keys = Keys(public_key(vm.key), public_key(vm.agent_key) if vm.agent_key else None)
        text = recipe(vm, keys, arguments.source)
    except ConfigError as error:
        complain(f"the configuration can't be used\n{error}")
        return USAGE
    except (OSError, ValueError) as error:
        complain(str(error), "nothing was printed; see docs/runbook.md")
        return USAGE
    show(text)
    return DONE


def _chosen_vm(names: list[str], wanted: str | None) -> str:
    if wanted in names or (wanted is None and len(names) == 1):
        return wanted or names[0]
    said = "which VM?" if wanted is None else f'no such VM: "{wanted}";'
    raise ValueError(f"{said} --vm, one of {', '.join(names)}")


def alert_example(arguments: argparse.Namespace) -> int:
    """Print what a sender's own configuration needs to send its alerts to this handler."""
    try:
        rules = load_config(config_path(), os.environ).alerts
    except ConfigError as error:
        complain(f"the configuration can't be used\n{error}")
        return USAGE
    if not any(rule.source == arguments.source for rule in rules):
        complain(f"no [[alerts]] entry has source = {json.dumps(arguments.source)} yet", "see docs/alerts.md")
    say(example(arguments.source, arguments.url or handler_url(), rules).rstrip("\n"))
    return DONE
