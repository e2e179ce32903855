"""A caller's file is written, replaced and removed as a whole or not at all, whatever happens meanwhile."""

import os
import signal
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from breakglass.config import own_files
from breakglass.config.own_files import EditError, add_entry, add_secret, drop_old_secrets, remove_entry, take_back

from ..support.service import SSH_KEY, config_text, new_secret

pytestmark = pytest.mark.slow  # a command and its files in each test

READ = ["status"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration without problems. It has the caller `anna`, and `bob` in a file of callers.d."""
    directory = tmp_path / "etc"
    directory.mkdir(mode=0o755)
    file = directory / "breakglass.toml"
    file.touch(0o600)
    file.write_text("# ours\n" + config_text({"anna": entry()}, port=22, key=SSH_KEY, host_key="any"))
    add_entry(file, "callers", "bob", entry())
    return file


def own(file: Path, name: str) -> Path:
    return file.parent / f"callers.d/{name}.toml"


def table(file: Path, name: str) -> dict[str, Any]:
    return tomllib.loads(own(file, name).read_text())


def entry(**more: object) -> dict[str, object]:
    return {"secret": new_secret(), "allow": READ, **more}


def state(file: Path) -> dict[str, tuple[bytes, int]]:
    """Return the content and the inode of every file."""
    return {str(each): (each.read_bytes(), each.stat().st_ino) for each in file.parent.rglob("*") if each.is_file()}


def refused(file: Path, edit: Callable[[], object], *words: str) -> None:
    """An edit is refused with these words and an instruction, and every file is as it was."""
    before = state(file)
    with pytest.raises(EditError) as caught:
        edit()
    assert [word for word in words if word not in f"{caught.value.message}\n{caught.value.hint}"] == []
    assert caught.value.hint
    assert state(file) == before


# --- callers ---


@pytest.mark.real("root")
def test_the_directory_and_the_files_have_the_configurations_owner_and_mode(file: Path) -> None:
    """So the handler can read them if it can read that. A file that is replaced keeps its own."""
    remove_entry(file, "callers", "bob")
    own(file, "bob").parent.rmdir()
    file.chmod(0o640)
    os.chown(file, 0, 2)
    add_entry(file, "callers", "bob", entry())
    places = (own(file, "bob"), own(file, "bob").parent)
    found = [(place.stat().st_uid, place.stat().st_gid, stat.S_IMODE(place.stat().st_mode)) for place in places]
    assert found == [(0, 2, 0o640), (0, 2, 0o750)]
    os.chown(own(file, "bob"), 0, 3)
    add_secret(file, "bob", new_secret())
    assert own(file, "bob").stat().st_gid == 3


def test_what_is_refused_changes_nothing(file: Path) -> None:
    """A name that exists or does not, and a result with a new problem, which is the one of `breakglass check`.

    A fault that was there before is no obstacle.
    """
    shared = table(file, "bob")["secret"]
    refused(file, lambda: add_entry(file, "callers", "bob", entry()), "there is a caller bob", "keys rotate bob")
    refused(file, lambda: remove_entry(file, "callers", "carl"), "no caller carl", "use anna or bob")
    refused(file, lambda: add_secret(file, "carl", new_secret()), "no caller carl")
    refused(file, lambda: add_entry(file, "callers", "carl", entry(vms=["mail"])), "callers.d/carl.toml: vms", '"mail"')
    refused(file, lambda: add_entry(file, "callers", "carl", entry(secret=shared)), "is also the secret of bob")
    own(file, "bad").touch(0o600)
    add_entry(file, "callers", "carl", entry())
    file.write_text(file.read_text().replace("[callers.anna]", "[callers.anna]\nnot_a_setting = 1"))
    remove_entry(file, "callers", "bob")
    refused(file, lambda: remove_entry(file, "callers", "carl"), "no caller can sign requests")
    remove_entry(file, "callers", "bad")  # also one that is not TOML, or that others can read


# --- secrets ---


def test_a_secret_is_added_and_the_old_one_dropped(file: Path) -> None:
    """The newest is the last one. What else is in the entry stays. The file is another one: no reader sees a half."""
    odd = "not_after = 2127-06-01T00:00:00+02:00\nvms = []\nx = { y = [1, true, 2127-06-01], 'z z' = 1.5 }\n"
    own(file, "bob").write_text(f"# mine\n{own(file, 'bob').read_text()}{odd}")
    new = new_secret()
    before, inode = table(file, "bob"), own(file, "bob").stat().st_ino
    add_secret(file, "bob", new)
    assert table(file, "bob") == {**before, "secret": [before["secret"], new]}
    assert own(file, "bob").stat().st_ino != inode
    assert drop_old_secrets(file, "bob") == (True, ())
    assert table(file, "bob") == {**before, "secret": new}
    assert drop_old_secrets(file, "bob") == (False, ())


def test_a_secret_file_stays_and_the_new_secret_is_in_the_entry(file: Path) -> None:
    """So a credential of systemd can be rotated too, without a restart. Files that are no longer named are reported."""
    names = [f"$CREDENTIALS_DIRECTORY/bob{number}" for number in (1, 2)]
    own(file, "bob").write_text(f"secret_file = {names}\nallow = ['status']\n")
    new = new_secret()
    add_secret(file, "bob", new)
    assert table(file, "bob") == {"secret_file": names, "allow": READ, "secret": new}
    take_back(file, "bob", new)
    assert table(file, "bob") == {"secret_file": names, "allow": READ}
    assert drop_old_secrets(file, "bob") == (True, (names[0],))
    assert table(file, "bob") == {"secret_file": names[1], "allow": READ}
    add_secret(file, "bob", new)
    assert drop_old_secrets(file, "bob") == (True, (names[1],))
    assert table(file, "bob") == {"secret": new, "allow": READ}


# --- two at once, and an end in the middle ---


def test_a_change_by_an_editor_is_not_lost(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a person wrote after the command had read the files stays."""
    check, text = own_files._Edit._check, f"# mine\n{own(file, 'bob').read_text()}"

    def check_then(*arguments: Any) -> None:
        check(*arguments)
        own(file, "bob").write_text(text)

    monkeypatch.setattr(own_files._Edit, "_check", check_then)
    with pytest.raises(EditError, match="were changed at the same time"):
        add_secret(file, "bob", new_secret())
    assert own(file, "bob").read_text() == text


SCRIPT = """
import os, signal, sys
from pathlib import Path
from breakglass.config.own_files import EditError, add_entry, add_secret, remove_entry
file, name, secret = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
"""


@pytest.mark.all
def test_edits_at_once_all_survive(file: Path) -> None:
    """Three processes add a caller each, and three give bob a secret. They wait for one another."""
    code = f"{SCRIPT}\n"
    code += "sys.stdin.read(1)\n"
    code += 'add_secret(file, name, secret) if name == "bob" '
    code += 'else add_entry(file, "callers", name, {"secret": secret, "allow": ["status"]})'
    names = ["c0", "c1", "c2"]
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(file), name, new_secret()], stdin=subprocess.PIPE)
        for name in (*names, "bob", "bob", "bob")
    ]
    for process in running:
        assert process.stdin
        process.stdin.close()  # all of them go
    assert [process.wait(100) for process in running] == [0] * 6
    assert sorted(os.listdir(own(file, "bob").parent)) == ["bob.toml", *(f"{name}.toml" for name in names)]
    assert len(table(file, "bob")["secret"]) == 4


