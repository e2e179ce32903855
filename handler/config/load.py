"""Reads the TOML file into frozen dataclasses. All problems are reported at once, each with its key's path and a hint.

If the file can't be read, can be read by other users or is not TOML, only this problem is reported.

An error in an entry disables that caller, VM or alert, because half an entry could allow more than its author meant.
The other entries still work. A file without a usable caller, VM or session secret raises ConfigError.
"""

import hmac
import os
import re
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence, Sized
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ..auth.signing import SIGNATURE, Caller
from ..base.findings import ConfigError, Finding, error
from .addresses import read_address
from .alerts import read_rules
from .callers import list_callers, read_callers, read_metrics
from .chat import read_chat
from .entries import NamedEntry, OwnFiles, list_entries
from .hosts import read_hosts
from .model import Address, Config
from .notify import read_receivers
from .reader import Entry, Read
from .secret_files import describe_exposure, protect, read_secret
from .server import read_server
from .sources import Sources, own_file, read_file, read_sources
from .vms import read_vm, vmid_in
from .warnings import find_warnings

_SESSION_SECRET_BYTES = 32


def parse(text: str, read: Read, files: OwnFiles | None = None, main: str = "breakglass.toml") -> Config:
    """Return the usable part of `main` and of the own files, with all problems.

    Raises ConfigError, with all problems, if the usable part is not enough for a rescue.
    """
    top = parse_toml(text, read)
    return _config(top, files or {}, main)


def parse_toml(text: str, read: Read) -> Entry:
    """Return a text's top table. Raises ConfigError, with line and column, if the text is not TOML."""
    try:
        return Entry(tomllib.loads(text), read, [])
    except (ValueError, RecursionError) as fault:  # tomllib raises other errors for a huge number and for deep nesting
        problem = error("(file)", "config-file", f"is not TOML: {fault}", _explain_toml(text, fault))
        raise ConfigError([problem]) from None


def _explain_toml(text: str, fault: Exception) -> str:
    """Return how to correct a text that is not TOML. A character that looks like another one is named."""
    number = re.search(r"line (\d+)", str(fault))
    line = text.split("\n")[int(number[1]) - 1] if number else ""
    odd = [
        f"{unicodedata.name(each, '?').lower()} (U+{ord(each):04X})"
        for each in line
        if not (each.isascii() or each.isalnum())
    ]
    return f"write a plain character for the {odd[0]} in that line" if odd else "check its quotes and brackets"


def _config(top: Entry, files: OwnFiles, main: str) -> Config:
    caller_entries = list_callers(top, files, main)
    nodes = top.get_tables("hosts")
    hosts = read_hosts(nodes)
    hosts_off = tuple(name for name in nodes if name not in hosts)
    entries = {each.name: each.entry for each in list_entries(top, "vms", files, main)}
    vms = {name: vm for name, entry in entries.items() if (vm := read_vm(name, entry, hosts, hosts_off))}
    callers = read_callers(caller_entries, entries)
    alerts = read_rules(top, vms, entries)
    notify = read_receivers(top, entries)
    secrets, directory = _sessions(top.get_table("sessions"))
    chat = read_chat(top, directory)
    server = read_server(top)
    metrics = read_metrics(top, callers)
    top.report_unknown()
    signing = [caller for caller in callers if caller.auth_method == SIGNATURE]
    _require(top, "callers", signing, "no caller can sign requests", "make one: breakglass keys new NAME")
    _require(top, "vms", vms, "no VM can be used", "correct one; see breakglass docs configuration")
    if not (signing and vms and secrets):
        raise ConfigError(top.problems)
    return Config(
        callers=callers,
        hosts=hosts,
        vms=vms,
        session_secrets=secrets,
        sessions_dir=directory,
        vms_off={name: vmid_in(entry) for name, entry in entries.items() if name not in vms},
        hosts_off=hosts_off,
        problems=tuple(top.problems),
        alerts=alerts,
        chat=chat,
        proxies=server.proxies,
        urls=server.urls,
        metrics=metrics,
        notify=notify,
    )


