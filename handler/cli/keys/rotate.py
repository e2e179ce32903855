"""`breakglass keys rotate`: a caller gets a new secret beside the old one, and later loses the old one."""

import argparse
import contextlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from ...auth.signing import SIGNATURE, fingerprint
from ...config.callers import AUTH_METHODS, KEY_BYTES
from ...config.edit import add_secret, drop_old_secrets, drop_secret, read_secrets
from ...config.load import load_caller_tables
from ...config.replacing import EditError
from ..errors import CommandError
from ..output import DONE, FAILED, remark, say
from ..reloading import check_reload, reload_handler
from .configuration import changing, find_config
from .pairing import pair_rotate
from .secrets import NOUNS, new_secret, secret_file


def keys_rotate(arguments: argparse.Namespace) -> int:
    """Give a caller one more secret, which is shown or written to a file; --drop-old ends all but the newest."""
    check_reload(arguments)
    file = find_config(arguments)
    if arguments.pair:
        return _pair(arguments, file)
    with changing():
        return _drop(arguments, file) if arguments.drop_old else _add(arguments, file)


def method_of(file: Path, name: str) -> str:
    """Return the auth method of a caller. Raises CommandError if there is no such caller, or if it has no clear one."""
    tables = load_caller_tables(file)
    if name not in tables:
        raise CommandError(f"{file} has no caller {name}", f"use one of {', '.join(tables)}", FAILED)
    found = [method for key, method in AUTH_METHODS.items() if key in tables[name] or f"{key}_file" in tables[name]]
    if len(found) != 1:
        message = f"{name} has {len(found)} auth methods"
        raise CommandError(message, "see the problems that breakglass check lists", FAILED)
    return found[0]


def _add(arguments: argparse.Namespace, file: Path) -> int:
    name, method = arguments.name, method_of(file, arguments.name)
    secret = new_secret(method)
    shown = fingerprint(KEY_BYTES[method](secret))
    with secret_file(arguments.out, secret):
        try:
            change = add_secret(file, name, secret)
            if arguments.out is None:
                say(secret)
        except EditError:
            raise
        except BaseException:  # a pipe that is closed, or Ctrl-C: no one has seen the secret
            with contextlib.suppress(EditError):
                drop_secret(file, name, secret)
            raise
    made = f"the handler reads it from {', '.join(change.made)}" if change.made else ""
    where = f"in {arguments.out}" if arguments.out else "shown this once"
    remark(f"{name} has a new {NOUNS[method]}, {shown}, {where}; the old one stays good", made)
    end = load_caller_tables(file)[name].get("not_after")
    if isinstance(end, datetime):
        remark(f"its not_after is still {end:%Y-%m-%d}", f"to change that, edit callers.{name}.not_after in {file}")
    reload_handler(arguments)
    remark("once the new one is in use, end the old one:", f"breakglass keys rotate {name} --drop-old")
    return DONE


def _pair(arguments: argparse.Namespace, file: Path) -> int:
    if arguments.out or arguments.drop_old:
        raise CommandError("--pair can't be combined with --out or --drop-old", "leave them out")
    if method_of(file, arguments.name) != SIGNATURE:
        raise CommandError(f"{arguments.name} has no signing key, which a device needs", "pair another caller", FAILED)
    return pair_rotate(arguments, file)


def _drop(arguments: argparse.Namespace, file: Path) -> int:
    name = arguments.name
    before = _fingerprints(file, name)
    change = drop_old_secrets(file, name)
    after = _fingerprints(file, name)
    if ended := [key for key in before if key not in after]:
        remark(f"{name} has {', '.join(after)} left; ended: {', '.join(ended)}", _say_left(change.left))
        reload_handler(arguments)
    else:
        remark(f"{name} has one {NOUNS[method_of(file, name)]} only, {', '.join(after)}; nothing was changed")
    return DONE


def _fingerprints(file: Path, name: str) -> list[str]:
    """Return the fingerprint of each secret of a caller, as the log has them, oldest first."""
    method = method_of(file, name)
    try:
        return [fingerprint(KEY_BYTES[method](secret)) for secret in read_secrets(file, name)]
    except ValueError as error:
        raise CommandError(f"a {NOUNS[method]} of {name} {error}", "see breakglass check", FAILED) from None


def _say_left(files: Sequence[str]) -> str:
    return f"no longer used, and still there: {', '.join(files)}" if files else ""
