"""The configuration file is changed as a whole or not at all, whatever happens meanwhile, and keeps what it is."""

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from breakglass.config.edit import (
    add_caller,
    add_secret,
    drop_old_secrets,
    drop_secret,
    remove_caller,
    take_back,
)
from breakglass.config.problems import ConfigError
from breakglass.config.replacing import EditError, editing

from ..support.selection import sampled
from ..support.service import SSH_KEY, config_text, new_secret

pytestmark = pytest.mark.slow  # a command and its files in each test

READ = ["status"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A good configuration with the callers `anna` and `bob`, in a directory of its own."""
    directory = tmp_path / "etc"
    directory.mkdir(mode=0o755)
    callers = {name: {"secret": new_secret(), "allow": READ} for name in ("anna", "bob")}
    file = directory / "breakglass.toml"
    file.touch(0o600)
    file.write_text("# ours\n" + config_text(callers, port=22, key=SSH_KEY, host_key="any"))
    return file


def callers(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8-sig"))["callers"]
    return found


def entry(**more: object) -> dict[str, object]:
    return {"secret": new_secret(), "allow": READ, **more}


def refused(file: Path, edit: Callable[[], object], *words: str) -> None:
    """An edit is refused with these words and an instruction, the file is as it was, and there is no other file."""
    before, there = (file.read_bytes(), file.stat()), sorted(os.listdir(file.parent))
    with pytest.raises(EditError) as caught:
        edit()
    assert [word for word in words if word not in f"{caught.value.message}\n{caught.value.hint}"] == []
    assert caught.value.hint
    assert (file.read_bytes(), file.stat().st_ino) == (before[0], before[1].st_ino)
    assert sorted(os.listdir(file.parent)) == there


# --- callers ---


def test_callers_come_and_go(file: Path) -> None:
    """The file is again what it was. It is another file, with the same mode, and there is none beside it."""
    before, inode = file.read_text(), file.stat().st_ino
    add_caller(file, "carl@phone", entry(vms=["devvm"]))
    assert callers(file)["carl@phone"]["vms"] == ["devvm"]
    assert (file.stat().st_ino != inode, stat.S_IMODE(file.stat().st_mode)) == (True, 0o600)
    remove_caller(file, "carl@phone")
    assert file.read_text() == before
    assert os.listdir(file.parent) == [file.name]


def test_names_that_exist_and_do_not(file: Path) -> None:
    refused(file, lambda: add_caller(file, "anna", entry()), "has a caller anna", "keys rotate anna")
    refused(file, lambda: remove_caller(file, "carl"), "no caller carl", "anna, bob")
    refused(file, lambda: add_secret(file, "carl", new_secret()), "no caller carl")


def test_a_result_with_a_new_problem_is_refused(file: Path) -> None:
    """What `breakglass check` would say of the result is said; a fault that was there before is no obstacle."""
    refused(file, lambda: add_caller(file, "carl", entry(vms=["mail"])), "callers.carl.vms", '"mail"')
    shared = callers(file)["anna"]["secret"]
    refused(file, lambda: add_caller(file, "carl", entry(secret=shared)), "is also the secret of anna")
    remove_caller(file, "bob")
    refused(file, lambda: remove_caller(file, "anna"), "callers is empty")
    add_caller(file, "sender", {"token": "bgt_" + "t" * 43, "allow": READ})
    refused(file, lambda: remove_caller(file, "anna"), "no caller can sign requests")
    file.write_text(file.read_text().replace("[vms.devvm]", '[vms.mail]\nvmid = "x"\n\n[vms.devvm]'))
    add_caller(file, "carl", entry())


def test_a_file_that_is_no_configuration_is_refused(file: Path) -> None:
    """The line and the column are named. A file that others can read gets no secret."""
    file.chmod(0o644)
    refused(file, lambda: add_caller(file, "carl", entry()), "every user of this machine can reach it", "chmod 600")
    file.chmod(0o600)
    file.write_text("[callers.anna]\nallow = [\n")
    with pytest.raises(ConfigError, match=r"is not TOML: .*\("):
        add_caller(file, "carl", entry())
    file.write_text("callers = 7\n")
    refused(file, lambda: add_caller(file, "carl", entry()), "not a table")
    file.unlink()
    with pytest.raises(ConfigError, match="there is no such file"):
        add_caller(file, "carl", entry())
    os.mkfifo(file, 0o600)  # nothing writes to it
    with pytest.raises(EditError, match="not a file that can be replaced"):
        add_caller(file, "carl", entry())


# --- secrets ---


def test_a_secret_is_added_and_the_old_one_dropped(file: Path) -> None:
    """The newest is the last one. The last one that is left can't be taken."""
    [old, new] = [callers(file)["anna"]["secret"], new_secret()]
    assert add_secret(file, "anna", new) == ((), ())
    assert callers(file)["anna"]["secret"] == [old, new]
    drop_secret(file, "anna", new)
    assert callers(file)["anna"]["secret"] == [old]
    add_secret(file, "anna", new)
    drop_old_secrets(file, "anna")
    assert callers(file)["anna"]["secret"] == [new]
    refused(file, lambda: drop_secret(file, "anna", new), "no secret left", "keys revoke anna")


def test_what_someone_else_changed_meanwhile_stays(file: Path) -> None:
    """A command that takes a key back ends the caller with its last key only, and finds nothing to do without it."""
    before, first, second = file.read_text(), new_secret(), new_secret()
    add_caller(file, "carl", entry(secret=first))
    add_secret(file, "carl", second)
    take_back(file, "carl", first)
    assert callers(file)["carl"]["secret"] == [second]
    take_back(file, "carl", first)
    assert callers(file)["carl"]["secret"] == [second]
    take_back(file, "carl", second)
    assert file.read_text() == before
    take_back(file, "carl", second)
    assert file.read_text() == before


def test_secrets_in_files_stay_in_files(file: Path) -> None:
    """A new one gets a file beside the last one, with its mode; none is removed, and none is left by a refusal."""
    first, secret = file.parent / "anna.signing-key", new_secret()
    first.touch(0o600)
    first.write_text(f"{secret}\n")
    was = callers(file)["anna"]["secret"]
    file.write_text(file.read_text().replace(f'secret = "{was}"', f"secret_file = {json.dumps(str(first))}"))
    new = new_secret()
    second = f"{first}.2"
    assert add_secret(file, "anna", new) == ((second,), ())
    assert Path(second).read_text() == f"{new}\n"
    assert stat.S_IMODE(os.stat(second).st_mode) == 0o600
    assert callers(file)["anna"] == {"secret_file": [str(first), second], "allow": READ}
    assert add_secret(file, "anna", new_secret()).made == (f"{first}.3",)
    bobs = callers(file)["bob"]["secret"]
    refused(file, lambda: add_secret(file, "anna", bobs), "is also the secret of")
    assert drop_old_secrets(file, "anna").left == (str(first), second)
    assert remove_caller(file, "anna").left == (f"{first}.3",)
    assert callers(file).keys() == {"bob"}


def test_a_credential_of_systemd_is_not_ours_to_change(file: Path) -> None:
    was = callers(file)["anna"]["secret"]
    file.write_text(file.read_text().replace(f'secret = "{was}"', 'secret_file = "$CREDENTIALS_DIRECTORY/anna"'))
    refused(file, lambda: add_secret(file, "anna", new_secret()), "credential of systemd", "restart")


# --- the file ---


def test_a_link_stays_a_link(file: Path) -> None:
    """The file that it leads to is changed, and there is nothing else beside either."""
    link = file.parent.parent / "breakglass.toml"
    link.symlink_to(os.path.relpath(file, link.parent))
    add_caller(link, "carl", entry())
    assert link.is_symlink()
    assert "carl" in callers(file)
    assert (os.listdir(file.parent), set(os.listdir(link.parent))) == ([file.name], {link.name, "etc"})


ACL = b"\x02\0\0\0" + b"".join(
    tag.to_bytes(2, "little") + rights.to_bytes(2, "little") + who.to_bytes(4, "little")
    for tag, rights, who in (
        (1, 6, 2**32 - 1),
        (2, 4, 12),
        (4, 4, 2**32 - 1),
        (16, 4, 2**32 - 1),
        (32, 0, 2**32 - 1),
    )
)


def set_attribute(path: Path, name: str, value: bytes) -> None:
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        pytest.skip(f"this file system has no {name}")


@pytest.mark.real("root")
def test_owner_mode_and_attributes_stay(file: Path) -> None:
    """They decide whether the handler can read its file."""
    set_attribute(file, "user.ours", b"kept")
    set_attribute(file, "system.posix_acl_access", ACL)
    os.chown(file, 0, 2)
    before = file.stat()
    add_caller(file, "carl", entry())
    after = file.stat()
    assert [(s.st_uid, s.st_gid, s.st_mode) for s in (before, after)] == [(0, 2, after.st_mode)] * 2
    assert {name: os.getxattr(file, name) for name in os.listxattr(file) if name[:8] != "security"} == {
        "user.ours": b"kept",
        "system.posix_acl_access": ACL,
    }


@pytest.mark.real("root")
def test_a_default_acl_of_the_directory_is_not_taken(file: Path) -> None:
    """A new file would get it, and other users could then read the secrets."""
    set_attribute(file.parent, "system.posix_acl_default", ACL)
    add_caller(file, "carl", entry())
    assert "system.posix_acl_access" not in os.listxattr(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_byte_order_mark_stays(file: Path) -> None:
    file.write_text(file.read_text(), encoding="utf-8-sig")
    add_caller(file, "carl", entry())
    assert file.read_bytes().startswith(b"\xef\xbb\xbf# ours\n")
    assert "carl" in callers(file)


def test_a_change_by_an_editor_is_not_lost(file: Path) -> None:
    """What was written between reading and replacing stays: also with the same size, and in the same second."""

    def late(change: Callable[[], object]) -> Callable[[], None]:
        def edit() -> None:
            with editing(file) as it:
                change()
                it.save(it.text + "# new\n")

        return edit

    text = file.read_text().replace("# ours", "# mine")
    with pytest.raises(EditError, match="changed by another program"):
        late(lambda: file.write_text(text))()
    assert file.read_text() == text
    other = file.parent / "other"
    other.touch(0o600)
    other.write_text(text)
    with pytest.raises(EditError, match="changed by another program"):
        late(lambda: other.rename(file))()
    assert os.listdir(file.parent) == [file.name]


SCRIPT = """
import os, signal, sys
from pathlib import Path
from breakglass.config.edit import add_caller
file, name, secret = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
"""


def test_two_edits_at_once_both_survive(file: Path) -> None:
    """Eight processes add a caller each, and wait for one another."""
    code = f"{SCRIPT}\nfrom breakglass.config import replacing\n"
    code += "replacing._LOCK_SECONDS = 100.0  # a busy machine takes long for eight\n"
    code += 'sys.stdin.read(1)\nadd_caller(file, name, {"secret": secret, "allow": ["status"]})\n'
    names = [f"c{number}" for number in range(8)]
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(file), name, new_secret()], stdin=subprocess.PIPE)
        for name in names
    ]
    for process in running:
        assert process.stdin
        process.stdin.close()  # all of them go
    assert [process.wait(100) for process in running] == [0] * len(names)
    assert callers(file).keys() == {"anna", "bob", *names}


