"""The `[vms.NAME]` tables: each VM and how to reach its host. Pure.

A fault in an entry switches that VM off. A fault in what only claude uses (`agent_key`, `guest`) leaves the VM on, and
claude without it.
"""

import re

from .model import Address, Vm, is_guest_command, is_vm_name
from .reader import Entry, is_number, quoted

_ADDRESS = re.compile(
    r"(?P<user>[a-z_][a-z0-9_-]*)@(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?"
)
_HOST_KEY = re.compile(r"(?:ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/=]+(?: .*)?")
_HOST_KEY_HINT = "copy it on the host's console: cat /etc/ssh/ssh_host_ed25519_key.pub"

_Lines = tuple[str, ...]


def read_vm(name: str, entry: Entry) -> Vm | None:
    """Return the VM; None when its entry has a fault."""
    if entry.is_faulty:
        return None
    if not is_vm_name(name):
        entry.problem("", "is not a usable name", "use [a-z][a-z0-9-]{0,31}, and not pve, ssh or claude")
    ssh, key = _address(entry, "ssh"), entry.secrets("key")
    host_keys, host_cas = _host_keys(entry, "host")
    vmid = _vmid(entry)
    agent_key = _agent_key(entry.part(), key)
    guest, guest_keys, guest_cas = _guest(entry.part(), name)
    by_hand = entry.get_strs("by_hand")
    entry.report_unknown()
    if entry.is_faulty or vmid is None or ssh is None:
        return None
    commands = by_hand or _by_hand(ssh, vmid)
    return Vm(name, vmid, ssh, key[0], host_keys, host_cas, commands, agent_key, guest, guest_keys, guest_cas)


def _agent_key(entry: Entry, power_keys: list[str]) -> str:
    """Return the read-only key; an empty text if there is none or it has a fault."""
    if not entry.has("agent_key", "agent_key_file"):
        return ""
    keys = entry.secrets("agent_key")
    if power_keys and power_keys[0].split() in [key.split() for key in keys]:
        entry.problem("agent_key", "is the power key", "give claude a key of its own: docs/runbook.md")
    return "" if entry.is_faulty else keys[0]


def _guest(entry: Entry, name: str) -> tuple[Address | None, _Lines, _Lines]:
    """Return where claude logs in to the guest, and the guest's host keys; nothing if there is a fault."""
    if not entry.has("guest"):
        for key in ("guest_host_key", "guest_host_ca"):
            if entry.has(key):
                entry.problem(key, "is set without guest", 'add guest = "claude@192.0.2.20:22"')
        return None, (), ()
    if not is_guest_command(name):
        entry.problem(
            "guest",
            f'can\'t work: claude logs in with the command "{name}", which the shell has already',
            "rename the VM here",
        )
    guest = _address(entry, "guest")
    keys, authorities = _host_keys(entry, "guest_host")
    return (None, (), ()) if entry.is_faulty else (guest, keys, authorities)


def _vmid(entry: Entry) -> int | None:
    value, vmid = entry.get("vmid"), vmid_in(entry)
    if vmid is None:
        message = "is missing" if value is None else f"is not the number of a VM: {quoted(value)}"
        entry.problem("vmid", message, "write the VM's number on Proxmox, like vmid = 102")
    return vmid


def _address(entry: Entry, key: str) -> Address | None:
    text = entry.get_str(key)
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"] or 22) not in range(1, 65536):
        message = f"is not an address: {quoted(text)}" if text else "is missing"
        entry.problem(key, message, f'write it like {key} = "breakglass@192.0.2.10:22"')
        return None
    return Address(match["user"], match["host"].strip("[]"), int(match["port"] or 22))


def _host_keys(entry: Entry, prefix: str) -> tuple[_Lines, _Lines]:
    """Return the pinned keys and the certificate authorities; both empty for the explicit word "any"."""
    pin, ca = f"{prefix}_key", f"{prefix}_ca"
    if entry.get(pin) == "any":
        if entry.has(ca):
            entry.problem(pin, f'can\'t be "any" together with {ca}', "take out one of the two")
        return (), ()
    found = {key: entry.get_strs(key) for key in (pin, ca)}
    for key, lines in found.items():
        for line in lines:
            if not _HOST_KEY.fullmatch(line):
                entry.problem(key, f"is not a public key: {quoted(line)}", _HOST_KEY_HINT)
    if not any(found.values()):
        entry.problem(pin, "is missing", f'pin it: {pin} = ["ssh-ed25519 AAAA…"], see docs/runbook.md')
    return found[pin], found[ca]


def vmid_in(entry: Entry) -> int | None:
    """Return the VM's number; None if there is no usable one."""
    vmid = entry.data.get("vmid")
    return vmid if is_number(vmid) and 0 < vmid < 10**9 else None


def _by_hand(ssh: Address, vmid: int) -> _Lines:
    """Return the commands that root types on the host if Breakglass can't be used."""
    return tuple(f"ssh root@{ssh.host} qm {verb} {vmid}" for verb in ("status", "reset", "stop", "start"))
