"""What `breakglass init` has to know: from flags, and from a person for what no flag says."""

import argparse
from collections.abc import Callable, Mapping
from typing import TypeVar

from ..config.new_file import NewConfig, NewHost, NewVm
from . import init_values as values
from .output import CommandError, complain

T = TypeVar("T")
Ask = Callable[[str], str]

HELP = "breakglass init --help"
KEY_COMMAND = "cat /etc/ssh/ssh_host_ed25519_key.pub"


def read_answers(arguments: argparse.Namespace, ask: Ask | None) -> NewConfig:
    """Return what the flags say, and what a person answers to the rest.

    Raises CommandError for a flag that is wrong, for one that is missing without a person, and for an input that ends
    early.
    """
    missing = find_missing(arguments)
    if ask is None:
        if missing:
            hint = f"add what is missing; see {HELP}"
            verb = "is" if len(missing) == 1 else "are"
            raise CommandError(f"nothing was written: {' and '.join(missing)} {verb} missing", hint)
        ask = _answer_nothing
    try:
        url = _given("--url", arguments.url, values.read_url) or _until(
            ask, "URL of this handler, like https://rescue.example.org/: ", values.read_url
        )
        addresses = _given_hosts(arguments.host or []) or _asked_hosts(ask)
        keys = _host_keys(arguments.host_key or [], addresses, ask)
        vms = _given_vms(arguments.vm or [], addresses) or _asked_vms(ask, addresses)
        question = "your name, for the record of each verb: "
        read = values.read_operator
        operator = _given("--operator", arguments.operator, read) or _until(ask, question, read)
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


def _given(flag: str, value: str | None, read: Callable[[str], T]) -> T | None:
    """Return the value of a flag, None without it. Raises CommandError with the flag's name."""
    try:
        return None if value is None else read(value)
    except ValueError as error:
        raise CommandError(f"nothing was written: {flag}: {error}", HELP) from None


def _until(ask: Ask, question: str, read: Callable[[str], T]) -> T:
    """Return the first answer that can be used."""
    while True:
        try:
            return read(ask(question).strip())
        except ValueError as error:
            complain(str(error))


def _parts(flag: str, given: str) -> tuple[str, str]:
    """Return what stands before and after the first equals sign of a flag's value."""
    name, equals, value = given.partition("=")
    if not equals:
        raise CommandError(f"nothing was written: {flag}: write it like {values.EXAMPLES[flag]}", HELP)
    return name, value


# --- hosts ---


def _given_hosts(given: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in given:
        name, address = _parts("--host", each)
        _given("--host", name, lambda text: values.read_host_name(text, found))
        found[name] = _given("--host", address, values.read_address) or ""
    return found


def _asked_hosts(ask: Ask) -> dict[str, str]:
    found: dict[str, str] = {}

    def read(text: str) -> str:
        return text and values.read_host_name(text, found) if found else values.read_host_name(text, found)

    while name := _until(ask, "another Proxmox host (Enter: none): " if found else "name of the Proxmox host: ", read):
        found[name] = _until(ask, f"address of {name}, like 192.0.2.10: ", values.read_address)
    return found


def _host_keys(given: list[str], addresses: Mapping[str, str], ask: Ask) -> dict[str, str]:
    """Return the host key of each host, after the name that it is recognized by."""
    keys: dict[str, str] = {}
    for each in given:
        name, key = _parts("--host-key", each)
        _given("--host-key", name, lambda text: values.read_known_host(text, addresses, keys))
        keys[name] = _given("--host-key", key, values.read_host_key) or ""
    for name in addresses:
        if name not in keys:
            question = f'host key of {name} (on its console: {KEY_COMMAND}), or "any" to pin it later: '
            keys[name] = _until(ask, question, values.read_host_key)
    return {name: key if key == "any" else f"{key} {name}" for name, key in keys.items()}


# --- VMs ---


def _given_vms(given: list[str], hosts: Mapping[str, str]) -> dict[str, NewVm]:
    found: dict[str, NewVm] = {}
    for each in given:
        name, rest = _parts("--vm", each)
        number, _, where = rest.partition("@")
        _given("--vm", name, lambda text: values.read_vm_name(text, found))
        places = _given("--vm", where, lambda text: values.read_places(text, hosts)) or ()
        found[name] = NewVm(_given("--vm", number, _number_reader(places, found)) or 0, places)
    return found


def _asked_vms(ask: Ask, hosts: Mapping[str, str]) -> dict[str, NewVm]:
    found: dict[str, NewVm] = {}

    def read(text: str) -> str:
        return text and values.read_vm_name(text, found) if found else values.read_vm_name(text, found)

    while name := _until(ask, "another VM (Enter: none): " if found else "name for the VM, like devvm: ", read):
        places = tuple(hosts)
        if len(hosts) > 1:
            question = f"hosts that {name} may run on, like {','.join(hosts)}; requests go to the first: "
            places = _until(ask, question, lambda text: values.read_places(text, hosts))
        number = _until(ask, f"number of {name} on Proxmox, like 102: ", _number_reader(places, found))
        found[name] = NewVm(number, places)
    return found


def _number_reader(places: tuple[str, ...], others: Mapping[str, NewVm]) -> Callable[[str], int]:
    return lambda text: values.read_vmid(text, places, others)
