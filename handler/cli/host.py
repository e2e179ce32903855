"""`breakglass host` and `alert-example`: print texts for setting up other machines."""

import argparse
import json
import os
from pathlib import Path

from ..agents.bundle import bundle
from ..alerts.examples import EXAMPLES, example
from ..config.load import config_path, load_config
from ..config.model import Config, Host
from ..config.ssh_keys import public_key
from .environment import checked_url, handler_url
from .install import recipe
from .output import DONE, FAILED, CommandError, complain, reason, say, show
from .upgrade import host_upgrade


def add_host(parser: argparse.ArgumentParser) -> None:
    """Describe `host`."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    bundle = commands.add_parser(
        "bundle", help="write the host agent to FILE, or to standard output", example="host bundle breakglass-pve"
    )
    bundle.add_argument("file", nargs="?", metavar="FILE")
    bundle.set_defaults(run=host_bundle)
    install = commands.add_parser(
        "install-commands",
        help="print what to run on the host, as root (BREAKGLASS_CONFIG)",
        example="host install-commands --from 192.0.2.50 >pve1.sh",
    )
    install.add_argument("--host", help="the host; needed only if there are several")
    install.add_argument(
        "--from",
        dest="sources",
        metavar="ADDRESS[,ADDRESS]",
        help="the handler's addresses or networks, which sshd then never penalises; needed for --account root",
    )
    install.add_argument(
        "--account",
        choices=("root",),
        help="let the key log in to root's own account, from the --from addresses only; no second account with uid 0",
    )
    install.set_defaults(run=host_install_commands)
    update = commands.add_parser(
        "upgrade",
        help="copy the host agent to a host, through your own ssh (BREAKGLASS_CONFIG)",
        example="host upgrade --all",
        description="Copy the host agent to a host through your own ssh, which checks the host's key as always. "
        "It reads only ssh of each [hosts.NAME] in BREAKGLASS_CONFIG, so a copy of it without the secrets is enough.",
    )
    which = update.add_mutually_exclusive_group()
    which.add_argument("host", nargs="?", metavar="HOST", help="a host in the configuration, or USER@ADDRESS[:PORT]")
    which.add_argument("--all", action="store_true", help="every host in the configuration")
    update.add_argument("--login", metavar="USER", help="the user to log in as (default: root)")
    update.add_argument("--json", action="store_true", help="print one line of JSON")
    update.set_defaults(run=host_upgrade)


def add_alert_example(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `alert-example`."""
    parser.add_argument("source", choices=tuple(EXAMPLES))
    parser.add_argument("--url", help="this handler's address (BREAKGLASS_URL)")
    parser.set_defaults(run=alert_example)


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
        raise CommandError(message, "the incomplete file was removed; choose another place", FAILED) from None
    return DONE


def _write_program(path: Path, text: str) -> None:
    """Write an executable atomically; a device or a pipe is written directly."""
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
    """Print the commands that set up one Proxmox host for all its VMs. They contain public keys only."""
    config = load_config(config_path(), os.environ)
    host = find_host(config, arguments.host)
    vms = [vm for vm in config.vms.values() if host in vm.hosts]
    try:
        text = recipe(host, vms, public_key(host.key), arguments.sources, as_root=arguments.account == "root")
    except ValueError as error:
        raise CommandError(f"{error}; nothing was printed", "see breakglass docs admin") from None
    show(text)
    return DONE


def find_host(config: Config, name: str | None) -> Host:
    """Return the host of that name; without a name, the only one."""
    if name is None and len(config.hosts) + len(config.hosts_off) == 1 and config.hosts:
        return next(iter(config.hosts.values()))
    if name is not None and name in config.hosts:
        return config.hosts[name]
    hint = f"use {' or '.join(config.hosts)}" if config.hosts else "correct the problems that breakglass serve lists"
    if name is None:
        raise CommandError("--host: there are several hosts; name one", hint)
    why = "is disabled: its entry has an error" if name in config.hosts_off else "is no host"
    raise CommandError(f"--host: {json.dumps(name[:40])} {why}", hint)


def alert_example(arguments: argparse.Namespace) -> int:
    """Print the configuration with which a sender sends its alerts to this handler."""
    rules = load_config(config_path(), os.environ).alerts
    url = handler_url(os.environ) if arguments.url is None else checked_url("--url", arguments.url)
    if not any(rule.source == arguments.source for rule in rules):
        complain(f"no [[alerts]] entry has source = {json.dumps(arguments.source)} yet", "see breakglass docs alerts")
    say(example(arguments.source, url, rules).rstrip("\n"))
    return DONE