def _require(top: Entry, key: str, usable: Sized, message: str, hint: str) -> None:
    """Record that a table has no usable entry, unless a problem with the whole table was recorded."""
    if not usable and not any(problem.place == key for problem in top.problems):
        top.problem(key, message, hint)


def _sessions(entry: Entry) -> tuple[tuple[str, ...], str]:
    """Return the session secrets that are long enough, and the directory."""
    new = 'openssl rand -base64 48, and write what it prints: secret = "…", or the name of its file: secret_file'
    secrets = [secret for _, secret in entry.secrets("secret", new)]
    strong = tuple(secret for secret in secrets if len(secret.encode()) >= _SESSION_SECRET_BYTES)
    if len(strong) < len(secrets):
        message = f"is shorter than {_SESSION_SECRET_BYTES} bytes"
        entry.problem("secret", message, "make one: openssl rand -base64 48", "secret-weak")
    directory = entry.get_str("dir", "var/sessions")
    entry.report_unknown()
    return strong, directory


def config_path() -> Path:
    """Return the path of the configuration."""
    return Path(os.environ.get("BREAKGLASS_CONFIG", "breakglass.toml"))


def load_config(path: Path, environment: Mapping[str, str]) -> Config:
    """Return the usable part of the configuration; raise ConfigError if that is not enough."""
    return load_sources(read_sources(path, environment), environment)


def load_sources(sources: Sources, environment: Mapping[str, str]) -> Config:
    """Return the usable part of a configuration that was read or will be written. Raises ConfigError."""
    path = sources.path
    if exposure := describe_exposure(path, sources.status, environment):
        fix = protect(str(path), sources.status)
        raise ConfigError([error(str(path), "file-exposed", f"is not safe: {exposure}", fix)])
    own = {own_file(path, table, name): text for table, texts in sources.own.items() for name, text in texts.items()}
    files = [str(path), *map(str, own)]
    contents = [sources.text, *(f"{file.relative_to(path.parent)}\n{text}" for file, text in own.items())]

    def read(setting: str) -> str:
        name, text = read_secret(setting, environment)
        files.append(name)
        contents.append(text)
        return text

    config = parse(sources.text, read, sources.own, str(path))
    digest = _digest(contents, config.session_secrets[-1])
    warnings = (*sources.warnings, *find_warnings(config, datetime.now(UTC), environment))
    return replace(config, files=tuple(files), digest=digest, warnings=warnings, directories=sources.directories)


def _digest(contents: Sequence[str], secret: str) -> str:
    """Return a MAC of all files. It reveals nothing, and changes if a file changes."""
    text = "".join(f"{len(each)}\n{each}" for each in contents)
    return hmac.digest(secret.encode(), f"breakglass configuration\n{text}".encode(), "sha256").hex()


def load_addresses(path: Path) -> tuple[dict[str, Address], list[Finding]]:
    """Return the addresses of the hosts in a configuration file, and the problems of the other hosts.

    For a machine without secrets. It reads only `hosts.NAME.ssh`, opens no other file, and accepts a file that any user
    may read.
    """
    top = parse_toml(read_file(path)[0], lambda _: "")
    entries = top.get_tables("hosts")
    found = {name: None if entry.is_faulty else read_address(entry, "ssh") for name, entry in entries.items()}
    if not found:
        raise ConfigError(top.problems)
    return {name: address for name, address in found.items() if address}, top.problems


def load_callers(sources: Sources, environment: Mapping[str, str]) -> tuple[list[NamedEntry], dict[str, Caller]]:
    """Return the entries of all callers, and the valid callers by name. Raises ConfigError."""
    top = parse_toml(sources.text, lambda setting: read_secret(setting, environment)[1])
    entries = list_callers(top, sources.own, str(sources.path))
    vms = [each.name for each in list_entries(top, "vms", sources.own, str(sources.path))]
    return entries, {caller.name: caller for caller in read_callers(entries, vms)}
