"""`breakglass keys revoke`: a caller is taken out of the configuration."""

import argparse
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...config.edit import remove_caller
from ...config.load import load_caller_tables
from ..errors import CommandError
from ..output import DONE, FAILED, remark
from ..reloading import check_reload, reload_handler
from .configuration import changing, find_config

_SIGNING = ("secret", "secret_file")


def keys_revoke(arguments: argparse.Namespace) -> int:
    """Remove a caller, after a question in a terminal. Its requests are refused once the handler has reloaded."""
    check_reload(arguments)
    file, name = find_config(arguments), arguments.name
    tables = load_caller_tables(file)
    if name not in tables:
        raise CommandError(f"{file} has no caller {name}", f"use one of {', '.join(tables)}", FAILED)
    others = [table for other, table in tables.items() if other != name and any(key in table for key in _SIGNING)]
    if not others or (all(map(_is_over, others)) and not _is_over(tables[name])):
        why = "and has not expired" if others else "the handler would not start"
        hint = f"make another one first: breakglass keys new NAME; for a new key: breakglass keys rotate {name}"
        raise CommandError(f"{name} is the last caller that signs{' ' if others else ': '}{why}", hint, FAILED)
    if not arguments.yes:
        _ask(file, name, tables[name])
    with changing():
        left = remove_caller(file, name).left
    remark(f"{name} is out of {file}", "what it has started goes on; nothing is cancelled")
    _say_uses(name, left)
    if not reload_handler(arguments):
        remark(f"until then, the handler still accepts {name}")
    return DONE


def _is_over(table: Mapping[str, Any]) -> bool:
    end = table.get("not_after")
    return isinstance(end, datetime) and end.replace(tzinfo=end.tzinfo or UTC) <= datetime.now(UTC)


def _ask(file: Path, name: str, table: Mapping[str, Any]) -> None:
    """Raise CommandError unless the person at the terminal agrees."""
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        raise CommandError(f"this removes {name} from {file}, and there is no terminal to ask at", "add --yes")
    allow, vms = table.get("allow"), table.get("vms")
    what = ", ".join(map(str, allow)) if isinstance(allow, list) else str(allow)
    where = "all VMs" if vms is None else ", ".join(map(str, vms)) if isinstance(vms, list) else str(vms)
    remark(f"{name} may: {what}; on {where}. Its requests under way go on.")
    try:
        agrees = input(f"Remove {name}? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        agrees = False
    if not agrees:
        raise CommandError("nothing was changed", "", FAILED)


def _say_uses(name: str, left: tuple[str, ...]) -> None:
    """Say what else depends on a caller that is gone."""
    if left:
        remark(f"no longer used, and still there: {', '.join(left)}")
    if os.environ.get("BREAKGLASS_SECRET_FILE") in left:
        remark("BREAKGLASS_SECRET_FILE is one of them: call, chat, doctor and drill sign with it")
    if name == "doctor":
        remark(
            "breakglass doctor signed as this caller: its timer fails from now on",
            "breakglass keys new doctor --allow status",
        )
