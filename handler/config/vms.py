"""The `[vms.NAME]` tables: each VM and the hosts on which it may run.

An error in an entry disables that VM, and so does a disabled first host. Only claude uses `guest`, so a fault in
`guest` leaves the VM enabled, but claude can't log in to it.
"""

from collections.abc import Iterable, Mapping

from ..base.cures import PROXMOX_NAME
from .addresses import Lines, read_address, read_host_keys
from .hosts import private_key
from .model import Address, Host, Vm, is_guest_command, is_vm_name
from .reader import Entry, is_number, quoted


def read_vm(name: str, entry: Entry, hosts: Mapping[str, Host], hosts_off: Iterable[str]) -> Vm | None:
    """Return the VM, or None if its entry has an error or its first host is disabled."""
    if entry.is_faulty:
        return None
    if not is_vm_name(name):
        entry.problem("", "is not a usable name", "use [a-z][a-z0-9-]{0,31}, and not pve, ssh or claude")
    places = _hosts(entry, hosts, set(hosts_off))
    vmid = _vmid(entry)
    guest, guest_keys, guest_cas, guest_key = _guest(entry.part(), name, places)
    by_hand, drill = entry.get_strs("by_hand"), entry.get_flag("drill")
    if not PROXMOX_NAME.fullmatch(proxmox_name := entry.get_str("name")):
        entry.problem("name", f"is no name of a VM on Proxmox: {quoted(proxmox_name)}", "write what qm list shows")
    last_words = entry.get_flag("last_words", default=True)
    entry.report_unknown()
    if entry.is_faulty or vmid is None or not places:
        return None
    off = tuple(name for name in entry.get_strs("hosts") if name in hosts_off)
    return Vm(
        name, vmid, places, by_hand, guest, guest_keys, guest_cas, drill, off, guest_key, proxmox_name, last_words
    )


def _hosts(entry: Entry, hosts: Mapping[str, Host], hosts_off: set[str]) -> tuple[Host, ...]:
    """Return the hosts that the VM may run on. Only the first one, if disabled, disables the VM."""
    names = entry.get_strs("hosts")
    if entry.data.get("hosts", []) == []:
        entry.problem("hosts", "is missing", f'name the VM\'s host, like hosts = ["{next(iter(hosts), "pve1")}"]')
    for name in names:
        if name in hosts_off:
            table = entry if name == names[0] else entry.part()
            table.problem("hosts", f"names {quoted(name)}, which is disabled", f"correct the error in [hosts.{name}]")
        elif name not in hosts:
            known = ", ".join(hosts) or "one of [hosts]"
            entry.problem("hosts", f"names an unknown host: {quoted(name)}", f"use {known}")
    return tuple(hosts[name] for name in dict.fromkeys(names) if name in hosts)


def _guest(entry: Entry, name: str, hosts: Iterable[Host]) -> tuple[Address | None, Lines, Lines, str]:
    """Return the guest's address, claude's key for it, and its host keys. All empty if there is a fault."""
    if not entry.has("guest"):
        for key in ("guest_host_key", "guest_host_ca", "guest_key", "guest_key_file"):
            if entry.has(key):
                entry.problem(key, "is set without guest", 'add guest = "claude@192.0.2.20:22"')
        return None, (), (), ""
    if not is_guest_command(name):
        entry.problem(
            "guest",
            f'can\'t work: claude logs in with the command "{name}", which the shell has already',
            "rename the VM here",
        )
    guest = read_address(entry, "guest")
    keys, authorities = read_host_keys(entry, "guest_host")
    has_own = entry.has("guest_key", "guest_key_file")
    key = private_key(entry, "guest_key", *(host.key for host in hosts)) if has_own else ""
    return (None, (), (), "") if entry.is_faulty else (guest, keys, authorities, key)


def _vmid(entry: Entry) -> int | None:
    value, vmid = entry.get("vmid"), vmid_in(entry)
    if vmid is None:
        message = "is missing" if value is None else f"is not the number of a VM: {quoted(value)}"
        entry.problem("vmid", message, "write the VM's number on Proxmox, like vmid = 102")
    return vmid


def vmid_in(entry: Entry) -> int | None:
    """Return the VM's number, or None if there is no valid one."""
    vmid = entry.data.get("vmid")
    return vmid if is_number(vmid) and 0 < vmid < 10**9 else None
