"""The text of a new configuration. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, time

from ..base.verbs import ALLOWABLE
from .entries import OWN_FILES, own_path

NAME, SESSION, POWER = "breakglass.toml", "session", "pve_power"
_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_ESCAPED = re.compile('[\\\\"\x00-\x1f\x7f]')


@dataclass(frozen=True)
class NewHost:
    """A Proxmox VE node: its SSH address, and its host key or "any"."""

    ssh: str
    host_key: str


@dataclass(frozen=True)
class NewVm:
    """A VM and the hosts that it may run on."""

    vmid: int
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class NewConfig:
    """The values of a new configuration. Every value has already been checked."""

    url: str
    operator: str
    hosts: Mapping[str, NewHost]
    vms: Mapping[str, NewVm]


def operator_files(operator: str) -> tuple[str, str]:
    """Return the names of the file with an operator's signing key, and of the operator's own file."""
    return f"{operator}.signing-key", own_path("callers", operator)


def entry_text(table: str, entry: Mapping[str, object]) -> str:
    """Return the TOML of an entry's own file."""
    more = "What each setting means: breakglass docs configuration"
    if table == "callers":
        more = '"breakglass keys rotate" rewrites this file and removes every comment but this one.'
    lines = [f"# The file's name is the {OWN_FILES[table]}'s name. {more}"]
    lines += [f"{toml_key(key)} = {_value(value)}" for key, value in entry.items()]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    """Return a value of a TOML file as TOML."""
    match value:
        case str():
            return toml_text(value)
        case list():
            return f"[{', '.join(map(_value, value))}]"
        case dict():
            return f"{{{', '.join(f'{toml_key(key)} = {_value(each)}' for key, each in value.items())}}}"
        case date() | time():
            return value.isoformat()
    return str(value).lower()  # for booleans and numbers


def config_texts(new: NewConfig, directory: str, sessions_dir: str) -> dict[str, str]:
    """Return the TOML of the operator's own file and of the configuration, by name."""

    def file(name: str) -> str:
        return toml_text(f"{directory}/{name}")

    lines = ["# Made by: breakglass init. What each setting means: breakglass docs configuration"]
    lines += ["# After a change, run breakglass check, then send the handler SIGHUP."]
    lines += ["# Callers have their own files, in callers.d: see breakglass keys --help.", "", "[server]"]
    lines += [f"url = {toml_text(new.url)}"]
    for name, host in new.hosts.items():
        lines += ["", f"[hosts.{toml_key(name)}]", f"ssh = {toml_text(host.ssh)}", f"key_file = {file(POWER)}"]
        lines += [f"host_key = {toml_text(host.host_key)}", '# node = "…"  # the recipe for the host prints it']
    for name, vm in new.vms.items():
        lines += ["", f"[vms.{toml_key(name)}]", f"hosts = {_value(list(vm.hosts))}", f"vmid = {vm.vmid}"]
    lines += ["", "[sessions]", f"secret_file = {file(SESSION)}", f"dir = {toml_text(sessions_dir)}"]
    signing_key, caller = operator_files(new.operator)
    table = {"secret_file": f"{directory}/{signing_key}", "allow": list(ALLOWABLE)}
    return {caller: entry_text("callers", table), NAME: "\n".join(lines) + "\n"}


def toml_key(name: str) -> str:
    """Return a name as a key of TOML, in quotes if it needs them."""
    return name if _BARE.fullmatch(name) else toml_text(name)


def toml_text(text: str) -> str:
    """Return a text as a basic string of TOML. JSON escapes would contain surrogates, which TOML refuses."""
    return '"' + _ESCAPED.sub(_escape, text) + '"'


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
