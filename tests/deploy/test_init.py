"""`breakglass init`: a configuration that a handler starts with, written whole or not at all."""

import os
import pwd
import re
import shlex
import signal
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from breakglass.cli.init_files import STAGING, write_files
from breakglass.cli.main import main
from breakglass.cli.output import CommandError
from breakglass.config.new_file import NewConfig, NewHost, NewVm, config_texts, entry_text

from ..support.forked import run_command as run
from ..support.other_user import run_as
from ..support.ports import reserve_port
from ..support.rows import each_row
from ..support.selection import sampled
from ..support.service import ACCOUNT, as_handler
from ..support.signals import signal_process
from ..support.sshd import Sshd, wait_listening

pytestmark = pytest.mark.slow  # a command and its files in each test

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDJc1gdTQnty6yEjg5X1JJ5HnBZ2/51OwXFleGiPrUsy"
USER = ["--user", ACCOUNT] if ACCOUNT else []
GROUP = pwd.getpwnam(ACCOUNT).pw_gid if ACCOUNT else os.getegid()
FLAGS = ["--url", "https://rescue.example.org", "--host", "pve1=192.0.2.10", "--host-key", f"pve1={HOST_KEY} root@pve1"]
FLAGS += ["--vm", "devvm=102", "--operator", "anna@home"]
SECRETS = ["session", "pve_power", "anna@home.signing-key"]
NAMES = [*SECRETS, "pve_power.pub", "night.html", "callers.d/anna@home.toml", "breakglass.toml"]
COMMAND = [sys.executable, "-m", "breakglass"]


def run_as_daemon(*words: str, **more: str) -> "subprocess.CompletedProcess[str]":
    user = pwd.getpwnam("daemon")
    return run_as(user.pw_uid, user.pw_gid, *words, groups=(), **more)


def names_in(directory: Path) -> set[str]:
    """Return the name of each file, of each directory that is empty, and of the one with what is not finished."""
    found = [path for path in directory.rglob("*") if not path.is_dir() or not any(path.iterdir())]
    names = {str(path.relative_to(directory)) for path in found}
    return {STAGING if name.startswith(STAGING) else name for name in names}


# --- what it writes ---


def test_it_writes_what_a_handler_needs_and_shows_no_secret(place: Path) -> None:
    """The files are there with the modes that `check` wants, and the output names them and the next commands."""
    directory = place / "etc"
    ran = run("init", str(directory), *USER, *FLAGS)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert names_in(directory) == set(NAMES)
    for name in (".", "callers.d", *NAMES):
        status = (directory / name).stat()
        readable, entered = (0o640, 0o110) if ACCOUNT else (0o600, 0o100)
        assert stat.S_IMODE(status.st_mode) == readable | (entered if name in (".", "callers.d") else 0), name
        assert (status.st_uid, status.st_gid) == (os.geteuid(), GROUP), name
    checked = run("check", str(directory / "breakglass.toml"))
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "callers: anna@home; hosts: pve1; VMs: devvm" in checked.stdout

    for name in SECRETS:
        for line in (directory / name).read_text().splitlines():
            assert line not in ran.stdout
    steps = [line.strip() for line in ran.stdout.splitlines() if line.startswith("    ")]
    assert f"export BREAKGLASS_CONFIG={directory}/breakglass.toml" in steps
    assert "https://rescue.example.org/#vm=devvm" in steps
    how = f"setpriv --reuid {ACCOUNT} --regid {GROUP} --clear-groups " if ACCOUNT else ""
    assert f"breakglass check && {how}breakglass serve" in steps
    recipe = next(line for line in steps if "install-commands" in line)
    assert re.fullmatch(r"breakglass host install-commands --host pve1 (--from \S+ )?> pve1\.sh", recipe)
    assert "scp breakglass-pve pve1.sh root@192.0.2.10:/root/" in steps
    printed = run(*shlex.split(recipe.partition(" > ")[0])[1:], BREAKGLASS_CONFIG=f"{directory}/breakglass.toml")
    assert printed.returncode == 0
    assert (directory / "pve_power.pub").read_text().split()[1] in printed.stdout


