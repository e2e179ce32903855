"""The TOML file, to frozen dataclasses. Every problem is reported at once, each with its key's path and a hint.

Any fault in an entry switches that caller or that VM off, whole: half an entry could mean more than its author wrote.
The rest works on. What no rescue can do without (a caller, a VM, a session secret) is a ConfigError; what a later part
needs is checked where that part lives. Pure but for reading the files that the TOML names, through `read`.
"""

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .errors import ConfigError, Problem
from .signing import Caller, secret_bytes
from .verbs import ALLOWABLE, VERBS

Read = Callable[[str], str]
Table = dict[str, Any]

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
    """The whole configuration, as far as this version serves it. What `problems` concern is left out of it, but for
    the names and numbers of the VMs that are off: they are still VMs that somebody may mean."""

    callers: tuple[Caller, ...]
    vms: Mapping[str, Vm]
    session_secrets: tuple[str, ...] = field(repr=False)
    sessions_dir: str = "var/sessions"
    vms_off: Mapping[str, int | None] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


def is_caller_name(name: str) -> bool:
    """Tell whether a caller can be named so: the host agent records it as by=."""
    return bool(_NAME.fullmatch(name))


def is_vm_name(name: str) -> bool:
    """Tell whether a VM can be named so."""
    return bool(_VM_NAME.fullmatch(name)) and name not in _RESERVED


def parse(text: str, read: Read) -> Config:
    """Return the usable part of what `text` spells, with every problem there is; raise ConfigError, also with every
    problem, when that is too little for a rescue."""
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # tomllib lets those of a huge number and of deep nesting through
        raise ConfigError([Problem("(file)", f"is not TOML: {error}", "check its quotes and brackets")]) from None
    return _Reader(data, read).config()


