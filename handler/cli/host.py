"""`breakglass host` and `alert-example`: print texts for setting up other machines, and upgrade the host agent."""

import argparse
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

from ..agents.bundle import bundle, bundle_digest
from ..agents.pve.words import PACKAGED, PASTED
from ..alerts.examples import example
from ..base.findings import Finding
from ..config.addresses import parse_address
from ..config.load import config_path, load_addresses, load_config
from ..config.model import Address, Config, Host
from ..config.ssh_keys import public_key
from .environment import checked_url, handler_url
from .install import END_SESSIONS, recipe
from .output import DONE, FAILED, CommandError, complain, reason, say, show

# --- `breakglass host` and `alert-example`: texts for setting up other machines ---


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


# --- `breakglass host upgrade`: copy the host agent to Proxmox hosts, through the operator's own `ssh` ---
#
# The command needs no secret, because it reads only the hosts' addresses from the configuration, or takes an address
# from the command line.

# The new file is checked and renamed into place, so that half a file is never run. The last line is the result.
_INSTALL = f"""\
set -e
umask 022
trap 'rm -f {PASTED}.new' EXIT
[ ! -e {PACKAGED} ] || {{ echo 'the package breakglass-host is there: apt install the new one' >&2; exit 1; }}
before=$({PASTED} --version 2>/dev/null || echo none)
cat >{PASTED}.new
echo '@DIGEST@  {PASTED}.new' | sha256sum -c --status || {{ echo 'the copy is damaged' >&2; exit 1; }}
chown root:root {PASTED}.new
chmod 0755 {PASTED}.new
after=$({PASTED}.new --version)
mv -f {PASTED}.new {PASTED}
{END_SESSIONS}
echo "$before -> $after"
"""
SECONDS = 120.0  # this is long, because a person may have to type a passphrase


def host_upgrade(arguments: argparse.Namespace) -> int:
    """Copy the host agent to one host or to all. Print the old and the new version of each host."""
    hosts, problems = _find_hosts(arguments)
    done = [_upgrade(name, address) for name, address in hosts.items()]
    for problem in problems:
        complain(f"not upgraded: {problem.place} {problem.sentence}", problem.fix)
    if problems or not all(done):
        return FAILED
    say("each handler then logs in again and gets the new host agent; running jobs continue")
    return DONE


def _find_hosts(arguments: argparse.Namespace) -> tuple[dict[str, Address], list[Finding]]:
    """Return the address of each chosen host, and the problems of the chosen hosts that have none."""
    name = arguments.host
    if name is not None and "@" in name:
        return {name: _address_of(name, arguments.login)}, []
    known, problems = load_addresses(config_path())
    hosts = {name: replace(address, user=arguments.login or "root") for name, address in known.items()}
    if arguments.all:
        return hosts, problems
    if name is None and len(hosts) == 1 and not problems:
        return hosts, []
    if name in hosts:
        return {name: hosts[name]}, []
    for problem in problems:
        if name is None or f"{problem.place}.".startswith(f"hosts.{name}."):
            raise CommandError(f"not upgraded: {problem.place} {problem.sentence}", problem.fix)
    hint = f"use {', '.join(hosts)}, or an address like root@192.0.2.10"
    if name is None:
        raise CommandError("there are several hosts; name one, or give --all", hint)
    raise CommandError(f"{json.dumps(name[:40])} is no host in {config_path()}", hint)


def _address_of(text: str, login: str | None) -> Address:
    address = parse_address(text)
    if address is None:
        raise CommandError(f"{json.dumps(text[:40])} is not an address", "write it like root@192.0.2.10:22")
    return replace(address, user=login or address.user)


def _upgrade(name: str, address: Address) -> bool:
    """Upgrade one host; return whether that worked."""
    # for port 22, ssh's own configuration may name another one
    port = [] if address.port == 22 else ["-p", str(address.port)]
    way = ["ssh", *port, "--", f"{address.user}@{address.host}"]
    command = [*way, _INSTALL.replace("@DIGEST@", bundle_digest())]
    try:
        ran = subprocess.run(command, input=bundle().encode(), stdout=subprocess.PIPE, timeout=SECONDS)
    except FileNotFoundError:
        raise CommandError("ssh is not installed", "install openssh-client") from None
    except subprocess.TimeoutExpired:
        why = "the host now has the old host agent or the new one, but not a damaged one"
        complain(f"{name}: ssh did not end within {SECONDS:g} s; {why}", "run this command again")
        return False
    if ran.returncode == 0:
        say(f"{name}: {ran.stdout.decode('utf-8', 'replace').strip()}")
        return True
    why = "the host could not install the host agent; the old one is still in place"
    if ran.returncode == 255:
        why = "ssh failed; the host now has the old host agent or the new one, but not a damaged one"
    complain(f"{name}: {why}", f"try: {' '.join(way)}")
    return False
