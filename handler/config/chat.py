"""The `[chat]` table. A fault in it switches chat off and nothing else. Pure."""

import re
from collections.abc import Sequence

from .chat_api import read_model_api, refuse_variable
from .model import ChatSettings
from .reader import Entry, quoted

_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def read_chat(top: Entry, sessions_dir: str, with_guest: Sequence[str]) -> ChatSettings | None:
    """Return what [chat] says; None when it is absent or has a fault.

    `with_guest` names the VMs that claude could log in to: what a guest writes may choose claude's commands.
    """
    if not top.has("chat"):
        return None
    entry = top.get_table("chat")
    command, user, shared_uid = entry.get_str("command", "claude"), _user(entry), entry.get_flag("shared_uid")
    if not command:
        entry.problem("command", "is empty", 'name the program, like command = "claude"')
    if user and shared_uid:
        entry.problem("user", "can't be combined with shared_uid", "take out one of the two")
    if shared_uid and with_guest:
        message = f"can't be combined with vms.{with_guest[0]}.guest, which could have claude read the handler's files"
        entry.problem("shared_uid", message, "set chat.user to an account of claude's own, or take out the guests")
    at_once = entry.get_number("max_turns_at_once", 3, 1, 64)
    seconds = entry.get_number("turn_seconds", 1800, 1, 24 * 3600)
    env = _files_env(entry) | _env(entry)
    api = read_model_api(entry)
    entry.report_unknown()
    if entry.is_faulty:
        return None
    return ChatSettings(sessions_dir, command, user, shared_uid, at_once, seconds, env, api)


def _user(entry: Entry) -> str:
    user = entry.get_str("user")
    if entry.has("user") and not _USER.fullmatch(user):
        entry.problem("user", f"is not a user name: {quoted(user)}", "name the account that claude runs as")
    return user


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
