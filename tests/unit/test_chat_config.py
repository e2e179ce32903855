"""[chat]: what it says, and that a fault in it switches off chat alone."""

import pytest

from breakglass.config.model import ChatSettings, Config

from .test_config import GOOD, read


def chat(text: str, files: dict[str, str] | None = None) -> Config:
    return read(f"{GOOD}\n[chat]\n{text}", files or {})


def test_without_the_table_there_is_no_chat() -> None:
    """A configuration without [chat] has no fault."""
    config = read(GOOD)
    assert (config.chat, config.chat_fault, config.problems) == (None, False, ())


def test_an_empty_table_has_defaults() -> None:
    """Every setting has a default except the account that claude runs as."""
    assert chat("").chat == ChatSettings("var/sessions", "claude", "", False, 2, 1800, {})


def test_every_chat_setting_is_read() -> None:
    """Every setting is read; the table's variables override those of the files."""
    text = 'command = "/opt/claude"\nuser = "claude"\nmax_turns_at_once = 5\nturn_seconds = 60\n'
    text += 'env_file = "vars"\nenv = { B = "inline" }\n'
    settings = chat(text, {"vars": "# a comment\n\nA=one=two\nB=file\n"}).chat
    assert settings == ChatSettings(
        "var/sessions", "/opt/claude", "claude", False, 5, 60, {"A": "one=two", "B": "inline"}
    )


def test_chat_settings_show_no_secret() -> None:
    """A settings object in a log or a traceback has no credential in it."""
    assert "hush" not in repr(chat('env = { KEY = "hush" }'))


FAULTS = {
    "an unknown key": ("program = 'x'", "chat.program"),
    "no command": ('command = ""', "chat.command"),
    "a number for a command": ("command = 7", "chat.command"),
    "a user that is none": ('user = "a b"', "chat.user"),
    "an empty user": ('user = ""', "chat.user"),
    "both worlds": ('user = "claude"\nshared_uid = true', "chat.user"),
    "a text for a switch": ('shared_uid = "true"', "chat.shared_uid"),
    "no turn at all": ("max_turns_at_once = 0", "chat.max_turns_at_once"),
    "a switch for a number": ("turn_seconds = true", "chat.turn_seconds"),
    "an endless turn": ("turn_seconds = 99999999", "chat.turn_seconds"),
    "a variable that is a number": ("env = { A = 1 }", "chat.env.A"),
    "a variable with a strange name": ('env = { "A=B" = "x" }', "chat.env.A=B"),
    "a list of variables": ('env = ["A=1"]', "chat.env"),
    "an empty file": ('env_file = "empty"', "chat.env_file"),
    "a file with something else in it": ('env_file = "odd"', "chat.env_file"),
}


def test_a_guest_needs_a_user_of_claudes_own() -> None:
    """With shared_uid, a guest switches off chat and nothing else; with a user of its own it does not."""
    guest = GOOD.replace("vmid = 102\n", 'vmid = 102\nguest = "claude@192.0.2.20:22"\nguest_host_key = "any"\n', 1)
    assert "guest" in guest
    config = read(f"{guest}\n[chat]\nshared_uid = true\n")
    assert [problem.path for problem in config.problems] == ["chat.shared_uid"]
    assert (config.chat, config.vms["devvm"].guest is not None) == (None, True)
    assert read(f'{guest}\n[chat]\nuser = "claude"\n').problems == ()


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_chat_switches_off_only_chat(name: str) -> None:
    """The fault is reported with its key's path, chat is off, and callers and VMs stay on."""
    text, path = FAULTS[name]
    config = chat(text, {"odd": "hush hush", "empty": ""})
    assert [problem.path for problem in config.problems] == [path]
    assert (config.chat, config.chat_fault) == (None, True)
    assert (len(config.callers), len(config.vms)) == (1, 1)
    assert "hush" not in str(config.problems)
