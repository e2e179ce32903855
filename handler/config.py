"""The TOML file, to frozen dataclasses. Every problem is reported at once, each with its key's path and a hint.

Pure but for reading the files that the TOML names, through `read`, which the caller passes in. What no rescue can do
without is a ConfigError; what a later part needs is checked where that part lives.
"""

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .errors import ConfigError, Problem
from .signing import Caller, secret_bytes
from .verbs import ALLOWABLE, VERBS

Read = Callable[[str], str]

_NAME = re.compile(r"[A-Za-z0-9@._-]{1,64}", re.ASCII)  # what the host agent records as by=
_VM_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)
_RESERVED = ("pve", "ssh", "claude")  # commands on claude's PATH, beside the one named after the VM
_ADDRESS = re.compile(
    r"(?P<user>[a-z_][a-z0-9_-]*)@(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?"
)
_HOST_KEY = re.compile(r"(?:ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/=]+(?: .*)?")
_SESSION_SECRET_BYTES = 32


@dataclass(frozen=True)
class Address:
    """Where an SSH server is."""

    user: str
    host: str
    port: int = 22

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Vm:
    """One VM and the Proxmox host that runs it. `host_keys` and `host_cas` are OpenSSH public keys; both empty means
    that any host key is accepted, which is warned about."""

    name: str
    vmid: int
    ssh: Address
    key: str = field(repr=False)
    host_keys: tuple[str, ...] = ()
    host_cas: tuple[str, ...] = ()
    by_hand: tuple[str, ...] = ()

    @property
    def any_host_key(self) -> bool:
        return not (self.host_keys or self.host_cas)


@dataclass(frozen=True)
class Config:
    """The whole configuration, as far as this version serves it."""

    callers: tuple[Caller, ...]
    vms: Mapping[str, Vm]
    session_secrets: tuple[str, ...] = field(repr=False)
    sessions_dir: str = "var/sessions"


def is_caller_name(name: str) -> bool:
    """Tell whether a caller can be named so: the host agent records it as by=."""
    return bool(_NAME.fullmatch(name))


def parse(text: str, read: Read) -> Config:
    """Return the configuration that `text` spells; raise ConfigError with every problem there is."""
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # tomllib lets those of a huge number and of deep nesting through
        raise ConfigError([Problem("(file)", f"is not TOML: {error}", "check its quotes and brackets")]) from None
    return _Reader(data, read).config()


