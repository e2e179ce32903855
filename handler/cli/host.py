"""`breakglass host` and `alert-example`: texts for setting up other machines."""

import argparse
import json
import os
from pathlib import Path

from ..agents.bundle import bundle
from ..alerts.examples import example
from ..config.load import config_path, load_config
from ..config.model import Vm
from .environment import checked_url, handler_url
from .errors import CommandError, reason
from .install import Keys, recipe
from .output import DONE, FAILED, complain, say, show


def host_bundle(arguments: argparse.Namespace) -> int:
    """Write the host agent as one file."""
    if arguments.file is None:
        show(bundle())
        return DONE
    try:
        _write_program(Path(arguments.file), bundle())
    except IsADirectoryError:
        hint = f"name the file: {arguments.file.rstrip('/')}/breakglass-pve"
        raise CommandError(f'"{arguments.file}" is a directory', hint) from None
    except OSError as error:
        message = f'can\'t write "{arguments.file}": {reason(error)}'
        raise CommandError(message, "no file was left there; write it somewhere else", FAILED) from None
    return DONE


def _write_program(path: Path, text: str) -> None:
    """Write an executable atomically; write directly to a device or a pipe."""
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.chmod(0o755)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def host_install_commands(arguments: argparse.Namespace) -> int:
    """Print what to run on the Proxmox host for one VM; public keys only."""
    config = load_config(config_path(), os.environ)
    vm = config.vm_named(arguments.vm or "")
    if vm is None:
        message, hint = config.explain_no_vm(arguments.vm or "")
        raise CommandError(f"--vm: {message}", hint)
    try:
        keys = read_public_keys(vm)
        text = recipe(vm, keys, arguments.source)
    except (OSError, ValueError) as error:
        raise CommandError(f"{error}; nothing was printed", "see docs/runbook.md") from None
    show(text)
    return DONE


def read_public_keys(vm: Vm) -> Keys:
    """Return the public halves of a VM's keys; raise ValueError, which names the one that can't be read."""
    from ..proxmox.connect import public_key  # asyncssh takes longer to load than everything else

    found = {}
    for name, private in {"key": vm.key, "agent_key": vm.agent_key}.items():
        try:
            found[name] = public_key(private) if private else None
        except ValueError as error:
            message = f"vms.{vm.name}.{name} can't be read: {error}; an unencrypted OpenSSH private key is needed"
            raise ValueError(message) from None
    return Keys(found["key"] or "", found["agent_key"])


def alert_example(arguments: argparse.Namespace) -> int:
    """Print what a sender's own configuration needs to send its alerts to this handler."""
    rules = load_config(config_path(), os.environ).alerts
    url = handler_url(os.environ) if arguments.url is None else checked_url("--url", arguments.url)
    if not any(rule.source == arguments.source for rule in rules):
        complain(f"no [[alerts]] entry has source = {json.dumps(arguments.source)} yet", "see docs/alerts.md")
    say(example(arguments.source, url, rules).rstrip("\n"))
    return DONE
