"""The `[hosts.NAME]` tables: each Proxmox node and how to reach it.

An error in an entry disables that host, and each VM that runs there.
"""

from collections.abc import Mapping

from .addresses import read_address, read_host_keys
from .model import Host, is_host_name
from .reader import Entry, in_file, quoted
from .ssh_keys import key_fault, public_key

_OWN_KEY = "make another key for it: ssh-keygen -t ed25519 -N '' -f NAME; see breakglass docs admin"


def read_hosts(tables: Mapping[str, Entry]) -> dict[str, Host]:
    """Return the hosts without a fault by name."""
    return {name: host for name, entry in tables.items() if (host := read_host(name, entry))}


def read_host(name: str, entry: Entry) -> Host | None:
    """Return the host, or None if its entry has a fault."""
    if entry.is_faulty:
        return None
    if not is_host_name(name):
        entry.problem("", "is not a usable name", "use [A-Za-z0-9][A-Za-z0-9-]{0,62}, like the node's name in Proxmox")
    ssh, key = read_address(entry, "ssh"), private_key(entry, "key")
    host_keys, host_cas = read_host_keys(entry, "host")
    node, cluster = entry.get_str("node"), entry.get_str("cluster")
    if node and not is_host_name(node):
        entry.problem("node", f"is not a node's name: {quoted(node)}", "run hostname -s on the host, and copy it")
    entry.report_unknown()
    if entry.is_faulty or ssh is None:
        return None
    return Host(name, ssh, key, host_keys, host_cas, node, cluster)


def private_key(entry: Entry, name: str, *power_keys: str) -> str:
    """Return the first private key in the table. If it is invalid, record a problem and return an empty text.

    It must differ from every power key.
    """
    found = entry.secrets(name)
    for file, private in found[:1]:
        fault = key_fault(private, file)
        if not fault and public_key(private) in [public_key(key) for key in power_keys if key]:
            fault = "key-is-power-key", "is the power key", _OWN_KEY
        if fault:
            code, sentence, fix = fault
            entry.problem(f"{name}_file" if file else name, sentence + in_file(file), fix, code)
            return ""
    return found[0][1].strip() if found else ""