class _Reader:
    """Walks the tables and collects the problems."""

    def __init__(self, data: Table, read: Read) -> None:
        self.data = data
        self.read = read
        self.problems: list[Problem] = []
        self.keys: dict[str, list[bytes]] = {}  # of every caller, also of one that is off

    def config(self) -> Config:
        self._unknown("", self.data, ("callers", "vms", "sessions", "chat", "alerts"))
        self._not_served_yet()
        vm_tables = self._tables("vms")
        vms = {name: vm for name, table in vm_tables.items() if (vm := self._vm(name, table))}
        callers = self._callers(vm_tables)
        secrets, directory = self._sessions()
        self._needed("callers", callers, "has nobody who can sign", "mend one, or make one: breakglass keys new NAME")
        self._needed("vms", vms, "has none that can be used", "mend one: docs/protocol.md, section 1")
        if not (callers and vms and secrets):
            raise ConfigError(self.problems)
        off = {name: _vmid_in(table) for name, table in vm_tables.items() if name not in vms}
        return Config(callers, vms, secrets, directory, off, tuple(self.problems))

    def _needed(self, path: str, usable: Sized, message: str, hint: str) -> None:
        """Say what is missing where no other problem says it of the whole table."""
        if not usable and not any(problem.path == path for problem in self.problems):
            self._problem(path, message, hint)

    def _not_served_yet(self) -> None:
        if not isinstance(self.data.get("chat", {}), dict):
            self._problem("chat", "is not a table", "write [chat]")
        alerts = self.data.get("alerts", [])
        if not (isinstance(alerts, list) and all(isinstance(alert, dict) for alert in alerts)):
            self._problem("alerts", "is not a list of tables", "write [[alerts]] above each")

    def _sessions(self) -> tuple[tuple[str, ...], str]:
        table = self._table("sessions")
        self._unknown("sessions", table, ("secret", "secret_file", "dir"))
        secrets = self._strong("sessions.secret", self._secrets("sessions", table, "secret"))
        return secrets, self._text("sessions", table, "dir", "var/sessions")

    def _callers(self, vms: Iterable[str]) -> tuple[Caller, ...]:
        tables = self._tables("callers").items()
        callers = [caller for name, table in tables if (caller := self._caller(name, table, vms))]
        ambiguous = self._sharing()
        return tuple(caller for caller in callers if caller.name not in ambiguous)

    # --- one entry ---

    def _caller(self, name: str, table: Table | None, vms: Iterable[str]) -> Caller | None:
        """Return the caller; None when it has a fault, and when it proves itself in a way that is not served yet."""
        if table is None:
            return None
        path, before = f"callers.{name}", len(self.problems)
        if not is_caller_name(name):
            self._problem(path, "is not a usable name", "letters, digits, @ . _ - and at most 64 of them")
        self._unknown(path, table, ("secret", "secret_file", "allow", "vms", "not_after", *_LATER_CALLER_KEYS))
        later, signs = any(key in table for key in _LATER_CALLER_KEYS), "secret" in table or "secret_file" in table
        if later and signs:
            self._problem(path, "has two ways to prove itself", "one caller each: secret, grafana_secret or token")
        if later and not signs:
            return None  # good for /alert and bearer reads only
        keys = [key for secret in self._secrets(path, table, "secret") if (key := self._key(path, secret))]
        self.keys[name] = keys
        allow = frozenset(self._words(path, table, "allow", ALLOWABLE))
        named = frozenset(self._words(path, table, "vms", tuple(vms))) if "vms" in table else None
        not_after = self._not_after(path, table)
        return None if len(self.problems) > before else Caller(name, tuple(keys), allow, named, not_after)

    def _vm(self, name: str, table: Table | None) -> Vm | None:
        """Return the VM; None when its entry has a fault."""
        if table is None:
            return None
        path, before = f"vms.{name}", len(self.problems)
        if not is_vm_name(name):
            self._problem(path, "is not a usable name", "[a-z][a-z0-9-]{0,31}, and not pve, ssh or claude")
        self._unknown(path, table, _VM_KEYS)
        vmid = self._vmid(path, table)
        ssh = self._address(path, table)
        key = self._secrets(path, table, "key")
        host_keys, host_cas = self._host_keys(path, table)
        by_hand = self._list(path, table, "by_hand")
        if vmid is None or ssh is None or len(self.problems) > before:
            return None
        return Vm(name, vmid, ssh, key[0], host_keys, host_cas, by_hand or _by_hand(ssh, vmid))

    def _vmid(self, path: str, table: Table) -> int | None:
        vmid = _vmid_in(table)
        if vmid is None:
            self._problem(f"{path}.vmid", "is missing or not a number", "the VM's number on Proxmox, like 102")
        return vmid

    def _address(self, path: str, table: Table) -> Address | None:
        match = _ADDRESS.fullmatch(self._text(path, table, "ssh", ""))
        if match is None or int(match["port"] or 22) not in range(1, 65536):
            self._problem(f"{path}.ssh", "is missing or not an address", 'like "breakglass@192.0.2.10:22"')
            return None
        return Address(match["user"], match["host"].strip("[]"), int(match["port"] or 22))

    def _host_keys(self, path: str, table: Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
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

    def _not_after(self, path: str, table: Table) -> datetime | None:
        value = table.get("not_after")
        if value is None or (isinstance(value, datetime) and value.tzinfo is not None):
            return value
        if isinstance(value, datetime):
            return value.replace(tzinfo=UTC)
        self._problem(f"{path}.not_after", "is not a time", "like 2027-06-01T00:00:00Z, without quotes")
        return None

    # --- secrets ---

    def _secrets(self, path: str, table: Table, name: str) -> list[str]:
        """Return the secrets given inline (one or a list) or as files; a problem when there are none."""
        before = len(self.problems)
        inline = self._list(path, table, name)
        files = [self._file(f"{path}.{name}_file", file) for file in self._list(path, table, f"{name}_file")]
        secrets = [secret for secret in (*inline, *files) if secret]
        if not secrets and len(self.problems) == before:
            self._problem(f"{path}.{name}", "is missing", f"give {name} or {name}_file")
        return secrets

    def _file(self, path: str, file: str) -> str:
        """Return what is in the file; a problem when it can't be read, and when it is empty: half written, say."""
        try:
            found = self.read(file).strip()
        except (OSError, ValueError) as error:
            self._problem(path, f'can\'t be read: "{file}": {error}', "check the path and its owner")
            return ""
        if not found:
            self._problem(path, f'is empty: "{file}"', "write the secret into it")
        return found

    def _key(self, path: str, secret: str) -> bytes | None:
        try:
            return secret_bytes(secret)
        except ValueError as error:
            self._problem(f"{path}.secret", str(error), "make one: breakglass keys new NAME")
            return None

    def _strong(self, path: str, secrets: Iterable[str]) -> tuple[str, ...]:
        """Return the secrets that are long enough; the others are a problem and not used."""
        strong = tuple(secret for secret in secrets if len(secret.encode()) >= _SESSION_SECRET_BYTES)
        if set(strong) != set(secrets):
            self._problem(path, f"is shorter than {_SESSION_SECRET_BYTES} bytes", "make one: openssl rand -base64 48")
        return strong

    def _sharing(self) -> set[str]:
        """Return the callers that share a secret with another; all of them are off, for none can be told apart."""
        sharing = set()
        for name, keys in self.keys.items():
            others = [
                other for other, theirs in self.keys.items() if other != name and not set(theirs).isdisjoint(keys)
            ]
            if others:
                sharing.add(name)
                hint = "give each caller its own: breakglass keys new NAME"
                self._problem(f"callers.{name}.secret", f"is also that of {', '.join(others)}", hint)
        return sharing

    # --- shapes ---

    def _tables(self, name: str) -> dict[str, Table | None]:
        """Return the entries of a table of tables; None for one that is something else."""
        before = len(self.problems)
        table = self._table(name)
        if not table and len(self.problems) == before:
            self._problem(name, "is empty", f"at least one [{name}.NAME] is needed")
        found = {key: value if isinstance(value, dict) else None for key, value in table.items()}
        for key in [key for key, value in found.items() if value is None]:
            self._problem(f"{name}.{key}", "is not a table", f"write [{name}.{key}]")
        return found

    def _table(self, name: str) -> Table:
        value = self.data.get(name, {})
        if isinstance(value, dict):
            return value
        self._problem(name, "is not a table", f"write [{name}]")
        return {}

    def _text(self, path: str, table: Table, key: str, default: str) -> str:
        value = table.get(key, default)
        if isinstance(value, str):
            return value
        self._problem(f"{path}.{key}", "is not text", "put it in quotes")
        return default

    def _list(self, path: str, table: Table, key: str) -> tuple[str, ...]:
        """Return a list of texts; one text alone counts as a list of one."""
        value = table.get(key, [])
        values = [value] if isinstance(value, str) else value
        if isinstance(values, list) and all(isinstance(item, str) for item in values):
            return tuple(values)
        self._problem(f"{path}.{key}", "is not text or a list of texts", f'like {key} = ["…"]')
        return ()

    def _words(self, path: str, table: Table, key: str, known: tuple[str, ...]) -> tuple[str, ...]:
        before = len(self.problems)
        words = self._list(path, table, key)
        if not words and len(self.problems) == before:
            self._problem(f"{path}.{key}", "is missing", f"some of {', '.join(known)}")
        for word in words:
            if word not in known:
                self._problem(f"{path}.{key}", f'has an unknown word "{word}"', f"one of {', '.join(known)}")
        return words

    def _unknown(self, path: str, table: Table, known: tuple[str, ...]) -> None:
        for key in sorted(table.keys() - set(known)):
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


def _vmid_in(table: Table | None) -> int | None:
    vmid = None if table is None else table.get("vmid")
    return vmid if isinstance(vmid, int) and not isinstance(vmid, bool) and 0 < vmid < 10**9 else None


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
