"""The commands' settings from the environment. A wrong value raises CommandError, which says how to fix it."""

import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from ..auth.signing import fingerprint, secret_bytes
from ..base.findings import ConfigError
from ..config.reader import in_file
from ..config.sources import read_secret
from .output import CommandError

DEFAULT_URL = "http://127.0.0.1:8080"
_URL_HINT = f"set it to the handler's address, for example {DEFAULT_URL}"
_CREDENTIALS = "/run/credentials/breakglass.service"  # only root can enter this directory

Environment = Mapping[str, str]


# --- the handler's address ---


def handler_url(environment: Environment) -> str:
    """Return the handler's URL."""
    return checked_url("BREAKGLASS_URL", environment.get("BREAKGLASS_URL", DEFAULT_URL))


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


def caller_key(environment: Environment) -> bytes:
    """Return the caller's signing key, from a file or the environment, never from the command line."""
    file, name = environment.get("BREAKGLASS_SECRET_FILE", ""), "BREAKGLASS_SECRET_FILE"
    if file.startswith("whsec_"):
        hint = "write the key to a file with mode 600, and set it to that file's path"
        raise CommandError(f"{name} contains a signing key instead of a path", hint)
    if file:
        secret = read_private(name, file, "set it to the path of the file with your signing key", environment)
    else:
        secret, name = environment.get("BREAKGLASS_SECRET", "").strip(), "BREAKGLASS_SECRET"
        if not secret:
            raise CommandError(
                "no signing key is set", "set BREAKGLASS_SECRET_FILE to the file that contains your signing key"
            )
    try:
        return secret_bytes(secret)
    except ValueError as error:
        hint = "the key is one word that begins with whsec_; copy all of it"
        raise CommandError(f"{name} {error}{in_file(file)}", hint) from None


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
    name = (
        f"{in_file(environment.get('BREAKGLASS_SECRET_FILE', ''))} (fingerprint {fingerprint(caller_key(environment))})"
    )
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