KILL_EACH = """
import shutil, tempfile
with tempfile.TemporaryDirectory() as other:  # loads all that an edit needs, so that the numbers are the edit's own
    add_caller(Path(shutil.copy(file, other)), name, {"secret": secret, "allow": ["status"]})
# A child makes the same edit each time, and kills itself at the event that has the number; Python reports each call.
number = 1
while True:
    child = os.fork()
    if child == 0:
        left = [number]
        def hook(event, arguments):
            if event.startswith(("os.", "fcntl.")) or (event == "open" and "breakglass.toml" in str(arguments)):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), SIGNAL)
        sys.addaudithook(hook)
        add_caller(file, name, {"secret": secret, "allow": ["status"]})
        os._exit(0)
    _, status = os.waitpid(child, 0)
    number += 1
    there = b"[callers.carl]" in file.read_bytes()
    print(os.waitstatus_to_exitcode(status), there, *sorted(os.listdir(file.parent)), flush=True)
    if there and os.waitstatus_to_exitcode(status) == 0 or number > 500:
        break
    if there:
        file.write_bytes(BEFORE)
"""


@pytest.mark.parametrize("name", sampled(["SIGKILL", "SIGINT"], "SIGKILL"))
def test_an_end_in_the_middle_leaves_the_old_file_or_the_new_one(file: Path, name: str) -> None:
    """At each system call. After SIGINT no other file is left; after SIGKILL the next edit removes it."""
    before = file.read_bytes()
    code = SCRIPT + KILL_EACH.replace("SIGNAL", str(int(signal.Signals[name]))).replace("BEFORE", repr(before))
    command = [sys.executable, "-c", code, str(file), "carl", new_secret()]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert len(lines) > 8
    assert lines[-1] == ["0", "True", file.name]
    beside = [line[2:] for line in lines if line[2:] != [file.name]]
    assert bool(beside) == (name == "SIGKILL")
    assert callers(file).keys() == {"anna", "bob", "carl"}
    add_caller(file, "dora", entry())
    assert os.listdir(file.parent) == [file.name]


