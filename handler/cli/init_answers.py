"""Reads the input of `breakglass init` from flags, and asks a person for the rest.

An answer has the same format as the flag's value, so the same function reads both.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from ..config.new_file import NewConfig, NewHost, NewVm
from . import init_values as values
from .output import CommandError, complain

T = TypeVar("T")
Ask = Callable[[str], str]

HELP = "breakglass init --help"
KEY_COMMAND = "cat /etc/ssh/ssh_host_ed25519_key.pub"


def read_answers(arguments: argparse.Namespace, ask: Ask | None) -> NewConfig:
    """Return the values of the flags, and a person's answers for the missing ones.

    Raises CommandError if a flag is wrong, if a flag is missing and no person can be asked, and if the input ends
    early.
    """
    missing = find_missing(arguments)
    if ask is None:
        if missing:
            hint = f"add what is missing; see {HELP}"
            verb = "is" if len(missing) == 1 else "are"
            raise CommandError(f"nothing was written: {' and '.join(missing)} {verb} missing", hint)
        ask = _answer_nothing
    addresses: dict[str, str] = {}
    vms: dict[str, NewVm] = {}
    try:
        question = "URL of this handler, like https://rescue.example.org/: "
        url = _read_one("--url", arguments.url, values.read_url, ask, question)
        _read_several("--host", arguments.host, partial(values.add_host, addresses), ask, "Proxmox host")
        keys = _read_host_keys(arguments.host_key or [], addresses, ask)
        _read_several("--vm", arguments.vm, partial(values.add_vm, vms, addresses), ask, "VM")
        question = "your name, for the record of each verb: "
        operator = _read_one("--operator", arguments.operator, values.read_operator, ask, question)
    except EOFError:
        raise CommandError("nothing was written: the input ended before the last question", "run this again") from None
    hosts = {name: NewHost(address, keys[name]) for name, address in addresses.items()}
    return NewConfig(url, operator, hosts, vms)


def find_missing(arguments: argparse.Namespace) -> list[str]:
    """Return the flags that are needed and not given."""
    needed = {"--url": arguments.url, "--host": arguments.host, "--vm": arguments.vm, "--operator": arguments.operator}
    missing = [flag for flag, value in needed.items() if value is None]
    with_key = {given.partition("=")[0] for given in arguments.host_key or []}
    hosts = [given.partition("=")[0] for given in arguments.host or ()]
    return missing + [f"--host-key {name}=…" for name in dict.fromkeys(hosts) if name not in with_key]


def _answer_nothing(question: str) -> str:
    raise EOFError


def _read_flag(flag: str, value: str, read: Callable[[str], T]) -> T:
    """Return the value of a flag. Raises CommandError with the flag's name."""
    try:
        return read(value)
    except ValueError as error:
        raise CommandError(f"nothing was written: {flag}: {error}", HELP) from None


def _ask_until(ask: Ask, question: str, read: Callable[[str], T]) -> T:
    """Ask until an answer is valid, and return its value."""
    while True:
        try:
            return read(ask(question).strip())
        except ValueError as error:
            complain(str(error))


def _read_one(flag: str, value: str | None, read: Callable[[str], str], ask: Ask, question: str) -> str:
    return _ask_until(ask, question, read) if value is None else _read_flag(flag, value, read)


def _read_several(flag: str, given: Sequence[str] | None, add: Callable[[str], str], ask: Ask, what: str) -> None:
    """Add each value of a flag. Without the flag, ask for one value, and for more until an answer is empty."""
    for value in given or ():
        _read_flag(flag, value, add)
    if not given:
        _ask_until(ask, f"{what}, like {values.EXAMPLES[flag]}: ", add)
        while _ask_until(ask, f"another {what} (Enter: none): ", lambda text: text and add(text)):
            pass


def _read_host_keys(given: Sequence[str], addresses: Mapping[str, str], ask: Ask) -> dict[str, str]:
    """Return the host key of each host, followed by the host's name."""
    keys: dict[str, str] = {}
    for value in given:
        _read_flag("--host-key", value, partial(values.add_host_key, keys, addresses))
    for name in addresses:
        if name not in keys:
            question = f'host key of {name} (on its console: {KEY_COMMAND}), or "any" to pin it later: '
            keys[name] = _ask_until(ask, question, values.read_host_key)
    return {name: key if key == "any" else f"{key} {name}" for name, key in keys.items()}
