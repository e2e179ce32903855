"""`breakglass host upgrade`: copy the host agent to Proxmox hosts, through the operator's own `ssh`."""

import argparse
import os
import subprocess

from ..agents.bundle import bundle, bundle_digest
from ..config.load import config_path, load_config
from ..config.model import Host
from .errors import CommandError
from .host import find_host
from .install import AGENT
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
echo "$before -> $after"
"""
SECONDS = 120.0  # a person may have to type a passphrase


def host_upgrade(arguments: argparse.Namespace) -> int:
    """Copy the host agent to one host or to all; print each host's versions, the one before and the one after."""
    config = load_config(config_path(), os.environ)
    hosts = list(config.hosts.values()) if arguments.all else [find_host(config, arguments.host)]
    done = [_upgrade(host, arguments.login) for host in hosts]
    if arguments.all and config.hosts_off:
        complain(f"not upgraded, because their entries have a fault: {', '.join(config.hosts_off)}", "mend them")
        return FAILED
    if not all(done):
        return FAILED
    say("a session that is open goes on in the new file by itself, within about 12 s")
    return DONE


def _upgrade(host: Host, login: str) -> bool:
    """Upgrade one host; tell whether that worked."""
    way = ["ssh", "-p", str(host.ssh.port), "--", f"{login}@{host.ssh.host}"]
    command = [*way, _INSTALL.replace("@DIGEST@", bundle_digest())]
    try:
        ran = subprocess.run(command, input=bundle().encode(), stdout=subprocess.PIPE, timeout=SECONDS)
    except FileNotFoundError:
        raise CommandError("ssh is not installed", "install openssh-client") from None
    except subprocess.TimeoutExpired:
        complain(f"{host.name}: no end in {SECONDS:g} s", "the agent there is the old one or the new one, both whole")
        return False
    if ran.returncode == 0:
        say(f"{host.name}: {ran.stdout.decode('utf-8', 'replace').strip()}")
        return True
    why = "the host could not install it; the host agent there is as it was"
    if ran.returncode == 255:
        why = "ssh failed; the host agent there is the old one or the new one, both whole"
    complain(f"{host.name}: {why}", f"try: {' '.join(way)}")
    return False
