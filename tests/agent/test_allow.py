"""`breakglass-pve allow`: adds a VM to each Breakglass line of the file, and changes no other byte.

The account has uid 0, so a wrong line would be a root login.
"""

import os
import resource
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breakglass.agents.pve.by_hand.allow import add_key, add_vm
from breakglass.agents.pve.by_hand.revoke import remove_key
from breakglass.agents.pve.check.findings import ERROR, OK
from breakglass.agents.pve.check.key_lines import parse_key_lines, served_vms

from ..support.agent import agent_program
from ..support.rows import each_row

pytestmark = pytest.mark.slow  # each starts the agent

POWER, READ_ONLY = "ssh-ed25519 AAAApower", "ssh-ed25519 AAAAread"
SERVE = "/usr/local/sbin/breakglass-pve serve --vms"
LINE = f'restrict,command="{SERVE} 102" {POWER} breakglass power\n'
BOTH = f"""\
# the keys of breakglass --vms 102
{LINE}restrict,command="{SERVE} 102 --read-only --as claude" {READ_ONLY} breakglass read
"""
OTHERS = [
    f"{POWER}2 --vms 102\n",
    f"restrict,command=\"/bin/sh -c 'breakglass-pve serve --vms 102'\" {POWER}2\n",
    f'restrict,command="{SERVE} 102; /bin/sh" {POWER}2\n',
    f'restrict,command="{SERVE} 102 --root /tmp" {POWER}2\n',
    f'restrict,command="{SERVE} all" {POWER}2\n',
    f'restrict,command="{SERVE} 102-103" {POWER}2\n',
    f'restrict,command="{SERVE} 102",command="/bin/sh" {POWER}2\n',
    f'command="/bin/sh",command="{SERVE} 102" {POWER}2\n',
    f'from="\\\\",command="{SERVE} 102",from="" {POWER}2\n',
    f'environment="A=\\",command=\\"{SERVE} 102\\"" {POWER}2\n',
    f'#restrict,command="{SERVE} 102" {POWER}2\n',
    f'ssh-rsa AAAA\frestrict,command="{SERVE} 102" {POWER}2\n',
    f'ssh-rsa AAAA\0restrict,command="{SERVE} 102" {POWER}2\n',
    " \t\r\n",
]


@each_row("number", range(len(OTHERS)))
def test_other_lines_stay_as_they_are(number: int) -> None:
    """A foreign line keeps every byte, whatever it looks like. Alone, it is an error, unless it serves the VM."""
    more, _ = add_vm(LINE + OTHERS[number] + LINE, 103)
    ours = LINE.replace("102", "102-103")
    assert more == ours + OTHERS[number] + ours
    alone, findings = add_vm(OTHERS[number], 103)
    served = [str(found) for line in parse_key_lines(alone) if (found := served_vms(line))]
    assert (alone, [finding.level for finding in findings]) == (OTHERS[number], [OK if served else ERROR])


@each_row(
    ("before", "after"),
    [
        ("102", "102,104"),
        ("103", "103-104"),
        ("110-119,102", "102,104,110-119"),
        ("102,105-119 --as me --read-only", "102,104-119 --as me --read-only"),
    ],
)
@each_row(
    "line",
    [
        f'restrict,command="{SERVE} @" {POWER}\n',
        f'  Restrict,COMMAND="{SERVE} @",no-pty\t{POWER} \t a "quoted" --vms 102 comment\n',
        f'environment="A= --vms 102",restrict,command="{SERVE} @" {POWER}\n',
        f'environment="A=\\" --vms 102,command=\\"{SERVE} 7\\"",restrict,command="{SERVE} @" {POWER}\n',
        f'environment="A=\\\\n",restrict,command="{SERVE} @",from="10.0.0.0/8,::1" {POWER}\r\n',
        f'restrict,command="/opt/a--vms/breakglass-pve serve --vms @" {POWER}',
    ],
)
def test_only_the_list_of_the_command_changes(line: str, before: str, after: str) -> None:
    """The list is found by reading the options as sshd does, even if another value looks like the list."""
    more, findings = add_vm(line.replace("@", before), 104)
    assert more == line.replace("@", after)
    assert [(finding.level, f"VM {after.split()[0]} " in finding.sentence) for finding in findings] == [(OK, True)]