@pytest.mark.real("sshd", "qemu")
def test_a_handler_starts_from_it_and_a_signed_verb_is_done(sshd: Sshd, place: Path) -> None:
    """From `init` to `call status` with the files that it wrote, over a real sshd that got the new public keys."""
    directory = place / "etc"
    hosts = ["--host", f"pve1=127.0.0.1:{sshd.port}", "--host-key", f"pve1={sshd.host_key}"]
    made = run("init", str(directory), *USER, *FLAGS[:2], *hosts, "--vm", "devvm=102", "--operator", "anna")
    assert made.returncode == 0, made.stderr
    with sshd.keys.open("a") as lines:
        lines.write(f"{sshd.key_line(asyncssh.read_private_key(directory / 'pve_power'))}\n")
    port = reserve_port()
    environment = os.environ | {"BREAKGLASS_CONFIG": str(directory / "breakglass.toml"), "PORT": str(port)}
    with subprocess.Popen(
        [*COMMAND, "serve"], env=environment, cwd="/", stdout=subprocess.DEVNULL, **as_handler()
    ) as handler:
        try:
            wait_listening(port, handler)
            key = str(directory / "anna.signing-key")
            url = f"http://127.0.0.1:{port}"
            ran = run("call", "status", "--vm", "devvm", BREAKGLASS_URL=url, BREAKGLASS_SECRET_FILE=key)
        finally:
            signal_process(handler.pid, signal.SIGTERM)
    assert (ran.returncode, "devvm: running (status" in ran.stdout) == (0, True), ran.stderr


