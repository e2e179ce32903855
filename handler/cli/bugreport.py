"""`breakglass bugreport`: one file with what a maintainer asks for, and without a secret.

The configuration's texts are hidden unless they are names, addresses or paths. In the rest of the report, such as
doctor's sentences, each hidden text is replaced too, and so are the contents of the secret files and of variables.
"""

import argparse
import http.client
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import date
from datetime import time as clock
from importlib.metadata import distributions
from urllib.parse import urlsplit

from ..agents.pve.words import VERSION
from ..base.findings import ConfigError, Finding, as_json
from ..base.times import rfc3339
from ..config.load import config_path, parse_toml
from ..config.reader import quoted
from ..config.secret_files import CREDENTIALS, read_secret
from ..config.sources import read_sources
from .environment import handler_url, use_unit_credentials
from .keys.configuration import secret_file
from .output import DONE, CommandError, reason, remark, say

FILE = "breakglass-bugreport.json"
HIDDEN = "(hidden)"
_DOCTOR_SECONDS, _VERSION_SECONDS = 90.0, 10.0
# the settings that are shown if they have the form of a name, an address or a number
_NAMES = {"ssh", "guest", "hosts", "node", "cluster", "allow", "vms", "vm", "source", "to", "on", "command", "proxies"}
_NUMBERS = {"vmid", "max_turns_at_once", "turn_seconds"}
_OWN_URL = "server.url"
_URLS = {_OWN_URL, "url", "base_url", "https_proxy"}
_WORD = re.compile("/?[a-z]{1,12}/?")  # a path that is a word and no token, so it also stands elsewhere
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}(@[A-Za-z0-9.:\[\]-]{1,64})?(/\d{1,3})?", re.ASCII)
_SECRET_VARIABLE = re.compile(r"SECRET|TOKEN|KEY|PASS|CREDENTIAL|AUTH|PROXY|URL", re.IGNORECASE)
_LEAST = 6  # characters of a text that is replaced everywhere; a shorter one could be a part of any word
# a key, or a password in a URL, wherever it stands
_KEYS = re.compile(
    r"whsec_[A-Za-z0-9+/=]+|bgt_[\w-]+|sk-[\w-]{8,}|tk_\w{8,}|(?<=//)[^/@\s\"]+(?=@)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----",
    re.DOTALL,
)


def add_bugreport(parser: argparse.ArgumentParser) -> None:
    """Describe `bugreport`."""
    parser.description = (
        "Write one new file that only you can read: versions, doctor's report, /health, and the configuration without "
        "its keys, tokens, passwords and texts. It names hosts, VMs, callers and addresses. Nothing is sent."
    )
    parser.add_argument("file", nargs="?", metavar="FILE", default=FILE, help=f"default: {FILE}")
    parser.set_defaults(run=bugreport)


def bugreport(arguments: argparse.Namespace) -> int:
    """Write the file, and say what is in it."""
    use_unit_credentials()
    secrets = set(_secrets_of_environment())
    remark("asking doctor, which takes up to 30 s")
    report: dict[str, object] = {"breakglass": VERSION, "at": rfc3339(time.time()), "versions": _read_versions()}
    report["variables"] = sorted(name for name in os.environ if name.startswith(("BREAKGLASS_", "HOST", "PORT")))
    report["configuration"] = _read_configuration(secrets)
    report["doctor"], report["health"] = _ask_doctor(), _ask_health()
    with secret_file(arguments.file, _scrub(json.dumps(report, indent=1), secrets)):
        pass
    say(
        f"{arguments.file} has the versions, what doctor and /health say, and the configuration without its keys, "
        "tokens, passwords and texts. It names your hosts, VMs, callers and addresses, so read it before you send it."
    )
    return DONE


