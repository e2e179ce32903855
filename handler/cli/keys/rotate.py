"""`breakglass keys rotate`: a caller gets a new secret beside the old one, and later loses the old one."""

import argparse
import os
from datetime import datetime
from pathlib import Path

from ...auth.signing import SIGNATURE, fingerprint
from ...config.caller_edits import add_secret, drop_old_secrets, method_setting
from ...config.callers import AUTH_METHODS, KEY_BYTES
from ...config.load import load_callers
from ...config.sources import caller_file, read_sources
from ..errors import CommandError
from ..output import DONE, FAILED, remark
from ..reloading import check_reload, reload_handler
from .configuration import changing, find_caller, find_config, show_or_take_back
from .pairing import pair_rotate
from .secrets import NOUNS, new_secret, secret_file


def keys_rotate(arguments: argparse.Namespace) -> int:
    """Give a caller one more secret, which is shown or written to a file; --drop-old ends all but the newest."""
    check_reload(arguments)
    file = find_config(arguments)
    with changing():
        method = AUTH_METHODS[method_setting(arguments.name, find_caller(file, arguments.name)[0].entry.data)]
        if arguments.pair:
            return _pair(arguments, file, method)
        return _drop(arguments, file, method) if arguments.drop_old else _add(arguments, file, method)


def _add(arguments: argparse.Namespace, file: Path, method: str) -> int:
    name, secret = arguments.name, new_secret(method)
    with secret_file(arguments.out, secret):
        add_secret(file, name, secret)
        show_or_take_back(arguments, file, secret)
    where = f"in {arguments.out}" if arguments.out else "shown this once"
    shown = fingerprint(KEY_BYTES[method](secret))
    remark(f"{name} has a new {NOUNS[method]}, {shown}, {where}; the old one stays good")
    end = find_caller(file, name)[0].entry.data.get("not_after")
    if isinstance(end, datetime):
        remark(f"its not_after is still {end:%Y-%m-%d}", f"to change that, edit {caller_file(file, name)}")
    reload_handler(arguments)
    remark("once the new one is in use, end the old one:", f"breakglass keys rotate {name} --drop-old")
    return DONE


def _pair(arguments: argparse.Namespace, file: Path, method: str) -> int:
    if arguments.out or arguments.drop_old:
        raise CommandError("--pair can't be combined with --out or --drop-old", "leave them out")
    if method != SIGNATURE:
        raise CommandError(f"{arguments.name} has no signing key, which a device needs", "pair another caller", FAILED)
    return pair_rotate(arguments, file)


def _drop(arguments: argparse.Namespace, file: Path, method: str) -> int:
    name, before = arguments.name, _fingerprints(file, arguments.name)
    has_dropped, left = drop_old_secrets(file, name)
    if not has_dropped:
        remark(f"{name} has one {NOUNS[method]} only, {', '.join(before)}; nothing was changed")
        return DONE
    after = _fingerprints(file, name)
    ended = ", ".join(key for key in before if key not in after)
    files = f"no longer used, and still there: {', '.join(left)}" if left else ""
    remark(f"{name} has {', '.join(after)} left; ended: {ended}", files)
    reload_handler(arguments)
    return DONE


def _fingerprints(file: Path, name: str) -> list[str]:
    """Return the fingerprint of each secret of a caller, as the log has them. Raises CommandError if it is disabled."""
    _, usable = load_callers(read_sources(file, os.environ), os.environ)
    if name not in usable:
        raise CommandError(f"the entry of {name} has an error", "see breakglass check", FAILED)
    return [fingerprint(key) for key in usable[name].keys]