@pytest.mark.real("root")  # it becomes another user
def test_an_ordinary_user_gets_files_of_its_own(place: Path) -> None:
    """Without root there is no group to give the files to: mode 0600, and the handler runs as this user."""
    home = place / "home"
    home.mkdir(mode=0o755)
    os.chown(home, pwd.getpwnam("daemon").pw_uid, -1)
    ran = run_as_daemon("init", *FLAGS, HOME=str(home), XDG_CONFIG_HOME="", XDG_STATE_HOME="")
    directory = home / ".config/breakglass"
    assert (ran.returncode, names_in(directory)) == (0, {*NAMES, "client.toml"}), ran.stderr
    assert {stat.S_IMODE((directory / name).stat().st_mode) for name in (*NAMES, "client.toml")} == {0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    written = tomllib.loads((directory / "breakglass.toml").read_text())
    assert "user" not in written["server"]
    assert written["sessions"]["dir"] == f"{home}/.local/state/breakglass/sessions"


def test_a_new_shell_needs_no_variables(place: Path) -> None:
    """The URL and the key file are in the client.toml of the user who ran it, which a second run does not change."""
    client = place / "home/breakglass/client.toml"
    first, second = (run("init", str(place / name), *USER, *FLAGS, XDG_CONFIG_HOME=f"{place}/home") for name in "ab")
    key = f"{place}/a/anna@home.signing-key"
    assert tomllib.loads(client.read_text()) == {"url": "https://rescue.example.org/", "secret_file": key}
    assert stat.S_IMODE(client.stat().st_mode) == 0o600
    assert (f"Wrote {client}" in first.stdout, "    breakglass status devvm\n" in first.stdout) == (True, True)
    at = f"    BREAKGLASS_URL=https://rescue.example.org/ BREAKGLASS_SECRET_FILE={key.replace('/a/', '/b/')} breakglass"
    assert (str(client) in second.stdout, at in second.stdout) == (False, True)


@given(directory=st.text(st.characters(codec="utf-8", exclude_characters="\0")), sessions=st.text(max_size=5))
def test_what_it_writes_is_toml(directory: str, sessions: str) -> None:
    """Whatever text is in it comes back as it was."""
    hosts, vms = {"pve1": NewHost("breakglass@192.0.2.10:22", "any")}, {"devvm": NewVm(102, ("pve1",))}
    new = NewConfig("https://x/", "a.b@c", hosts, vms)
    texts = config_texts(new, directory, sessions)
    written = tomllib.loads(texts["breakglass.toml"])
    assert tomllib.loads(texts["callers.d/a.b@c.toml"])["secret_file"] == f"{directory}/a.b@c.signing-key"
    table = {"secret_file": directory, "allow": [sessions, directory], directory: sessions}
    assert tomllib.loads(entry_text("callers", table)) == table
    assert written["sessions"] == {"secret_file": f"{directory}/session", "dir": sessions}
    assert written["vms"] == {"devvm": {"hosts": ["pve1"], "vmid": 102}}


# --- what it refuses ---

WRONG = [
    ("--host", "p v=192.0.2.10"),
    ("--host", 'x]\n[server]\nuser = "root"#=192.0.2.10'),
    ("--host", "pve1=192.0.2.11"),
    ("--host", "pve2"),
    ("--host", "pve2="),
    ("--host", "pve2=192.0.2.10/24"),
    ("--host", "pve2=-oProxyCommand=id"),
    ("--host", "pve2=192.0.2.10:99999"),
    ("--host-key", f"pve3={HOST_KEY}"),
    ("--host-key", f"pve1={HOST_KEY}"),
    ("--host-key", f"b={HOST_KEY[:60]}"),
    ("--host-key", f"b={HOST_KEY.replace('ssh-ed25519', 'ssh-rsa')}"),
    ("--host-key", f"b=192.0.2.11 {HOST_KEY}"),
    ("--host-key", f"b={HOST_KEY}\n{HOST_KEY}"),
    ("--vm", "devvm=103"),
    ("--vm", "mail=102"),
    ("--vm", "mail=1e3"),
    ("--vm", "mail"),
    ("--vm", "mail=103@pve9"),
    ("--vm", "ssh=103"),
    ("--url", "rescue.example.org"),
    ("--url", "https://rescue.example.org/#key=whsec_x"),
    ("--operator", "../../x"),
    ("--operator", 'a"b'),
]


@each_row(("flag", "value"), WRONG)
def test_a_value_that_can_t_be_used_is_refused(
    place: Path, flag: str, value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the flag; nothing is written."""
    more = ["--host", "b=192.0.2.11"] if value.startswith("b=") else []
    monkeypatch.setattr(sys, "argv", ["breakglass", "init", str(place / "etc"), *USER, *FLAGS, *more, flag, value])
    assert main() == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"breakglass: nothing was written: {flag}")
    assert list(place.iterdir()) == []


def test_files_that_exist_are_all_named_and_none_is_touched(place: Path) -> None:
    """A second run, a file of another name, and a link to nowhere: exit 2 before any question."""
    directory = place / "etc"
    assert run("init", str(directory), *USER, *FLAGS).returncode == 0
    before = {name: ((directory / name).read_bytes(), (directory / name).stat().st_ino) for name in names_in(directory)}
    again = run("init", str(directory), *USER, *FLAGS)
    assert (again.returncode, again.stdout) == (2, "")
    for name in NAMES:
        assert f"{directory}/{name}" in again.stderr
    after = {name: ((directory / name).read_bytes(), (directory / name).stat().st_ino) for name in names_in(directory)}
    assert after == before

    other = place / "other"
    other.mkdir(mode=0o755)
    (other / "session").symlink_to("/nowhere")
    (other / "more").touch()
    refused = run("init", str(other), *USER)
    assert (refused.returncode, f"{other}/session" in refused.stderr) == (2, True)
    assert names_in(other) == {"session", "more"}
    (other / "session").unlink()
    assert run("init", str(other), *USER, *FLAGS).returncode == 0
    assert names_in(other) == {*NAMES, "more"}


@pytest.mark.real("root")
def test_a_directory_that_another_user_can_change_is_refused(place: Path) -> None:
    """The keys could be replaced there, or a link made of it: root would then write keys anywhere. No file is left."""
    theirs, daemon = place / "home", pwd.getpwnam("daemon").pw_uid
    theirs.mkdir()
    (theirs / "link").symlink_to(place)

    def refuse(directory: Path, *words: str) -> None:
        ran = run("init", str(directory), *USER, *FLAGS)
        assert ran.returncode == 2
        assert [word for word in words if word not in ran.stderr] == [], ran.stderr
        assert [path for path in place.rglob("*") if path.is_file()] == []

    theirs.chmod(0o775)
    refuse(theirs, "other users can write", "chmod go-w")
    theirs.chmod(0o755)
    os.chown(theirs, daemon, -1)
    refuse(theirs, "belongs to another user")
    for is_there in (False, True):
        for directory in (theirs / "etc", theirs / "a/b/etc", theirs / "link/etc"):
            if is_there:
                directory.mkdir(parents=True, exist_ok=True)
            refuse(directory, f"{theirs} belongs to another user")
    theirs.chmod(0o777)
    os.chown(theirs, 0, -1)
    refuse(theirs / "more", f"other users may write in {theirs}")
    theirs.chmod(0o1777)  # as /tmp: only its owner can replace what is in it
    assert run("init", str(theirs / "more"), *USER, *FLAGS).returncode == 0


@pytest.mark.real("root")
def test_files_that_the_handler_could_not_read_are_not_left(tmp_path: Path) -> None:
    """Above the directory is one that the handler's user may not enter: `check` finds that before init is done."""
    (tmp_path / "closed").mkdir(mode=0o700)
    ran = run("init", str(tmp_path / "closed/etc"), *USER, *FLAGS)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "the new files were removed" in ran.stderr
    assert "can't be read by this user" in ran.stderr
    assert list((tmp_path / "closed").iterdir()) == []


@pytest.mark.real("root")
def test_an_account_that_can_not_have_the_files_is_refused(place: Path) -> None:
    """It does not exist; or others share its group, which could read every key: `nogroup` is several users' on Debian.

    That is the first error, before any question.
    """
    users = [each.pw_name for each in pwd.getpwall() if each.pw_gid == pwd.getpwnam("nobody").pw_gid]
    for name, words in (("no-such-user", ["adduser --system"]), ("nobody", ["could read every key", users[-1]])):
        ran = run("init", str(place / "etc"), "--user", name)
        assert (ran.returncode, list(place.iterdir())) == (2, [])
        assert [word for word in words if word not in ran.stderr] == [], ran.stderr


# --- what goes wrong half-way ---


@pytest.mark.real("sshd")  # which is root in a mount namespace, as here
def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """A file system that has room for some of the files, or of the links, ends as empty as it was."""
    script = 'mount -t tmpfs -o mode=755,$1 none "$2" && shift && directory=$1 && shift && '
    script += '"$@"; echo "ended with $?"; ls -A "$directory"'
    for options in ("size=12k", "nr_inodes=9"):
        command = [*COMMAND, "init", str(tmp_path), *USER, *FLAGS]
        argv = ["unshare", "--mount", "sh", "-c", script, "sh", options, str(tmp_path), *command]
        ran = subprocess.run(argv, cwd="/", capture_output=True, text=True, timeout=100)
        assert (ran.stdout, "No space left on device" in ran.stderr) == ("ended with 1\n", True), ran.stderr


CRASH_AT_LINK = """\
import itertools, os, sys; from breakglass.cli.main import main; link, n = os.link, itertools.count(1)
os.link = lambda *names: os._exit(9) if next(n) == {count} else link(*names); sys.exit(main())
"""
CRASH_AT_THE_END = """\
import os, shutil, sys; from breakglass.cli.main import main
shutil.rmtree = lambda path: os._exit(9); sys.exit(main())
"""


@pytest.mark.parametrize(
    ("code", "left"),
    sampled([(CRASH_AT_LINK.format(count=4), 6), (CRASH_AT_THE_END, 0)], (CRASH_AT_LINK.format(count=4), 6)),
    ids=["in the middle", "at the end"],
)
def test_after_a_crash_the_next_run_says_what_to_remove(place: Path, code: str, left: int) -> None:
    """It writes nothing. The command that it prints removes what is not whole: all of it, or no file of the caller."""
    directory = place / "a directory"
    argv = [sys.executable, "-c", code, "init", str(directory), *USER, *FLAGS]
    assert subprocess.run(argv, cwd="/", capture_output=True, timeout=100).returncode == 9
    (directory / "of another").touch()
    assert not left or len(names_in(directory)) == left  # and the directories of callers and of the unfinished ones
    ran = run("init", str(directory), *USER, *FLAGS)
    assert (ran.returncode, ran.stdout) == (2, "")
    found = re.search(rf": (rm -r -- .*); then run {'init again' if left else 'breakglass check'}", ran.stderr)
    assert found is not None, ran.stderr
    subprocess.run(["sh", "-c", found[1]], check=True)
    assert names_in(directory) == {"of another", *({"callers.d"} if left else NAMES)}
    if left:
        assert run("init", str(directory), *USER, *FLAGS).returncode == 0
    assert run("check", str(directory / "breakglass.toml")).returncode == 0


def test_a_second_run_beside_the_first_takes_nothing_away(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one writes its files after the second one has looked for them, and before that links its own."""
    directory, files = place / "etc", {"a": "1\n", "b": "2\n"}
    directory.mkdir(mode=0o700)
    stat_of = os.stat
    first: list[object] = []

    def stat_then(path: "int | os.PathLike[str] | str", **more: bool) -> os.stat_result:
        if path == directory and not first:
            first.append(path)
            write_files(directory, files, None, lambda: None)
        return stat_of(path, **more)

    monkeypatch.setattr(os, "stat", stat_then)
    with pytest.raises(CommandError, match="File exists"):
        write_files(directory, files, None, lambda: None)
    assert first
    assert {path.name: path.read_text() for path in directory.iterdir()} == files