KILL_EACH = """
import shutil, tempfile
with tempfile.TemporaryDirectory() as other:  # loads all that an edit needs, so that the numbers are the edit's own
    add_entry(Path(shutil.copy(file, other)), "callers", "carl", {"secret": secret, "allow": ["status"]})
# A child makes the same edit each time, and kills itself at the event that has the number; Python reports each call.
number = 1
while True:
    child = os.fork()
    if child == 0:
        left = [number]
        def hook(event, arguments):
            if event.startswith(("os.", "fcntl.")) or (event == "open" and "callers.d" in str(arguments)):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), SIGNAL)
        sys.addaudithook(hook)
        EDIT(file)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    number += 1
    place = file.parent / "callers.d"
    names = sorted(os.listdir(place)) if place.is_dir() else []
    read = {each: (place / each).read_bytes() for each in names if not each.startswith(".")}
    print(os.waitstatus_to_exitcode(status), read == BEFORE, len(names) - len(read), *read, flush=True)
    whole = {each for text in read.values() for each in [text] if text.endswith(b"]\\n") or text.endswith(b'"\\n')}
    assert len(whole) == len(read), read
    if os.waitstatus_to_exitcode(status) == 0 or number > 500:
        break
    for each in names:
        (place / each).unlink()
    for each, text in BEFORE.items():
        (place / each).touch(0o600)
        (place / each).write_bytes(text)
"""
EDITS = {
    "add": 'lambda config: add_entry(config, "callers", "carl", {"secret": secret, "allow": ["status"]})',
    "replace": 'lambda config: add_secret(config, "bob", secret)',
    "remove": 'lambda config: remove_entry(config, "callers", "bob")',
}


