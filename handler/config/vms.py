"""Which VMs there are and the road to each: the `[vms.NAME]` tables. A fault in an entry switches that VM off,
one in what only claude uses (`agent_key`, `guest`) leaves claude without it. Pure."""

import re
from dataclasses import replace

from .model import Address, Vm, is_guest_command, is_vm_name
from .reader import Table, Tables

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
    ssh = _address(tables, path, table, "ssh")
    key = tables.secrets(path, table, "key")
    host_keys, host_cas = _host_keys(tables, path, table, "host")
    by_hand = tables.get_strs(path, table, "by_hand")
    if vmid is None or ssh is None or len(tables.problems) > before:
        return None
    vm = Vm(name, vmid, ssh, key[0], host_keys, host_cas, by_hand or _by_hand(ssh, vmid))
    return _with_guest(tables, path, table, _with_agent_key(tables, path, table, vm))


def _with_agent_key(tables: Tables, path: str, table: Table, vm: Vm) -> Vm:
    before = len(tables.problems)
    if "agent_key" not in table and "agent_key_file" not in table:
        return vm
    keys = tables.secrets(path, table, "agent_key")
    if vm.key.split() in [key.split() for key in keys]:
        tables.problem(f"{path}.agent_key", "is the power key", "give claude a key of its own: docs/runbook.md")
    return vm if len(tables.problems) > before else replace(vm, agent_key=keys[0])


def _with_guest(tables: Tables, path: str, table: Table, vm: Vm) -> Vm:
    before = len(tables.problems)
    if "guest" not in table:
        for key in ("guest_host_key", "guest_host_ca"):
            if key in table:
                tables.problem(f"{path}.{key}", "requires guest", 'guest = "claude@192.0.2.20:22"')
        return vm
    if not is_guest_command(vm.name):
        tables.problem(f"{path}.guest", f'makes "{vm.name}" a command, and the shell has one', "rename the VM here")
    guest = _address(tables, path, table, "guest")
    keys, authorities = _host_keys(tables, path, table, "guest_host")
    if len(tables.problems) > before:
        return vm
    return replace(vm, guest=guest, guest_host_keys=keys, guest_host_cas=authorities)


def _vmid(tables: Tables, path: str, table: Table) -> int | None:
    vmid = vmid_in(table)
    if vmid is None:
        tables.problem(f"{path}.vmid", "is missing or not a number", "the VM's number on Proxmox, like 102")
    return vmid


def _address(tables: Tables, path: str, table: Table, key: str) -> Address | None:
    match = _ADDRESS.fullmatch(tables.get_str(path, table, key, ""))
    if match is None or int(match["port"] or 22) not in range(1, 65536):
        tables.problem(f"{path}.{key}", "is missing or not an address", 'like "breakglass@192.0.2.10:22"')
        return None
    return Address(match["user"], match["host"].strip("[]"), int(match["port"] or 22))


def _host_keys(tables: Tables, path: str, table: Table, of: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the pinned keys and the certificate authorities; both empty for the explicit word "any"."""
    pin, ca = f"{of}_key", f"{of}_ca"
    if table.get(pin) == "any":
        if ca in table:
            tables.problem(f"{path}.{pin}", f'is "any" beside a {ca}', "take out one of the two")
        return (), ()
    pinned, authorities = tables.get_strs(path, table, pin), tables.get_strs(path, table, ca)
    for key, lines in ((pin, pinned), (ca, authorities)):
        for line in lines:
            if not _HOST_KEY.fullmatch(line):
                tables.problem(
                    f"{path}.{key}",
                    f'is not a public key: "{line[:40]}"',
                    "like ssh-ed25519 AAAA…, from the host's console: cat /etc/ssh/ssh_host_ed25519_key.pub",
                )
    if not pinned and not authorities:
        tables.problem(f"{path}.{pin}", "is missing", f'pin it: {pin} = ["ssh-ed25519 AAAA…"], see docs/runbook.md')
    return pinned, authorities


def vmid_in(table: Table | None) -> int | None:
    """Return the VM's number, None when there is no usable one."""
    vmid = None if table is None else table.get("vmid")
    return vmid if isinstance(vmid, int) and not isinstance(vmid, bool) and 0 < vmid < 10**9 else None


def _by_hand(ssh: Address, vmid: int) -> tuple[str, ...]:
    """Return what a person types when nothing of ours works."""
    return tuple(f"ssh root@{ssh.host} qm {verb} {vmid}" for verb in ("status", "reset", "stop", "start"))
