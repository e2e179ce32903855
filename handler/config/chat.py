"""The `[chat]` table. An error in it disables chat and nothing else. Pure."""

import re
from collections.abc import Sequence

from .chat_api import read_model_api, refuse_variable
from .model import ChatSettings
from .reader import Entry, quoted

_UIDS = re.compile(r"([1-9][0-9]{3,9})-([1-9][0-9]{3,9})", re.ASCII)
_LOWEST, _HIGHEST = 1000, 2**31 - 1  # a system's own ids are below, and some programs know no higher ones
_MOST_UIDS = 1024  # each of them is looked up when the configuration is read
_EXAMPLE = 'uids = "200000-200063"'
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def read_chat(top: Entry, sessions_dir: str, with_guest: Sequence[str]) -> ChatSettings | None:
    """Return what [chat] says; None when it is absent or has a fault.

    `with_guest` names the VMs that claude could log in to: what a guest writes may choose claude's commands.
    """
    if not top.has("chat"):
        return None
    entry = top.get_table("chat")
    command, uids, shared_uid = entry.get_str("command", "claude"), _uids(entry), entry.get_flag("shared_uid")
    if not command:
        entry.problem("command", "is empty", 'name the program, like command = "claude"')
    if uids and shared_uid:
        entry.problem("uids", "can't be combined with shared_uid", "take out one of the two")
    if shared_uid and with_guest:
        message = f"can't be combined with vms.{with_guest[0]}.guest, which could have claude read the handler's files"
        entry.problem("shared_uid", message, f"write {_EXAMPLE} in its place, or take out the guests")
    at_once = entry.get_number("max_turns_at_once", 3, 1, 64)
    if uids and uids[1] - uids[0] + 1 < at_once:
        entry.problem("uids", f"has fewer ids than max_turns_at_once, {at_once}", "name at least one id for each turn")
    seconds = entry.get_number("turn_seconds", 1800, 1, 24 * 3600)
    env = _files_env(entry) | _env(entry)
    api = read_model_api(entry)
    entry.report_unknown()
    if entry.is_faulty:
        return None
    credential_file = entry.get_str("credential_file")
    return ChatSettings(sessions_dir, command, uids, shared_uid, at_once, seconds, env, api, credential_file)


def _uids(entry: Entry) -> tuple[int, ...]:
    """Return the first and the last user id for claude, or nothing."""
    text = entry.get_str("uids")
    if not entry.has("uids") or not isinstance(entry.get("uids"), str):
        return ()
    match = _UIDS.fullmatch(text)
    if match is None:
        entry.problem("uids", f"is not a range of user ids: {quoted(text)}", f"write it like {_EXAMPLE}")
        return ()
    first, last = int(match[1]), int(match[2])
    if not _LOWEST <= first <= last <= _HIGHEST or last - first >= _MOST_UIDS:
        message = f"is not a range of 1 to {_MOST_UIDS} ids from {_LOWEST} to {_HIGHEST}: {quoted(text)}"
        entry.problem("uids", message, f"write it like {_EXAMPLE}")
        return ()
    return first, last


def _env(entry: Entry) -> dict[str, str]:
    """Return the variables in the table; a problem never shows their values."""
    found, given = {}, entry.get("env", {})
    if not isinstance(given, dict):
        entry.problem("env", "is not a table", 'write env = { NAME = "…" }')
        return {}
    for name, value in given.items():
        if not _VARIABLE.fullmatch(name) or not isinstance(value, str) or "\0" in value:
            entry.problem(f"env.{name[:40]}", "is not a variable with a text", f'write {name[:40]} = "…"')
        elif hint := refuse_variable(name):
            entry.problem(f"env.{name[:40]}", "is not for claude", hint)
        else:
            found[name] = value
    return found


def _files_env(entry: Entry) -> dict[str, str]:
    """Return the variables in the files that env_file names, one NAME=VALUE a line."""
    found = {}
    lines = [
        (number, line.strip())
        for file in entry.get_strs("env_file")
        for number, line in enumerate(entry.file("env_file", file).splitlines(), 1)
    ]
    for number, line in lines:
        name, equals, value = line.partition("=")
        if not line or line.startswith("#"):
            continue
        if not equals or not _VARIABLE.fullmatch(name) or "\0" in value:
            entry.problem("env_file", f"line {number} is not NAME=VALUE", "write one variable a line, without quotes")
        elif hint := refuse_variable(name):
            entry.problem("env_file", f"line {number}: {name[:40]} is not for claude", hint)
        found[name] = value
    return found