# --- file systems that refuse ---


REFUSED = """
from breakglass.config.replacing import EditError
try:
    add_caller(file, name, {"secret": secret, "allow": ["status"]})
except EditError as error:
    sys.exit(f"{error.message} / {error.hint} / {sorted(os.listdir(file.parent))}")
"""


def in_a_namespace(script: str, file: Path) -> subprocess.CompletedProcess[str]:
    """Run an edit in a mount namespace that the script has changed; $F is the file, $D its directory."""
    shell = f'set -e; F=$1 D=$2; mount --make-rprivate /; {script}; shift 2; exec "$@"'
    edit = [sys.executable, "-c", SCRIPT + REFUSED, str(file), "carl", new_secret()]
    command = ["unshare", "--mount", "sh", "-c", shell, "sh", str(file), str(file.parent), *edit]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


@pytest.mark.real("mounts")
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("mount --bind $D $D; mount -o remount,ro,bind $D", ("Read-only file system", "--print")),
        ("mount --bind $F $F", ("Device or resource busy", "mounted by itself")),
        (
            "cp $F /tmp/$$; mount -t tmpfs -o size=64k,mode=755 none $D; cp /tmp/$$ $F; rm /tmp/$$; chmod 600 $F;"
            "dd if=/dev/zero of=$D/fill bs=4k 2>/dev/null || true",
            ("No space left on device", "make room"),
        ),
    ],
    ids=["read-only", "a file that is a mount", "full"],
)
def test_a_file_system_that_refuses_is_named(file: Path, script: str, words: tuple[str, ...]) -> None:
    """Nothing is changed, nothing is left, and the message says what to do."""
    before = file.read_bytes()
    ran = in_a_namespace(script, file)
    assert ran.returncode == 1, ran.stderr
    assert [word for word in words if word not in ran.stderr] == [], ran.stderr
    assert ".new" not in ran.stderr
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]


@pytest.mark.real("root")
def test_an_immutable_file_is_named(file: Path) -> None:
    if shutil.which("chattr") is None or subprocess.run(["chattr", "+i", file], stderr=subprocess.PIPE).returncode:
        pytest.skip("this file system has no immutable files")
    try:
        refused(file, lambda: add_caller(file, "carl", entry()), "Operation not permitted", "chattr")
    finally:
        subprocess.run(["chattr", "-i", file], check=True)


@pytest.mark.real("root")
def test_another_users_file_is_left_to_them(file: Path) -> None:
    """A user who can write the directory but does not own the file would make it theirs, and lock out the handler."""
    file.parent.chmod(0o777)
    os.chown(file, 0, 65534)
    file.chmod(0o640)
    for above in file.parents[1:]:
        if not above.stat().st_mode & 0o001:
            above.chmod(above.stat().st_mode | 0o011)
    code = f"{SCRIPT}os.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\n{REFUSED}"
    command = [sys.executable, "-c", code, str(file), "carl", new_secret()]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert (ran.returncode, "could not get the owner" in ran.stderr) == (1, True), ran.stderr
    assert os.listdir(file.parent) == [file.name]
    assert file.stat().st_uid == 0
