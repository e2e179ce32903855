"""`breakglass host upgrade`: copies the host agent to Proxmox hosts, through the operator's own `ssh`.

The command needs no secret, because it reads only the hosts' addresses from the configuration, or takes an address
from the command line.
"""

import argparse
import json
import subprocess
from dataclasses import replace
from typing import NamedTuple

from ..agents.bundle import bundle, bundle_digest
from ..agents.pve.words import PACKAGED, PASTED
from ..base.findings import Finding
from ..config.addresses import parse_address
from ..config.load import config_path, load_addresses
from ..config.model import Address
from .install import END_SESSIONS
from .output import DONE, FAILED, CommandError, complain, say

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


class Upgrade(NamedTuple):
    """What was done on a host: the version before and after, or why the command failed there."""

    host: str
    before: str | None = None
    after: str | None = None
    error: str | None = None


def host_upgrade(arguments: argparse.Namespace) -> int:
    """Copy the host agent to one host or to all. Print the old and the new version of each host."""
    hosts, problems = _find_hosts(arguments)
    rows = []
    for name, address in hosts.items():
        rows.append(row := _upgrade(name, address))
        if row.error is None and not arguments.json:
            say(f"{name}: {row.before} -> {row.after}")
    for problem in problems:
        sentence = f"{problem.place} {problem.sentence}"
        complain(f"not upgraded: {sentence}", problem.fix)
        rows.append(Upgrade(problem.place.split(".")[1], error=sentence))
    is_done = all(row.error is None for row in rows)
    if arguments.json:
        say(json.dumps({"hosts": [row._asdict() for row in rows]}))
    elif is_done:
        say("each handler then logs in again and gets the new host agent; running jobs continue")
    return DONE if is_done else FAILED


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


def _upgrade(name: str, address: Address) -> Upgrade:
    """Upgrade one host, and print an error on stderr; return what was done."""
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
        return _fail(name, f"ssh did not end within {SECONDS:g} s; {why}", "run this command again")
    if ran.returncode == 0:
        before, _, after = ran.stdout.decode("utf-8", "replace").strip().rpartition("\n")[2].partition(" -> ")
        return Upgrade(name, before, after)
    why = "the host could not install the host agent; the old one is still in place"
    if ran.returncode == 255:
        why = "ssh failed; the host now has the old host agent or the new one, but not a damaged one"
    return _fail(name, why, f"try: {' '.join(way)}")


def _fail(name: str, why: str, hint: str) -> Upgrade:
    complain(f"{name}: {why}", hint)
    return Upgrade(name, error=why)