@pytest.mark.all
@pytest.mark.parametrize(("name", "edit"), [("SIGKILL", "add"), ("SIGKILL", "remove"), ("SIGINT", "replace")])
def test_an_end_in_the_middle_leaves_the_old_file_or_the_new_one(file: Path, name: str, edit: str) -> None:
    """It may end at each system call. What else is left has a name that is not read, and the next edit removes it."""
    before = {each: (own(file, "bob").parent / each).read_bytes() for each in os.listdir(own(file, "bob").parent)}
    code = KILL_EACH.replace("SIGNAL", str(int(signal.Signals[name]))).replace("BEFORE", repr(before))
    code = SCRIPT + code.replace("EDIT(", f"({EDITS[edit]})(")
    command = [sys.executable, "-c", code, str(file), "carl", new_secret()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr
    lines = [line.split() for line in ran.stdout.splitlines()]
    wanted = {"add": ["bob.toml", "carl.toml"], "replace": ["bob.toml"], "remove": []}[edit]
    assert len(lines) > 8
    assert lines[-1] == ["0", "False", "0", *wanted]
    for _, is_as_before, hidden, *names in lines:
        assert names == (["bob.toml"] if is_as_before == "True" else wanted)
        assert hidden in ("0", "1")
    if (name, edit) == ("SIGKILL", "add"):
        assert any(line[2] == "1" for line in lines)
        (own(file, "bob").parent / ".new").touch()
    add_entry(file, "callers", "dora", entry())
    assert sorted(os.listdir(own(file, "bob").parent)) == sorted([*wanted, "dora.toml"])


# --- file systems that refuse ---


REFUSED = """
try:
    add_entry(file, "callers", name, {"secret": secret, "allow": ["status"]})
except EditError as error:
    sys.exit(f"{error.message} / {error.hint} / {sorted(os.listdir(file.parent / 'callers.d'))}")
"""


@pytest.mark.real("mounts")
def test_a_full_file_system_is_named(file: Path) -> None:
    """Nothing is changed, nothing is left, and the message says what to do."""
    before = state(file)
    shell = "set -e; D=$1; mount --make-rprivate /; cp $D/bob.toml /tmp/$$;"
    shell += "mount -t tmpfs -o size=64k,mode=755 none $D; cp /tmp/$$ $D/bob.toml; rm /tmp/$$; chmod 600 $D/bob.toml;"
    shell += 'dd if=/dev/zero of=$D/.fill bs=4k 2>/dev/null || true; shift; exec "$@"'
    edit = [sys.executable, "-c", SCRIPT + REFUSED, str(file), "carl", new_secret()]
    command = ["unshare", "--mount", "sh", "-c", shell, "sh", str(own(file, "bob").parent), *edit]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert ran.returncode == 1, ran.stderr
    assert "No space left" in ran.stderr
    assert ".new" not in ran.stderr
    assert state(file) == before
