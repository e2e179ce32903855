"""The commands' settings from the environment. A wrong value raises CommandError, which says how to fix it."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from ..auth.signing import fingerprint, secret_bytes
from ..base.findings import ConfigError
from ..client import Signer
from ..config.reader import in_file
from ..config.secret_files import read_secret
from .output import CommandError

DEFAULT_URL = "http://127.0.0.1:8080"
_URL_HINT = f"set it to the handler's address, for example {DEFAULT_URL}"
_CLIENT_KEYS = ("url", "secret_file")
_CLIENT_HINT = "correct it, or set BREAKGLASS_URL and BREAKGLASS_SECRET_FILE, which have precedence"
_CREDENTIALS = "/run/credentials/breakglass.service"  # only root can enter this directory

Environment = Mapping[str, str]


# --- the caller's own file, in which `init` remembers the URL and the signing key ---


def home_directory(environment: Environment, variable: str, default: str) -> str:
    """Return a directory of the XDG specification, which allows only absolute paths."""
    named = environment.get(variable, "")
    return named if named.startswith("/") else f"{environment.get('HOME') or '.'}/{default}"


def client_file(environment: Environment) -> Path:
    """Return the path of this user's client.toml. It is relative if the user has no home directory."""
    return Path(home_directory(environment, "XDG_CONFIG_HOME", ".config"), "breakglass/client.toml")


def _remembered(environment: Environment, key: str) -> tuple[str, str]:
    """Return a setting of client.toml and where it is, or two empty texts. Raises CommandError for an unusable file."""
    path = client_file(environment)
    if not path.is_absolute() or not os.path.lexists(path):
        return "", ""
    text = read_private("client.toml", str(path), _CLIENT_HINT, environment)
    # sudo -E keeps HOME, so root then reads the file of the user who ran sudo
    if str(path.stat().st_uid) not in ("0", str(os.geteuid()), environment.get("SUDO_UID")):
        raise CommandError(f"{path} belongs to another user", _CLIENT_HINT)
    import tomllib  # imported here, because most commands do not need it

    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{path} is not TOML: {error}", _CLIENT_HINT) from None
    if wrong := [name for name, value in table.items() if name not in _CLIENT_KEYS or not isinstance(value, str)]:
        raise CommandError(f"{path}: {wrong[0][:40]} is not a text that belongs there", _CLIENT_HINT)
    return table.get(key, ""), f"{key} of {path}"


# --- the handler's address ---


def given_url(environment: Environment) -> str:
    """Return the handler's URL from the environment, or from client.toml, or an empty text."""
    if "BREAKGLASS_URL" in environment:
        return checked_url("BREAKGLASS_URL", environment["BREAKGLASS_URL"])
    url, place = _remembered(environment, "url")
    return url and checked_url(place, url)


def handler_url(environment: Environment) -> str:
    """Return the handler's URL."""
    return given_url(environment) or DEFAULT_URL


def checked_url(name: str, url: str) -> str:
    """Return `url` without query and fragment; because the fragment of a page link is the signing key.

    Raises CommandError if `url` is not an http or https URL. `name` is the setting that it comes from.
    """
    shown = re.sub("//[^/]*@", "//…@", url.partition("#")[0])  # without a password
    if not url:
        raise CommandError(f"{name} is empty", _URL_HINT)
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not url.isprintable() or " " in url:
        raise CommandError(f'{name} is not an http or https URL: "{shown}"', _URL_HINT)
    if "@" in parts.netloc:
        raise CommandError(f"{name} contains a user name, which is not used", f"take it out; {_URL_HINT}")
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


# --- the signing key ---


def key_file(environment: Environment) -> tuple[str, str]:
    """Return the file of the caller's signing key and the setting that names it, or two empty texts."""
    if environment.get("BREAKGLASS_SECRET_FILE") or environment.get("BREAKGLASS_SECRET"):
        return environment.get("BREAKGLASS_SECRET_FILE", ""), "BREAKGLASS_SECRET_FILE"
    file, place = _remembered(environment, "secret_file")
    return file and str(client_file(environment).parent / file), place


def given_key(environment: Environment) -> bytes | None:
    """Return the caller's signing key from a file or the environment, never from the command line; None without one."""
    file, name = key_file(environment)
    if file.startswith("whsec_"):
        hint = "write the key to a file with mode 600, and set it to that file's path"
        raise CommandError(f"{name} contains a signing key instead of a path", hint)
    if file:
        secret = read_private(name, file, "set it to the path of the file with your signing key", environment)
    else:
        secret, name = environment.get("BREAKGLASS_SECRET", "").strip(), "BREAKGLASS_SECRET"
        if not secret:
            return None
    try:
        return secret_bytes(secret)
    except ValueError as error:
        hint = "the key is one word that begins with whsec_; copy all of it"
        raise CommandError(f"{name} {error}{in_file(file)}", hint) from None


def caller_key(environment: Environment) -> bytes:
    """Return the caller's signing key. Raises CommandError if there is none."""
    key = given_key(environment)
    if key is None:
        hint = f"set BREAKGLASS_SECRET_FILE, or secret_file in {client_file(environment)}, to the file with your key"
        raise CommandError("no signing key is set", hint)
    return key


def own_signer(environment: Environment) -> Signer:
    """Return the caller's key and the URL of its handler. Raises CommandError."""
    return Signer(handler_url(environment), caller_key(environment))


def read_private(setting: str, file: str, hint: str, environment: Environment) -> str:
    """Return the text of a file that other users may not read.

    Raises CommandError, with the setting that names the file. `hint` says which file to name.
    """
    try:
        return read_secret(file, environment)[1].strip()
    except ConfigError as unusable:
        [found] = unusable.problems
        fix = found.fix if found.code == "file-exposed" else hint
        raise CommandError(f"{setting} {found.sentence}", fix) from None


def name_refused_key(environment: Environment) -> tuple[str, str]:
    """Return which key the handler has refused, and what to do. The handler never says why."""
    name = f"{in_file(key_file(environment)[0])} (fingerprint {fingerprint(caller_key(environment))})"
    hint = "it may be revoked, rotated or expired; on the handler's machine, run breakglass keys list"
    return f"the handler does not accept the signing key{name}", hint


# --- the configuration's files ---


def use_unit_credentials() -> None:
    """As root, read the systemd credentials from the directory of the handler's unit while that runs."""
    if os.geteuid() == 0 and os.path.isdir(_CREDENTIALS):
        os.environ.setdefault("CREDENTIALS_DIRECTORY", _CREDENTIALS)


# --- where to listen ---


def port_number(environment: Environment, default: str) -> int:
    """Return PORT; 0 lets the kernel choose."""
    port = environment.get("PORT", default)
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 65535):
        raise CommandError(
            f'PORT is "{port}", which is not a number from 0 to 65535', "set PORT to such a number, or unset PORT"
        )
    return int(port)
