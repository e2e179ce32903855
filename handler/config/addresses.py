"""Addresses of SSH servers and their pinned host keys, for the tables that have them. Pure."""

import binascii
import re

from .model import Address
from .reader import Entry, quoted

_ADDRESS = re.compile(
    r"(?P<user>[a-z_][a-z0-9_-]*)@(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?"
)
_HOST_KEY = re.compile(r"(?:ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/=]+(?: .*)?")
_HOST_KEY_HINT = "copy it on the host's console: cat /etc/ssh/ssh_host_ed25519_key.pub"

Lines = tuple[str, ...]


def parse_address(text: str) -> Address | None:
    """Return the address `user@host[:port]`, or None for any other text."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"] or 22) not in range(1, 65536):
        return None
    return Address(match["user"], match["host"].strip("[]"), int(match["port"] or 22))


def read_address(entry: Entry, key: str) -> Address | None:
    """Return the address in a setting. For anything else, record a problem and return None."""
    text = entry.get_str(key)
    address = parse_address(text)
    if address is None:
        message = f"is not an address: {quoted(text)}" if text else "is missing"
        entry.problem(key, message, f'write it like {key} = "breakglass@192.0.2.10:22"')
    return address


def is_public_key(line: str) -> bool:
    """Return whether a line is a complete OpenSSH public key: a type, and base64 that begins with that type."""
    if not _HOST_KEY.fullmatch(line):
        return False
    kind, encoded = line.split(" ")[:2]
    try:
        blob = binascii.a2b_base64(encoded, strict_mode=True)
    except binascii.Error:
        return False
    fields = []
    while blob:
        length, blob = int.from_bytes(blob[:4]), blob[4:]
        fields.append(blob[:length])
        if len(fields[-1]) < length:
            return False
        blob = blob[length:]
    return len(fields) > 1 and fields[0] == kind.encode()


def read_host_keys(entry: Entry, prefix: str) -> tuple[Lines, Lines]:
    """Return the pinned keys and the certificate authorities; both are empty for the explicit word "any"."""
    pin, ca = f"{prefix}_key", f"{prefix}_ca"
    if entry.get(pin) == "any":
        if entry.has(ca):
            entry.problem(pin, f'can\'t be "any" together with {ca}', "remove one of the two")
        return (), ()
    found = {key: entry.get_strs(key) for key in (pin, ca)}
    for key, lines in found.items():
        for line in lines:
            if not is_public_key(line):
                entry.problem(key, f"is not a public key: {quoted(line)}", _HOST_KEY_HINT)
    if not any(found.values()):
        entry.problem(pin, "is missing", f'pin it: {pin} = ["ssh-ed25519 AAAA…"], see breakglass docs admin')
    return found[pin], found[ca]
