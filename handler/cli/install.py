"""The recipe for the Proxmox host: the agent, the account, its key file, and sshd's drop-in.

The public keys are arguments; no private key is in this module. A person pastes the text into a root shell, so every
value in it was checked before (names, numbers, an address).
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from ..agents.pve.vm_list import VmList, list_of
from ..config.model import Host, Vm
from ..templates import choose, fill, read_template

AGENT = "/usr/local/sbin/breakglass-pve"
READ_ONLY = "--read-only --as claude"


@dataclass(frozen=True)
class Keys:
    """The public keys, as `ssh-ed25519 AAAA…`; `read_only` is None without read_only_key."""

    power: str
    read_only: str | None = None


def recipe(host: Host, vms: Sequence[Vm], keys: Keys, source: str | None = None) -> str:
    """Return the recipe for one host and its VMs; `source` is the handler's address or network.

    Raises ValueError for what can't work: root's own login, a host without a VM, a source that is not an address.
    """
    if host.ssh.user == "root":
        raise ValueError(f'hosts.{host.name}.ssh logs in as root; name an account of its own, like "breakglass@…"')
    if not vms:
        raise ValueError(f"no VM names {host.name} in its hosts, so its keys would serve none")
    if source is not None:
        _check_source(source)
    chosen = {"from": source, "no_read_only_key": not keys.read_only}
    served = list_of(vm.vmid for vm in vms)
    return fill(
        choose(read_template("cli/recipe.sh"), [name for name, is_so in chosen.items() if is_so]),
        name=host.name,
        vms=served,
        user=host.ssh.user,
        host=f"[{host.ssh.host}]" if ":" in host.ssh.host else host.ssh.host,
        login=f"ssh -p {host.ssh.port} -i KEY_FILE {host.ssh.user}@{host.ssh.host}",
        keys=" ".join(f"-e '{key.split()[1]}'" for key in (keys.power, keys.read_only) if key),
        key_lines="\n".join(_key_lines(served, keys)),
        source=source or "ADDRESS",
    )


def _check_source(source: str) -> None:
    if "%" in source:  # a scope, in which ipaddress takes any text, a quote too
        raise ValueError(f"{source!r} does not appear to be an address or a network: leave out the %")
    ipaddress.ip_network(source, strict=False)


def _key_lines(served: VmList, keys: Keys) -> list[str]:
    serve = f"{AGENT} serve --vms {served}"
    lines = [f'restrict,command="{serve}" {keys.power} breakglass power']
    if keys.read_only:
        lines.append(f'restrict,command="{serve} {READ_ONLY}" {keys.read_only} breakglass read')
    return lines
