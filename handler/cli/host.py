"""`breakglass host` and `alert-example`: texts for setting up other machines."""

import argparse
import json
import os
from pathlib import Path

from ..agents.bundle import bundle
from ..alerts.examples import example
from ..config.load import config_path, load_config
from ..config.model import Config, Host
from ..config.ssh_keys import public_key
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
    """Print what to run on one Proxmox host for all its VMs; public keys only."""
    config = load_config(config_path(), os.environ)
    host = find_host(config, arguments.host)
    vms = [vm for vm in config.vms.values() if host in vm.hosts]
    keys = Keys(public_key(host.key), public_key(host.read_only_key) if host.read_only_key else None)
    try:
        text = recipe(host, vms, keys, arguments.sources, as_root=arguments.account == "root")
    except ValueError as error:
        raise CommandError(f"{error}; nothing was printed", "see breakglass docs runbook") from None
    show(text)
    return DONE


def find_host(config: Config, name: str | None) -> Host:
    """Return the host of that name; without a name, the only one."""
    if name is None and len(config.hosts) + len(config.hosts_off) == 1 and config.hosts:
        return next(iter(config.hosts.values()))
    if name is not None and name in config.hosts:
        return config.hosts[name]
    hint = f"use {' or '.join(config.hosts)}" if config.hosts else "see the problems that breakglass serve lists"
    if name is None:
        raise CommandError("--host: there are several hosts; name one", hint)
    why = "is disabled: its entry has an error" if name in config.hosts_off else "is no host"
    raise CommandError(f"--host: {json.dumps(name[:40])} {why}", hint)


def alert_example(arguments: argparse.Namespace) -> int:
    """Print what a sender's own configuration needs to send its alerts to this handler."""
    rules = load_config(config_path(), os.environ).alerts
    url = handler_url(os.environ) if arguments.url is None else checked_url("--url", arguments.url)
    if not any(rule.source == arguments.source for rule in rules):
        complain(f"no [[alerts]] entry has source = {json.dumps(arguments.source)} yet", "see breakglass docs alerts")
    say(example(arguments.source, url, rules).rstrip("\n"))
    return DONE
