"""`breakglass host upgrade`: copy the host agent to Proxmox hosts, through the operator's own `ssh`.

It needs no secret: of the configuration it reads the hosts' addresses alone, and an address can be named instead.
"""

import argparse
import json
import subprocess
from dataclasses import replace

from ..agents.bundle import bundle, bundle_digest
from ..config.addresses import parse_address
from ..config.load import config_path, load_addresses
from ..config.model import Address
from ..findings import Finding
from .errors import CommandError
from .install import AGENT, END_SESSIONS
from .output import DONE, FAILED, complain, say

# The new file is checked and renamed into place, so that half a file is never run. The last line is the result.
_INSTALL = f"""\
set -e
umask 022
before=$({AGENT} --version 2>/dev/null || echo none)
cat >{AGENT}.new
echo '@DIGEST@  {AGENT}.new' | sha256sum -c --status || {{ echo 'the copy is damaged' >&2; exit 1; }}
chown root:root {AGENT}.new
chmod 0755 {AGENT}.new
after=$({AGENT}.new --version)
mv -f {AGENT}.new {AGENT}
{END_SESSIONS}
echo "$before -> $after"
"""
SECONDS = 120.0  # a person may have to type a passphrase


def host_upgrade(arguments: argparse.Namespace) -> int:
    """Copy the host agent to one host or to all; print each host's versions, the one before and the one after."""
    hosts, problems = _find_hosts(arguments)
    done = [_upgrade(name, address) for name, address in hosts.items()]
    for problem in problems:
        complain(f"not upgraded: {problem.place} {problem.sentence}", problem.fix)
    if problems or not all(done):
        return FAILED
    say("the handlers log in again, to the new host agent; jobs that run go on")
    return DONE


def _find_hosts(arguments: argparse.Namespace) -> tuple[dict[str, Address], list[Finding]]:
    """Return where to log in for each host that is meant, and the problems with others that are meant."""
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
    """Upgrade one host; tell whether that worked."""
    port = [] if address.port == 22 else ["-p", str(address.port)]  # ssh's own setting may name another one
    way = ["ssh", *port, "--", f"{address.user}@{address.host}"]
    command = [*way, _INSTALL.replace("@DIGEST@", bundle_digest())]
    try:
        ran = subprocess.run(command, input=bundle().encode(), stdout=subprocess.PIPE, timeout=SECONDS)
    except FileNotFoundError:
        raise CommandError("ssh is not installed", "install openssh-client") from None
    except subprocess.TimeoutExpired:
        why = "the host agent there is the old one or the new one, both whole"
        complain(f"{name}: ssh did not end within {SECONDS:g} s; {why}", "run this command again")
        return False
    if ran.returncode == 0:
        say(f"{name}: {ran.stdout.decode('utf-8', 'replace').strip()}")
        return True
    why = "the host could not install it; the host agent there is as it was"
    if ran.returncode == 255:
        why = "ssh failed; the host agent there is the old one or the new one, both whole"
    complain(f"{name}: {why}", f"try: {' '.join(way)}")
    return False
