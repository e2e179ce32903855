"""One caller in a configuration's text is added, changed or removed, in each form that TOML has for it."""

import tomllib
from datetime import UTC, datetime
from typing import Any

import pytest

from breakglass.config.toml_edit import Uneditable, insert_caller, remove_caller, set_lists

TABLES = """\
# the first line
[server]
url = "https://rescue.example.org/"  # of the page

# --- callers ---
[callers.anna]
secret = "s"  # of 2026
allow = ["status"]
# vms = ["mail"]

# Bob's laptop
[callers.bob]
secret = "b"

# the VMs
[vms.devvm]
vmid = 102
"""
VM = "[vms.devvm]\nvmid = 102\n"
ANNA, BOB = '[callers.anna]\nsecret = "s"\n', '[callers.bob]\nsecret = "b"\n'
FORMS = {
    "tables": TABLES,
    "quoted": TABLES.replace("callers.anna", 'callers."anna"'),
    "blanks in the header": TABLES.replace("[callers.anna]", "  [ callers . 'anna' ]  # hers"),
    "out of order": f"{ANNA}{VM}# bob\n{BOB}[hosts.a]\n",
    "below callers": f"[callers]\n# all of them\n{ANNA}{BOB}{VM}",
    "in lines": f'[callers]\nanna = {{ secret = "s" }}  # hers\n# his\nbob = {{ secret = "b" }}\n\n{VM}',
    "in one line": f'callers = {{ anna = {{ secret = "s" }}, bob = {{ secret = "b" }} }}\n# VMs\n{VM}',
    "dotted": f'callers.anna.secret = "s"\n# b\ncallers.bob.secret = "b"\ncallers.anna.allow = []\n{VM}',
    "dotted below callers": f'[callers]\nanna.secret = "s"\nbob.secret = "b"\nanna.allow = []\n\n{VM}',
    "a list of tables after it": f'{BOB}{ANNA}\n[[alerts]]\nvm = "a"\n[[alerts]]\n',
    "what looks like a header": (
        f'{ANNA}note = """\n[callers.carl]\n# no comment\n"""\n{BOB}allow = [\n[ "callers" ],\n# one\n]\n'
    ),
    "its own tables": f"{BOB}{ANNA}[callers.anna.vms]\nx = 1\n# VMs\n{VM}",
    "the last line has no end": f"{BOB}{ANNA}".rstrip(),
}
FORMS |= {f"{name}, DOS": text.replace("\n", "\r\n") for name, text in FORMS.items()}
ENTRY = {"secret": "n", "allow": ["status", "reset"], "not_after": datetime(2027, 6, 1, tzinfo=UTC)}


def comments(text: str) -> list[str]:
    """Return the comments that have a line of their own."""
    return [line.strip() for line in text.splitlines() if line.strip().startswith("#")]


def data(text: str) -> dict[str, Any]:
    return tomllib.loads(text)


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_a_caller_is_added(text: str) -> None:
    """Every line that was there is there, in its order. The rest is the new caller, whatever its name."""
    for name in ("carl", "carl@phone.example"):
        changed = insert_caller(text, name, ENTRY)
        expected = data(text)
        expected["callers"][name] = ENTRY
        assert data(changed) == expected
        if "callers = {" not in text:
            lines = iter(changed.splitlines())
            assert all(line in lines for line in text.splitlines())
        assert ("\r\n" in changed, "\n" in changed.replace("\r\n", "")) == ("\r\n" in text, "\r\n" not in text)


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("name", ["anna", "bob"])
def test_a_caller_is_removed(text: str, name: str) -> None:
    """The others, and all comments that are not in its own table, stay."""
    changed = remove_caller(text, name)
    expected = data(text)
    del expected["callers"][name]
    assert data(changed) == expected
    own = {'# vms = ["mail"]', "# no comment"} if name == "anna" else {"# one"}
    assert [line for line in comments(text) if line not in own] == [c for c in comments(changed) if c not in own]
    assert ("\r\n" in changed) == ("\r\n" in text)


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_a_caller_gets_another_secret(text: str) -> None:
    """One text becomes a list, and stays one; each line but its own is as it was."""
    changed = set_lists(text, "anna", {"secret": ["s", "t"]})
    expected = data(text)
    expected["callers"]["anna"]["secret"] = ["s", "t"]
    assert data(changed) == expected
    assert len(set(changed.splitlines()) - set(text.splitlines())) == 1
    assert data(set_lists(changed, "anna", {"secret": ["t"]}))["callers"]["anna"]["secret"] == ["t"]


def test_the_new_table_stands_after_the_last_caller() -> None:
    """What stands above the next table still does."""
    changed = insert_caller(TABLES, "carl", {"secret": "n"})
    assert changed == TABLES.replace('secret = "b"\n', 'secret = "b"\n\n[callers.carl]\nsecret = "n"\n')
    assert remove_caller(changed, "carl") == TABLES


def test_a_comment_does_not_move_to_another_table() -> None:
    """A comment above a removed table stays, with a gap to the next one: it must not seem to be about that."""
    changed = remove_caller(TABLES, "anna")
    assert "# --- callers ---\n\n# Bob's laptop\n[callers.bob]\n" in changed
    close = '# anna\n[callers.anna]\nsecret = "s"\n[callers.bob]\nsecret = "b"\n'
    assert remove_caller(close, "anna") == '# anna\n\n[callers.bob]\nsecret = "b"\n'


def test_a_list_keeps_its_lines_and_comments() -> None:
    text = '[callers.anna]\nsecret = [\n    "s",  # of 2025\n    "t",  # of 2026\n]\nallow = []\n'
    changed = set_lists(text, "anna", {"secret": ["t", "u"]})
    assert "# of 2026" in changed
    assert data(changed)["callers"]["anna"]["secret"] == ["t", "u"]
    assert changed.count("\n") == text.count("\n")


def test_a_key_is_removed() -> None:
    """An empty list takes the key out."""
    text = '[callers.anna]\nsecret = "s"\nsecret_file = ["a", "b"]\n'
    assert set_lists(text, "anna", {"secret": [], "secret_file": ["b"]}) == '[callers.anna]\nsecret_file = ["b"]\n'


def test_the_first_caller_is_added() -> None:
    assert insert_caller("", "anna", {"secret": "s"}) == '[callers.anna]\nsecret = "s"\n'
    assert data(insert_caller("[vms.a]\nvmid = 1", "anna", {"secret": "s"}))["callers"] == {"anna": {"secret": "s"}}


def test_what_can_not_be_edited_is_refused() -> None:
    """A result whose data would differ in anything else is no result."""
    with pytest.raises(Uneditable):
        insert_caller('callers = "none"\n', "anna", {"secret": "s"})


def test_a_long_file_is_read_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once for each table: a file with 1,500 VMs took a minute, while no other command could change it."""
    parsed: list[int] = []
    loads = tomllib.loads

    def count(text: str) -> dict[str, Any]:
        parsed.append(len(text))
        return loads(text)

    monkeypatch.setattr(tomllib, "loads", count)
    text = "".join(f"[vms.v{number}]\nvmid = {number}\n\n" for number in range(200)) + '[callers.a]\nsecret = "s"\n'
    assert remove_caller(insert_caller(text, "anna", {"secret": "s"}), "anna") == text
    assert sum(parsed) < 20 * len(text)
