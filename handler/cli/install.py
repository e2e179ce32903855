"""The recipe for the Proxmox host: the agent, the account, its key file, and sshd's drop-in.

The public keys are arguments; no private key is in this module. A person pastes the text into a root shell, so every
value in it was checked before (names, numbers, an address).
"""

import ipaddress
from dataclasses import dataclass

from ..config.model import Vm
from ..templates import choose, fill, read_template

AGENT = "/usr/local/sbin/breakglass-pve"
READ_ONLY = "--read-only --as claude"


@dataclass(frozen=True)
class Keys:
    """The public keys, as `ssh-ed25519 AAAA…`; `read_only` is None without agent_key."""

    power: str
    read_only: str | None = None


def recipe(vm: Vm, keys: Keys, source: str | None = None) -> str:
    """Return the recipe for one VM; `source` is the handler's address or network.

    Raises ValueError for what can't work: root's own login, one key for both lines, a source that is not an address.
    """
    if vm.ssh.user == "root":
        raise ValueError(f'vms.{vm.name}.ssh logs in as root; name an account of its own, like "breakglass@…"')
    if keys.power == keys.read_only:
        raise ValueError(f"vms.{vm.name}.agent_key is the same key as key; the host would obey its first line only")
    if source is not None:
        ipaddress.ip_network(source, strict=False)
    chosen = {"from": source, "no_read_only_key": not keys.read_only}
    return fill(
        choose(read_template("cli/recipe.sh"), [name for name, is_so in chosen.items() if is_so]),
        vm=vm.name,
        vmid=vm.vmid,
        user=vm.ssh.user,
        host=f"[{vm.ssh.host}]" if ":" in vm.ssh.host else vm.ssh.host,
        login=f"ssh -p {vm.ssh.port} -i KEY_FILE {vm.ssh.user}@{vm.ssh.host}",
        keys=" ".join(f"-e '{key.split()[1]}'" for key in (keys.power, keys.read_only) if key),
        key_lines="\n".join(_key_lines(vm, keys)),
        source=source or "ADDRESS",
    )


def _key_lines(vm: Vm, keys: Keys) -> list[str]:
    serve = f"{AGENT} serve --vm {vm.vmid}"
    lines = [f'restrict,command="{serve}" {keys.power} breakglass power {vm.name}']
    if keys.read_only:
        lines.append(f'restrict,command="{serve} {READ_ONLY}" {keys.read_only} breakglass read {vm.name}')
    return lines
