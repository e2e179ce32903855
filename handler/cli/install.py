"""The recipe that sets up a Proxmox host: agent, account (or root's own), key file and sshd's drop-in.

The public key is an argument. This module has no private key. A person pastes the text into a root shell, so every
value in it was checked before (names, numbers, an address).
"""

import ipaddress
from collections.abc import Sequence

from ..agents.pve.account_script import MAKE_ACCOUNT
from ..agents.pve.vm_list import list_of
from ..agents.pve.words import PACKAGED, PASTED
from ..base.templates import choose, fill, read_template
from ..config.model import Host, Vm

# A script for sh. Every handler then logs in again and repeats its unanswered requests. Jobs continue, because their
# input is /dev/null.
END_SESSIONS = f"""\
for pid in $(pgrep --ns $$ --nslist mnt -f '^[^ ]*python3 -IS {PASTED} serve '); do
    [ "$(readlink "/proc/$pid/fd/0")" = /dev/null ] || kill "$pid" || :
done"""


def recipe(host: Host, vms: Sequence[Vm], key: str, sources: str | None = None, *, as_root: bool = False) -> str:
    """Return the recipe for one host and its VMs.

    `key` is the public key, such as `ssh-ed25519 AAAA…`, and `sources` are the handler's addresses and networks. With
    `as_root`, the key logs in to root's own account, from these addresses only. Raises ValueError for an
    account other than the configured one, for a host without a VM, and for a source that is not an address.
    """
    _check_account(host, sources, as_root)
    if not vms:
        raise ValueError(f"no VM names {host.name} in its hosts, so its key would serve none")
    addresses = [] if sources is None else [_read_source(source) for source in sources.split(",")]
    served = list_of(vm.vmid for vm in vms)
    return fill(
        choose(read_template("cli/recipe.sh"), ["root"] if as_root else []),
        name=host.name,
        end_sessions=END_SESSIONS.replace("\n", "\n    "),
        make_account=MAKE_ACCOUNT,
        vms=served,
        user=host.ssh.user,
        key_file="breakglass" if as_root else host.ssh.user,
        host=f"[{host.ssh.host}]" if ":" in host.ssh.host else host.ssh.host,
        port=host.ssh.port,
        login=f"ssh -p {host.ssh.port} -i KEY_FILE {host.ssh.user}@{host.ssh.host}",
        packaged=PACKAGED,
        public=key,
        **{"from": f" --from {addresses[0]}" if addresses else ""},
        key=key.split()[1],
        key_line=f'restrict,command="{PASTED} serve --vms {served}" {key} breakglass power',
        source=",".join(addresses),
        sources=" ".join(addresses) or "ADDRESS",
        example=addresses[0].partition("/")[0] if addresses else "127.0.0.1",
    )


def _check_account(host: Host, sources: str | None, as_root: bool) -> None:
    setting = f"hosts.{host.name}.ssh"
    if as_root and host.ssh.user != "root":
        raise ValueError(f'{setting} logs in as {host.ssh.user}; for --account root, write "root@…" there')
    if as_root and sources is None:
        raise ValueError("--account root needs --from: the key logs in from the handler's addresses only")
    if host.ssh.user == "root" and not as_root:
        raise ValueError(f'{setting} logs in as root; name another account, like "breakglass@…", or add --account root')


def _read_source(source: str) -> str:
    """Return an address or a network in sshd's form. A network may not have bits set after its prefix."""
    if "%" in source:  # after %, ipaddress accepts any text as the scope, even a quote
        raise ValueError(f"--from: {source!r} does not appear to be an address or a network: leave out the %")
    try:
        network = ipaddress.ip_network(source, strict=False)
    except ValueError as error:
        raise ValueError(f"--from: {error}") from None
    return str(network) if "/" in source else str(network.network_address)