@given(st.lists(st.sampled_from([*OTHERS, LINE, BOTH, *'",\\= \t\r\n\0', "restrict", "command=", POWER]), max_size=9))
def test_no_other_command_comes_of_it(parts: list[str]) -> None:
    """In any file, each line keeps its options and its key, except for the number in a Breakglass line."""
    text = "".join(parts)
    more, _ = add_vm(text, 103)
    before, after = parse_key_lines(text), parse_key_lines(more)
    assert [(line.number, line.key, line.names, line.is_refused) for line in after] == [
        (line.number, line.key, line.names, line.is_refused) for line in before
    ]
    for old, new in zip(before, after, strict=True):
        served = served_vms(old)
        assert served_vms(new) == (served.with_vm(103) if served else None)
        if served is None or 103 in served:
            assert new == old
    assert add_vm(more, 103)[0] == more


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA"
OWN = "/usr/sbin/breakglass-pve"
NEW = f'restrict,command="{OWN} serve --vms 103" {KEY} breakglass power\n'


SHELL = f'{LINE}command="/bin/sh" {KEY}\n'


@each_row(
    ("is_added", "before", "after", "level"),
    [
        (True, "", NEW, OK),
        (True, LINE, LINE + NEW, OK),
        (True, LINE + NEW, LINE + NEW, OK),
        (True, LINE + NEW.replace("103", "102"), LINE + NEW.replace("103", "102-103"), OK),
        (True, SHELL, SHELL, ERROR),
        (False, LINE + NEW, LINE, OK),
        (False, OTHERS[1] + NEW + LINE + NEW, OTHERS[1] + LINE, OK),
        (False, f"# {NEW}{NEW}", f"# {NEW}", OK),
        (False, SHELL, SHELL, ERROR),
    ],
)
def test_a_key_is_added_or_removed(is_added: bool, before: str, after: str, level: str) -> None:
    """A new key gets its own line, and a known one the VM. Without the key, every line of it goes, and no other one.

    A key for something else stays as it is.
    """
    text, findings = add_key(before, 103, KEY, OWN) if is_added else remove_key(before, KEY)
    assert (text, {finding.level for finding in findings}) == (after, {level})
    served = [served_vms(line) for line in parse_key_lines(text) if line.key == KEY]
    assert (True in [103 in (vms or ()) for vms in served]) == (is_added and level == OK)


# --- the command ---


class KeyFile:
    """A host in a directory that has a key file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "etc/ssh/authorized_keys.d/breakglass"
        self.path.parent.mkdir(parents=True)
        self.agent = root / "breakglass-pve"
        self.agent.write_text(agent_program(FILE_SECONDS=30.0))
        self.agent.chmod(0o755)

    def allow(self, *words: str, most_bytes: int = -1) -> tuple[int, list[str]]:
        return self.run("allow", *words, most_bytes=most_bytes)

    def run(self, *words: str, most_bytes: int = -1) -> tuple[int, list[str]]:
        """Return the exit code, and the lines that are printed without the root before each path."""

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

        verb, *options = words
        command = [str(self.agent), verb, "--root", str(self.root), *options]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120, preexec_fn=limit)
        assert ran.stderr == "" or ran.returncode == 2
        return ran.returncode, ran.stdout.replace(str(self.root), "").splitlines()

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in self.path.parent.iterdir())


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path)


def test_no_kernel_log_is_read(keys: KeyFile) -> None:
    """Each Breakglass line gets the switch once, alone or with a VM; no other byte changes."""
    keys.path.write_text(OTHERS[0] + BOTH)
    for words, options in ((), "102 --no-last-words"), (("103",), "102-103 --no-last-words"):
        code, lines = keys.allow(*words, "--no-last-words")
        assert (code, {line[:4] for line in lines}) == (0, {"ok: "})
        assert keys.path.read_text() == OTHERS[0] + BOTH.replace(f"{SERVE} 102", f"{SERVE} {options}")
    code, [line] = keys.allow()
    assert (code, line.endswith("breakglass-pve allow 103")) == (1, True)


def test_a_key_with_the_handlers_address(keys: KeyFile) -> None:
    """The key's line and the drop-in change, and the two words for breakglass.toml are printed."""
    keys.path.touch()
    drop_in = keys.root / "etc/ssh/sshd_config.d/00-breakglass.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("# PerSourcePenaltyExemptList ADDRESS\n")
    code, lines = keys.allow("103", "--key", f"{KEY} a comment", "--from", "192.0.2.50")
    assert (code, [line[:4] for line in lines], "node = " in lines[2]) == (0, ["ok: "] * 3, True)
    assert keys.path.read_text() == NEW.replace(OWN, "/breakglass-pve")
    assert "192.0.2.50" in drop_in.read_text()


