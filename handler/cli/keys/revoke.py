"""`breakglass keys revoke`: removes a caller's file."""

import argparse
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...config.callers import AUTH_METHODS
from ...config.entries import NamedEntry
from ...config.own_files import remove_entry, texts_of
from ...config.sources import own_file
from ..environment import key_file
from ..output import DONE, FAILED, CommandError, agrees, has_person, remark
from ..reloading import check_reload, reload_handler
from .configuration import changing, find_caller, find_config, say_json


def keys_revoke(arguments: argparse.Namespace) -> int:
    """Remove a caller's file, after a question in a terminal. The handler refuses its requests after a reload.

    A caller in the configuration itself is not removed. Instead, the output says what a person must remove.
    """
    check_reload(arguments)
    file, name = find_config(arguments), arguments.name
    caller, others = find_caller(file, name)
    _refuse_last(caller, others)
    if not caller.has_file:
        raise CommandError(*_describe_lines(file, name), FAILED)
    if not arguments.yes:
        _ask(file, name, caller.entry.data)
    with changing():
        table = remove_entry(file, "callers", name)
    left = tuple(path for kind in AUTH_METHODS for path in texts_of(table, f"{kind}_file"))
    if arguments.json:
        say_json(file, name, {"unused_files": left})
    remark(f"{own_file(file, 'callers', name)} is removed", "requests that it started continue; nothing is cancelled")
    _say_uses(name, left)
    if not reload_handler(arguments):
        remark(f"until a reload, the handler still accepts {name}")
    return DONE


def _refuse_last(caller: NamedEntry, others: Sequence[NamedEntry]) -> None:
    """Raise CommandError for the last caller that signs, wherever the entries are."""
    signing = [each.entry.data for each in others if _signs(each)]
    if not _signs(caller) or (signing and (_is_over(caller.entry.data) or not all(map(_is_over, signing)))):
        return
    why = " and has not expired" if signing else ": the handler would not start"
    hint = f"make another one first: breakglass keys new NAME; for a new key: breakglass keys rotate {caller.name}"
    raise CommandError(f"{caller.name} is the last caller that signs{why}", hint, FAILED)


def _signs(caller: NamedEntry) -> bool:
    return any(key in caller.entry.data for key in ("secret", "secret_file"))


def _is_over(table: Mapping[str, Any]) -> bool:
    end = table.get("not_after")
    return isinstance(end, datetime) and end.replace(tzinfo=end.tzinfo or UTC) <= datetime.now(UTC)


def _describe_lines(file: Path, name: str) -> tuple[str, str]:
    """Return the instruction to remove a caller's lines. Shows none of them, because one may be a secret."""
    message = f"{name} is defined in {file}, which this command does not change; {name} was not removed"
    has_both = own_file(file, "callers", name).exists()  # the caller's own file takes effect once the lines are removed
    then = (
        f"then run breakglass keys revoke {name}" if has_both else "then run breakglass check, and reload the handler"
    )
    return message, f"remove callers.{name} from {os.path.realpath(file)}; {then}"


def _ask(file: Path, name: str, table: Mapping[str, Any]) -> None:
    """Raise CommandError unless the person at the terminal agrees."""
    if not has_person():
        raise CommandError(
            f"this removes {own_file(file, 'callers', name)}, but there is no terminal at which to ask you", "add --yes"
        )
    allow, vms = table.get("allow"), table.get("vms")
    what = ", ".join(map(str, allow)) if isinstance(allow, list) else str(allow)
    where = "all VMs" if vms is None else ", ".join(map(str, vms)) if isinstance(vms, list) else str(vms)
    remark(f"{name} may: {what}; on {where}. Its requests under way continue.")
    if not agrees(f"Remove {name}?"):
        raise CommandError("nothing was changed", "", FAILED)


def _say_uses(name: str, left: tuple[str, ...]) -> None:
    """Print what else depends on a removed caller."""
    if left:
        remark(f"no longer used, but not deleted: {', '.join(left)}")
    file, setting = key_file(os.environ)
    if file in left:
        remark(f"{setting} is one of them: call, chat, doctor and drill sign with it")
    if name == "doctor":
        remark(
            "breakglass doctor signed as this caller: its timer fails from now on",
            "breakglass keys new doctor --allow status",
        )
