"""The commands' settings from the environment. A wrong value raises CommandError, which says how to mend it."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from ..auth.signing import secret_bytes
from ..config.sources import describe_exposure
from .output import CommandError, reason

DEFAULT_URL = "http://127.0.0.1:8080"
_URL_HINT = f"set it to the handler's address, for example {DEFAULT_URL}"
_MOST_SECRET_BYTES = 4096  # a signing key has about fifty
_CREDENTIALS = "/run/credentials/breakglass.service"  # root can enter it

Environment = Mapping[str, str]


# --- the handler's address ---


def handler_url(environment: Environment) -> str:
    """Return the handler's URL."""
    return checked_url("BREAKGLASS_URL", environment.get("BREAKGLASS_URL", DEFAULT_URL))


def checked_url(name: str, url: str) -> str:
    """Return `url` without query and fragment; the fragment of the page's link is the signing key.

    Raises CommandError if it is not an http or https URL; `name` is the setting that it comes from.
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
        raise CommandError(f"{name} has a user name in it, which is not used", f"take it out; {_URL_HINT}")
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


# --- the signing key ---


def caller_key(environment: Environment) -> bytes:
    """Return the caller's signing key, from a file or from the environment; never from the command line."""
    file = environment.get("BREAKGLASS_SECRET_FILE")
    if file:
        secret, name = _secret_in(file, environment), f'the signing key in "{file}"'
    else:
        secret, name = environment.get("BREAKGLASS_SECRET", "").strip(), "BREAKGLASS_SECRET"
        if not secret:
            raise CommandError("no signing key is set", "set BREAKGLASS_SECRET_FILE to the file that has it")
    try:
        return secret_bytes(secret)
    except ValueError as error:
        hint = "it is one word that begins with whsec_: copy all of it"
        raise CommandError(f"{name} {error}", hint) from None


def _secret_in(file: str, environment: Environment) -> str:
    if file.startswith("whsec_"):
        hint = "write the key to a file with mode 600, and set it to that file's path"
        raise CommandError("BREAKGLASS_SECRET_FILE has a signing key in it, not a path", hint)
    name = f'BREAKGLASS_SECRET_FILE is "{file}"'
    try:
        if exposure := describe_exposure(Path(file), os.stat(file), environment):
            raise CommandError(f'the signing key in "{file}" is not safe: {exposure}', f'chmod 600 "{file}"')
        with Path(file).open(encoding="ascii") as opened:
            secret = opened.read(_MOST_SECRET_BYTES).strip()
    except FileNotFoundError:
        raise CommandError(f"{name}, and there is no such file", "set it to the file with your signing key") from None
    except IsADirectoryError:
        raise CommandError(f"{name}, which is a directory", "set it to the file in it that has the key") from None
    except PermissionError:
        raise CommandError(f"{name}, which this user can't read", "run this as the file's owner") from None
    except OSError as error:
        raise CommandError(f"{name}, which can't be read: {reason(error)}", "check the file") from None
    except UnicodeDecodeError:
        raise CommandError(f"{name}, which is not a text file", "write only the whsec_… word into it") from None
    if not secret:
        raise CommandError(f"{name}, which is empty", "write the whsec_… signing key into it")
    return secret


# --- the configuration's files ---


def use_unit_credentials() -> None:
    """As root, read the files that are systemd credentials in the directory of the handler's unit, while it runs."""
    if os.geteuid() == 0 and os.path.isdir(_CREDENTIALS):
        os.environ.setdefault("CREDENTIALS_DIRECTORY", _CREDENTIALS)


# --- where to listen ---


def port_number(environment: Environment, default: str) -> int:
    """Return PORT; 0 lets the kernel choose."""
    port = environment.get("PORT", default)
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 65535):
        raise CommandError(f'PORT is "{port}", which is not a number from 0 to 65535', "set it to one, or unset it")
    return int(port)