def test_a_revoked_key_leaves_the_others(keys: KeyFile) -> None:
    """The file keeps the other lines, and the command says that open connections still work."""
    keys.path.write_text(LINE + NEW)
    code, lines = keys.run("revoke", "--key", f"{KEY} a comment")
    assert (code, [line.partition(":")[0] for line in lines]) == (0, ["ok", "warning"])
    assert "/ pgrep -af 'sshd.*: breakglass'" in lines[1]
    assert keys.path.read_text() == LINE
    assert keys.run("revoke", "--key", KEY)[0] == keys.run("revoke", "--key", "no key")[0] == 1
    assert keys.path.read_text() == LINE


# Each is refused before anything is changed, because the line goes into a file that opens root's account.
REFUSED: list[tuple[Any, ...]] = [
    (1, "103", "--key", f'command="/bin/sh" {KEY}'),
    (1, "103", "--from", "192.0.2.50"),
    (1, "103", "--key", KEY, "--from", "192.0.2.50; reboot"),
    (1, "103", "--user", "../root"),
    (1, "104"),
    (2, "all"),
    (2, "103\n"),
]


def test_what_is_refused_changes_nothing(keys: KeyFile) -> None:
    """A line that is no key, an address or an account that is none, a container, and whatever is not one VM."""
    keys.path.write_text(LINE)
    (keys.root / "etc/pve").mkdir()
    (keys.root / "etc/pve/.vmlist").write_text('{"ids": {"104": {"node": "pve1", "type": "lxc"}}}')
    (keys.path.parent.parent / "root").write_text(LINE)
    for code, *words in REFUSED:
        got, lines = keys.allow(*words)
        assert (got, ["nothing was changed" in line for line in lines]) == (code, [True] * (code == 1)), words
    assert (keys.path.read_text(), (keys.path.parent.parent / "root").read_text()) == (LINE, LINE)


@pytest.mark.real("root")
def test_a_file_that_cannot_be_changed(keys: KeyFile) -> None:
    """The error says why. No file is made, no link is followed, and a full disk leaves no incomplete file."""
    code, [line] = keys.allow("103")
    assert (code, keys.names) == (1, [])
    assert line.startswith("error: /etc/ssh/authorized_keys.d/breakglass can't be read: ")
    before = BOTH * 100
    (keys.root / "own").write_text(before)
    keys.path.symlink_to(keys.root / "own")  # it may lead to root's own keys
    code, [line] = keys.allow("103")
    assert (code, "is a link" in line, keys.path.is_symlink()) == (1, True, True)
    keys.path.unlink()
    (keys.root / "own").rename(keys.path)
    os.chown(keys.path, 65534, 4)
    keys.path.chmod(0o664)
    code, [line] = keys.allow("103", most_bytes=5000)
    assert (code, "can't be written" in line) == (1, True)
    assert (keys.path.read_text(), keys.names) == (before, ["breakglass"])
    assert keys.allow("103")[0] == 0
    status = keys.path.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o664, 65534, 4)
    assert ("102-103" in keys.path.read_text(), keys.names) == (True, ["breakglass"])