def _scrub(text: str, secrets: set[str]) -> str:
    """Return the report without the texts that are hidden, and without anything that looks like a key."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(json.dumps(secret)[1:-1], HIDDEN)
    return _KEYS.sub(HIDDEN, text)


# --- The configuration, without its texts ---


def _read_configuration(secrets: set[str]) -> object:
    """Return the configuration and the own files. Add each hidden text, and the content of each secret file."""
    try:
        sources = read_sources(config_path(), os.environ)
    except ConfigError as unusable:
        return as_json(unusable.problems)
    texts: dict[str, str | Finding] = {str(sources.path): sources.text}
    texts |= {f"{table}.d/{name}": text for table, own in sources.own.items() for name, text in own.items()}
    return {name: _read_file(text, secrets) for name, text in texts.items()}


def _read_file(text: str | Finding, secrets: set[str]) -> object:
    if isinstance(text, Finding):
        return as_json([text])
    try:
        return _redact("", parse_toml(text, lambda _: "").data, secrets)
    except ConfigError as unusable:
        for line in text.splitlines():  # a file that is not TOML: hide what is in quotes, and what may be in them
            key, _, value = line.partition("=")
            for each in (*re.findall(r"[^\"']+", line), value, line) if not line.startswith("[") else ():
                _redact(key.strip(), each.strip("\t ,"), secrets)
        return as_json(unusable.problems)


def _redact(key: str, value: object, secrets: set[str]) -> object:
    """Return a value of TOML without its texts, except names, paths and the addresses in URLs."""
    if isinstance(value, dict):
        own = _OWN_URL if key == "server" else "url"
        return {name: _redact(own if name == "url" else name, each, secrets) for name, each in value.items()}
    if isinstance(value, list):
        return [_redact(key, each, secrets) for each in value]
    if isinstance(value, bool | date | clock) or (key in _NUMBERS and isinstance(value, int)):
        return value if isinstance(value, int) else value.isoformat()
    text = str(value)
    if key in _NAMES and _NAME.fullmatch(text):
        return text
    if key in _URLS:
        return _redact_url(text, secrets, key == _OWN_URL)
    if key.endswith("_file"):
        secrets |= set(_secrets_in(text))
    if (key == "dir" or key.endswith("_file")) and text.startswith(("/", CREDENTIALS)) and text.isprintable():
        return text
    secrets |= set(filter(_is_long, (text, quoted(text)[1:-1], *map(str.strip, text.split("\n")))))
    return f"{HIDDEN[:-1]}, {len(text)} characters)"


def _redact_url(url: str, secrets: set[str], is_own: bool = False) -> str:
    """Return a URL's address. The user, the path and the query can be secret, but not the handler's own path."""
    try:
        parts = urlsplit(url)
        shown = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}/"
    except ValueError:
        parts, shown = urlsplit(""), HIDDEN
    pieces = {parts.username or "", parts.password or "", parts.query, parts.fragment}
    if is_own:
        shown += parts.path.lstrip("/")
    elif _WORD.fullmatch(parts.path):
        pieces.add(f"{parts.netloc}{parts.path}")
    else:
        pieces.add(parts.path.strip("/"))
    pieces |= {quoted(url)[1:-1]} if "@" in url else set()
    secrets |= set(filter(_is_long, pieces))
    return shown


def _is_long(text: str) -> bool:
    return len(text.strip()) >= _LEAST


def _secrets_in(setting: str) -> Iterator[str]:
    """Yield the lines of the file that a setting names, and the value of a line NAME=VALUE."""
    try:
        text = read_secret(setting, os.environ)[1]
    except ConfigError:
        return
    for line in text.splitlines():
        yield from filter(_is_long, (line.strip(), line.partition("=")[2].strip()))


def _secrets_of_environment() -> Iterator[str]:
    """Yield the values of the variables whose names are those of secrets, and the lines of the file with the key."""
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name) and not name.endswith("_FILE"):
            pieces: set[str] = set()
            _redact_url(value, pieces, name == "BREAKGLASS_URL") if "://" in value else pieces.add(value.strip())
            yield from filter(_is_long, pieces)
    yield from _secrets_in(os.environ.get("BREAKGLASS_SECRET_FILE", ""))


# --- What other programs say ---


def _ask_doctor() -> object:
    """Return doctor's report, from another process, because doctor changes its user."""
    command = [sys.executable, "-P", "-m", "breakglass", "doctor", "--json"]
    try:
        ran = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_DOCTOR_SECONDS)
        return json.loads(ran.stdout or b"null") or ran.stderr.decode("utf-8", "replace")
    except (OSError, ValueError, subprocess.TimeoutExpired) as fault:
        return f"doctor gave no report: {fault}"


def _ask_health() -> object:
    from ..doctor.http import exchange, failure  # imported here, so that the other commands start without it

    try:
        return exchange(handler_url(os.environ), "GET", "/health").json
    except CommandError as fault:
        return fault.message
    except (OSError, http.client.HTTPException) as fault:
        return failure(fault)


def _read_versions() -> Mapping[str, str]:
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        system = ""
    found = {each.name: each.version for each in distributions() if each.name in ("asyncssh", "starlette", "uvicorn")}
    kernel, python = f"{platform.system()} {platform.release()} {platform.machine()}", platform.python_version()
    return {"system": system, "kernel": kernel, "python": python, "openssh": _read_openssh(), **found}


def _read_openssh() -> str:
    try:
        ran = subprocess.run(["ssh", "-V"], capture_output=True, text=True, timeout=_VERSION_SECONDS)
        return ran.stderr.strip()
    except (OSError, subprocess.TimeoutExpired) as fault:
        return reason(fault) if isinstance(fault, OSError) else str(fault)