class _Reader:
    """Walks the tables and collects the problems."""

    def __init__(self, data: dict[str, Any], read: Read) -> None:
        self.data = data
        self.read = read
        self.problems: list[Problem] = []

    def config(self) -> Config:
        self._unknown("", self.data, ("callers", "vms", "sessions", "chat", "alerts"))
        vm_tables = dict(self._tables("vms"))
        vms = {name: vm for name, table in vm_tables.items() if (vm := self._vm(name, table))}
        callers = [
            caller for name, table in self._tables("callers") if (caller := self._caller(name, table, vm_tables))
        ]
        self._shared_keys(callers)
        sessions = self._table("sessions")
        self._unknown("sessions", sessions, ("secret", "secret_file", "dir"))
        secrets = self._secrets("sessions", sessions, "secret")
        self._strong("sessions.secret", secrets)
        directory = self._text("sessions", sessions, "dir", "var/sessions")
        if not callers and not self.problems:
            self._problem("callers", "has nobody who can sign", "make one: breakglass keys new NAME")
        if self.problems:
            raise ConfigError(self.problems)
        return Config(tuple(callers), vms, tuple(secrets), directory)

    # --- one entry ---

    def _caller(self, name: str, table: dict[str, Any], vms: Iterable[str]) -> Caller | None:
        path = f"callers.{name}"
        if not is_caller_name(name):
            self._problem(path, "is not a usable name", "letters, digits, @ . _ - and at most 64 of them")
        self._unknown(path, table, ("secret", "secret_file", "allow", "vms", "not_after", *_LATER_CALLER_KEYS))
        if any(key in table for key in _LATER_CALLER_KEYS):
            if "secret" in table or "secret_file" in table:
                self._problem(path, "has two ways to prove itself", "one caller each: secret, grafana_secret or token")
            return None  # good for /alert and bearer reads only, which are not served yet
        keys = [key for secret in self._secrets(path, table, "secret") if (key := self._key(path, secret))]
        allow = self._words(path, table, "allow", ALLOWABLE)
        named = self._words(path, table, "vms", tuple(vms)) if "vms" in table else None
        return Caller(
            name,
            tuple(keys),
            frozenset(allow),
            None if named is None else frozenset(named),
            self._not_after(path, table),
        )

    def _vm(self, name: str, table: dict[str, Any]) -> Vm | None:
        path = f"vms.{name}"
        if not _VM_NAME.fullmatch(name) or name in _RESERVED:
            self._problem(path, "is not a usable name", "[a-z][a-z0-9-]{0,31}, and not pve, ssh or claude")
        self._unknown(path, table, _VM_KEYS)
        vmid = self._vmid(path, table)
        ssh = self._address(path, table)
        key = self._secrets(path, table, "key")
        host_keys, host_cas = self._host_keys(path, table)
        by_hand = self._list(path, table, "by_hand")
        if vmid is None or ssh is None or not key:
            return None
        return Vm(name, vmid, ssh, key[0], host_keys, host_cas, by_hand or _by_hand(ssh, vmid))

    def _vmid(self, path: str, table: dict[str, Any]) -> int | None:
        vmid = table.get("vmid")
        if isinstance(vmid, int) and not isinstance(vmid, bool) and 0 < vmid < 10**9:
            return vmid
        self._problem(f"{path}.vmid", "is missing or not a number", "the VM's number on Proxmox, like 102")
        return None

    def _address(self, path: str, table: dict[str, Any]) -> Address | None:
        match = _ADDRESS.fullmatch(self._text(path, table, "ssh", ""))
        if match is None or int(match["port"] or 22) not in range(1, 65536):
            self._problem(f"{path}.ssh", "is missing or not an address", 'like "breakglass@192.0.2.10:22"')
            return None
        return Address(match["user"], match["host"].strip("[]"), int(match["port"] or 22))

    def _host_keys(self, path: str, table: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the pinned keys and the certificate authorities; both empty for the explicit word "any"."""
        if table.get("host_key") == "any":
            if "host_ca" in table:
                self._problem(f"{path}.host_key", 'is "any" beside a host_ca', "take out one of the two")
            return (), ()
        pinned, authorities = self._list(path, table, "host_key"), self._list(path, table, "host_ca")
        for key, lines in (("host_key", pinned), ("host_ca", authorities)):
            for line in lines:
                if not _HOST_KEY.fullmatch(line):
                    self._problem(
                        f"{path}.{key}", f'is not a public key: "{line[:40]}"', "a line of ssh-keyscan, no name"
                    )
        if not pinned and not authorities:
            self._problem(
                f"{path}.host_key", "is missing", 'pin it: host_key = ["ssh-ed25519 AAAA…"], see docs/runbook.md'
            )
        return pinned, authorities

    def _not_after(self, path: str, table: dict[str, Any]) -> datetime | None:
        value = table.get("not_after")
        if value is None or (isinstance(value, datetime) and value.tzinfo is not None):
            return value
        if isinstance(value, datetime):
            return value.replace(tzinfo=UTC)
        self._problem(f"{path}.not_after", "is not a time", "like 2027-06-01T00:00:00Z, without quotes")
        return None

    # --- secrets ---

    def _secrets(self, path: str, table: dict[str, Any], name: str) -> list[str]:
        """Return the secrets given inline (one or a list) or as files; a problem when there are none."""
        inline = self._list(path, table, name)
        files = [self._file(f"{path}.{name}_file", file) for file in self._list(path, table, f"{name}_file")]
        secrets = [secret for secret in (*inline, *files) if secret]
        if not secrets and not any(problem.path.startswith(f"{path}.{name}") for problem in self.problems):
            self._problem(f"{path}.{name}", "is missing", f"give {name} or {name}_file")
        return secrets

    def _file(self, path: str, file: str) -> str:
        try:
            return self.read(file).strip()
        except (OSError, ValueError) as error:
            self._problem(path, f'can\'t be read: "{file}": {error}', "check the path and its owner")
            return ""

    def _key(self, path: str, secret: str) -> bytes | None:
        try:
            return secret_bytes(secret)
        except ValueError as error:
            self._problem(f"{path}.secret", str(error), "make one: breakglass keys new NAME")
            return None

    def _strong(self, path: str, secrets: Iterable[str]) -> None:
        if any(len(secret.encode()) < _SESSION_SECRET_BYTES for secret in secrets):
            self._problem(path, f"is shorter than {_SESSION_SECRET_BYTES} bytes", "make one: openssl rand -base64 48")

    def _shared_keys(self, callers: Iterable[Caller]) -> None:
        owner: dict[bytes, str] = {}
        for caller in callers:
            for key in caller.keys:
                if owner.setdefault(key, caller.name) != caller.name:
                    self._problem(
                        f"callers.{caller.name}.secret",
                        f"is also that of {owner[key]}",
                        "give each caller its own: breakglass keys new NAME",
                    )

    # --- shapes ---

    def _tables(self, name: str) -> list[tuple[str, dict[str, Any]]]:
        table = self._table(name)
        if not table:
            self._problem(name, "is empty", f"at least one [{name}.NAME] is needed")
        found = [(key, value) for key, value in table.items() if isinstance(value, dict)]
        for key in table.keys() - {key for key, _ in found}:
            self._problem(f"{name}.{key}", "is not a table", f"write [{name}.{key}]")
        return found

    def _table(self, name: str) -> dict[str, Any]:
        value = self.data.get(name, {})
        if isinstance(value, dict):
            return value
        self._problem(name, "is not a table", f"write [{name}]")
        return {}

    def _text(self, path: str, table: dict[str, Any], key: str, default: str) -> str:
        value = table.get(key, default)
        if isinstance(value, str):
            return value
        self._problem(f"{path}.{key}", "is not text", "put it in quotes")
        return default

    def _list(self, path: str, table: dict[str, Any], key: str) -> tuple[str, ...]:
        """Return a list of texts; one text alone counts as a list of one."""
        value = table.get(key, [])
        values = [value] if isinstance(value, str) else value
        if isinstance(values, list) and all(isinstance(item, str) for item in values):
            return tuple(values)
        self._problem(f"{path}.{key}", "is not text or a list of texts", f'like {key} = ["…"]')
        return ()

    def _words(self, path: str, table: dict[str, Any], key: str, known: tuple[str, ...]) -> tuple[str, ...]:
        words = self._list(path, table, key)
        if not words and not any(problem.path == f"{path}.{key}" for problem in self.problems):
            self._problem(f"{path}.{key}", "is missing", f"some of {', '.join(known)}")
        for word in words:
            if word not in known:
                self._problem(f"{path}.{key}", f'has an unknown word "{word}"', f"one of {', '.join(known)}")
        return words

    def _unknown(self, path: str, table: dict[str, Any], known: tuple[str, ...]) -> None:
        for key in table.keys() - set(known):
            self._problem(f"{path}.{key}".lstrip("."), "is not a setting", f"one of {', '.join(known)}")

    def _problem(self, path: str, message: str, hint: str = "") -> None:
        self.problems.append(Problem(path, message, hint))


_LATER_CALLER_KEYS = ("grafana_secret", "grafana_secret_file", "token", "token_file")
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


def _by_hand(ssh: Address, vmid: int) -> tuple[str, ...]:
    """Return what a person types when nothing of ours works."""
    return tuple(f"ssh root@{ssh.host} qm {verb} {vmid}" for verb in ("status", "reset", "stop", "start"))


def by_hand(vm: Vm, verb: str) -> tuple[str, ...]:
    """Return the commands that do `verb` by hand; all of them for a reading verb or when none is for this one."""
    if verb not in VERBS or not VERBS[verb].mutating:
        return vm.by_hand
    own = _naming(vm.by_hand, verb)
    return own or (verb == "cycle" and _naming(vm.by_hand, "stop", "start")) or vm.by_hand


def _naming(lines: Iterable[str], *words: str) -> tuple[str, ...]:
    return tuple(line for line in lines if set(words) & set(line.split()))
