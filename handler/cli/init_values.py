"""Parses each value for `breakglass init`, or raises ValueError, which says what is wrong. Pure."""

import ipaddress
import json
import re
from collections.abc import Mapping

from ..config.addresses import is_public_key, parse_address
from ..config.model import is_caller_name, is_host_name, is_vm_name
from ..config.new_file import NewVm
from ..config.server import normal_url

ACCOUNT = "breakglass"  # on the Proxmox host, if the address has no user
EXAMPLES = {"--host": "pve1=192.0.2.10", "--host-key": "'pve1=ssh-ed25519 AAAA…'", "--vm": "devvm=102@pve1"}
_VMID = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)


def _quoted(text: str) -> str:
    return json.dumps(text[:60], ensure_ascii=False)


def read_url(text: str) -> str:
    """Return the URL of the handler in normal form."""
    url = normal_url(text)
    if url is None:
        raise ValueError(
            f"{_quoted(text)} is not a URL; write it as browsers show it, like https://rescue.example.org/"
        )
    return url


def _parts(flag: str, text: str) -> tuple[str, str]:
    """Return the parts before and after the first equals sign."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{_quoted(text)} has no =; write it like {EXAMPLES[flag]}")
    return name, value


def add_host(found: dict[str, str], text: str) -> str:
    """Add a host's address by its name, which no other host may have; return the name."""
    name, address = _parts("--host", text)
    if not is_host_name(name):
        raise ValueError(f"{_quoted(name)} is not a host's name; use letters, digits and -, like pve1")
    if name in found:
        raise ValueError(f"{name} is named twice")
    found[name] = read_address(address)
    return name


def add_host_key(found: dict[str, str], hosts: Mapping[str, str], text: str) -> None:
    """Add the key of a host that was added and has no key yet."""
    name, key = _parts("--host-key", text)
    if name not in hosts:
        raise ValueError(f"{_quoted(name)} is not one of the --host names")
    if name in found:
        raise ValueError(f"{name} has two --host-key; add a spare key to the configuration later")
    found[name] = read_host_key(key)


def read_address(text: str) -> str:
    """Return an SSH address with its user and port. An IPv6 address needs no brackets if there is no port."""
    user, at, host = text.rpartition("@")
    try:
        host = f"[{ipaddress.IPv6Address(host)}]"
    except ValueError:
        pass  # a name, IPv4, or already in brackets
    address = parse_address(f"{user if at else ACCOUNT}@{host}")
    try:
        if address is None or address.host.startswith("-"):
            raise ValueError
        if ":" in address.host:
            ipaddress.IPv6Address(address.host)
    except ValueError:
        message = f"{_quoted(text)} is not an address; write it like 192.0.2.10, or breakglass@[2001:db8::1]:22"
        raise ValueError(message) from None
    return f"{address.user}@{address}"


def read_host_key(text: str) -> str:
    """Return a host's public key without its comment, or "any"."""
    if text.strip() == "any":
        return "any"
    if not is_public_key(text.strip()):
        need = "copy the line of /etc/ssh/ssh_host_ed25519_key.pub, or write the word any to pin it later"
        raise ValueError(f"{_quoted(text)} is not a public key; {need}")
    return " ".join(text.split()[:2])


def add_vm(found: dict[str, NewVm], hosts: Mapping[str, str], text: str) -> str:
    """Add a VM by its name, which no other VM may have; return the name."""
    name, rest = _parts("--vm", text)
    number, _, where = rest.partition("@")
    if not is_vm_name(name):
        raise ValueError(f"{_quoted(name)} can't name a VM; use a-z, 0-9 and -, like devvm, and not pve, ssh or claude")
    if name in found:
        raise ValueError(f"{name} is named twice")
    if not where and len(hosts) > 1:
        raise ValueError(f"{name} names none of your {len(hosts)} hosts; write {name}={number}@{','.join(hosts)}")
    places = read_places(where, hosts)
    found[name] = NewVm(read_vmid(number, places, found), places)
    return name


def read_places(text: str, hosts: Mapping[str, str]) -> tuple[str, ...]:
    """Return the hosts that a VM may run on. If there is only one host, it can be left out."""
    if not text and len(hosts) == 1:
        return tuple(hosts)
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in hosts:
            raise ValueError(f"{_quoted(name)} is not one of your hosts; use one or more of {','.join(hosts)}")
    return names


def read_vmid(text: str, places: tuple[str, ...], others: Mapping[str, NewVm]) -> int:
    """Return a VM's number, which no other VM may have on one of its hosts."""
    if not _VMID.fullmatch(text):
        raise ValueError(f"{_quoted(text)} is not the number of a VM; write it like 102")
    for name, vm in others.items():
        if vm.vmid == int(text) and not set(places).isdisjoint(vm.hosts):
            raise ValueError(f"{text} is already the number of {name}")
    return int(text)


def read_operator(text: str) -> str:
    """Return the name of a caller."""
    if not is_caller_name(text):
        need = "use letters, digits and @ . _ -, at most 64 of them, and no dot at the beginning"
        raise ValueError(f"{_quoted(text)} can't name a caller; {need}")
    return text
