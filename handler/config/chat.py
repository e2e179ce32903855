"""`[chat]` of the configuration. A fault in it switches chat off and nothing else. Pure, through `Tables`."""

import re

from .model import ChatSettings
from .reader import Table, Tables

_KEYS = ("command", "user", "shared_uid", "max_turns_at_once", "turn_seconds", "env", "env_file")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def read_chat(tables: Tables, sessions_dir: str) -> ChatSettings | None:
    """Return what [chat] says; None when it is absent or has a fault."""
    if "chat" not in tables.data:
        return None
    before = len(tables.problems)
    table = tables.get_table("chat")
    tables.unknown("chat", table, _KEYS)
    command = tables.get_str("chat", table, "command", "claude")
    if not command:
        tables.problem("chat.command", "is empty", 'the program, like "claude"')
    user = tables.get_str("chat", table, "user", "")
    if "user" in table and not _USER.fullmatch(user):
        tables.problem("chat.user", f'is not a user\'s name: "{user[:40]}"', "the account that claude runs as")
    shared = table.get("shared_uid", False)
    if not isinstance(shared, bool):
        tables.problem("chat.shared_uid", "is not true or false", "shared_uid = true, without quotes")
    if user and shared:
        tables.problem("chat.user", "can't be combined with shared_uid", "take out one of the two")
    at_once = _number(tables, table, "max_turns_at_once", 2, 64)
    seconds = _number(tables, table, "turn_seconds", 1800, 24 * 3600)
    env = _env(tables, table)
    if len(tables.problems) > before:
        return None
    return ChatSettings(sessions_dir, command, user, bool(shared), at_once, seconds, env)


def _number(tables: Tables, table: Table, key: str, default: int, most: int) -> int:
    value = table.get(key, default)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most:
        return value
    tables.problem(f"chat.{key}", f"is not a number from 1 to {most}", f"like {key} = {default}, without quotes")
    return default


def _env(tables: Tables, table: Table) -> dict[str, str]:
    """Return the variables for claude, those of the files first; a value that is wrong is never repeated."""
    found: dict[str, str] = {}
    for file in tables.get_strs("chat", table, "env_file"):
        found |= _lines(tables, tables.file("chat.env_file", file))
    given = table.get("env", {})
    if not isinstance(given, dict):
        tables.problem("chat.env", "is not a table", 'like env = { ANTHROPIC_API_KEY = "…" }')
        return found
    for name, value in given.items():
        if not _VARIABLE.fullmatch(name) or not isinstance(value, str) or "\0" in value:
            tables.problem(f"chat.env.{name[:40]}", "is not a variable with a text", f'like {name[:40]} = "…"')
        else:
            found[name] = value
    return found


def _lines(tables: Tables, text: str) -> dict[str, str]:
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, equals, value = line.strip().partition("=")
        if name and not name.startswith("#"):
            if not equals or not _VARIABLE.fullmatch(name) or "\0" in value:
                tables.problem("chat.env_file", f"line {number} is not NAME=VALUE", "one variable a line, no quotes")
            found[name] = value
    return found
