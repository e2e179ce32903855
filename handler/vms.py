"""Which VMs there are and the road to each: the `[vms.NAME]` tables. A fault in an entry switches that VM off. Pure."""

import re

from .settings import Address, Vm, is_vm_name
from .tables import Table, Tables

_ADDRESS = re.compile(
    r"(?P<user>[a-z_][a-z0-9_-]*)@(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?"
)
_HOST_KEY = re.compile(r"(?:ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/=]+(?: .*)?")
_VM_KEYS = (
    "ssh",
    "key",
    "key_file",
    "host_key",
    "host_ca",
    "vmid",
    "agent_key",
    "agent_key_file",
    "guest",
    "guest_host_key",
    "guest_host_ca",
    "by_hand",
)


def read_vm(tables: Tables, name: str, table: Table | None) -> Vm | None:
    """Return the VM; None when its entry has a fault."""
    if table is None:
        return None
    path, before = f"vms.{name}", len(tables.problems)
    if not is_vm_name(name):
        tables.problem(path, "is not a usable name", "[a-z][a-z0-9-]{0,31}, and not pve, ssh or claude")
    tables.unknown(path, table, _VM_KEYS)
    vmid = _vmid(tables, path, table)
    ssh = _address(tables, path, table)
    key = tables.secrets(path, table, "key")
    host_keys, host_cas = _host_keys(tables, path, table)
    by_hand = tables.texts(path, table, "by_hand")
    if vmid is None or ssh is None or len(tables.problems) > before:
        return None
    return Vm(name, vmid, ssh, key[0], host_keys, host_cas, by_hand or _by_hand(ssh, vmid))


def _vmid(tables: Tables, path: str, table: Table) -> int | None:
    vmid = vmid_in(table)
    if vmid is None:
        tables.problem(f"{path}.vmid", "is missing or not a number", "the VM's number on Proxmox, like 102")
    return vmid


def _address(tables: Tables, path: str, table: Table) -> Address | None:
    match = _ADDRESS.fullmatch(tables.text(path, table, "ssh", ""))
    if match is None or int(match["port"] or 22) not in range(1, 65536):
        tables.problem(f"{path}.ssh", "is missing or not an address", 'like "breakglass@192.0.2.10:22"')
        return None
    return Address(match["user"], match["host"].strip("[]"), int(match["port"] or 22))


def _host_keys(tables: Tables, path: str, table: Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the pinned keys and the certificate authorities; both empty for the explicit word "any"."""
    if table.get("host_key") == "any":
        if "host_ca" in table:
            tables.problem(f"{path}.host_key", 'is "any" beside a host_ca', "take out one of the two")
        return (), ()
    pinned, authorities = tables.texts(path, table, "host_key"), tables.texts(path, table, "host_ca")
    for key, lines in (("host_key", pinned), ("host_ca", authorities)):
        for line in lines:
            if not _HOST_KEY.fullmatch(line):
                tables.problem(f"{path}.{key}", f'is not a public key: "{line[:40]}"', "a line of ssh-keyscan, no name")
    if not pinned and not authorities:
        tables.problem(
            f"{path}.host_key", "is missing", 'pin it: host_key = ["ssh-ed25519 AAAA…"], see docs/runbook.md'
        )
    return pinned, authorities


def vmid_in(table: Table | None) -> int | None:
    """Return the VM's number, None when there is no usable one."""
    vmid = None if table is None else table.get("vmid")
    return vmid if isinstance(vmid, int) and not isinstance(vmid, bool) and 0 < vmid < 10**9 else None


def _by_hand(ssh: Address, vmid: int) -> tuple[str, ...]:
    """Return what a person types when nothing of ours works."""
    return tuple(f"ssh root@{ssh.host} qm {verb} {vmid}" for verb in ("status", "reset", "stop", "start"))
