"""`breakglass init`: a configuration that a handler starts with, written whole or not at all."""

import os
import pwd
import re
import shlex
import signal
import stat
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from breakglass.cli.init_files import STAGING, write_files
from breakglass.cli.output import CommandError
from breakglass.config.new_file import NewConfig, NewHost, NewVm, config_texts, entry_text

from ..support.documents import commands
from ..support.forked import run_command
from ..support.other_user import run_as
from ..support.ports import reserve_port
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


def run(*words: str, stdin: str = "", **more: str) -> "subprocess.CompletedProcess[str]":
    if not stdin:
        return run_command(*words, **more)
    argv = [*COMMAND, *words]
    return subprocess.run(
        argv, input=stdin, env=os.environ | more, cwd="/", capture_output=True, text=True, timeout=100
    )


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


@pytest.mark.real("root")
@pytest.mark.real("root")
def test_an_account_whose_group_others_share_is_refused(place: Path) -> None:
    """The group can read every key. `nogroup` is several users' on Debian."""
    users = [each.pw_name for each in pwd.getpwall() if each.pw_gid == pwd.getpwnam("nobody").pw_gid]
    other = next((name for name in users if name != "nobody"), None)
    if other is None:
        pytest.skip("the user nobody has its own group here")
    ran = run("init", str(place / "etc"), "--user", "nobody", *FLAGS)
    assert (ran.returncode, f"{other}" in ran.stderr, "could read every key" in ran.stderr) == (2, True, True)
    assert not (place / "etc").exists()


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


ODD_DIRECTORIES = ["with a space", "\"quotes' and \\ ]", "a\nnewline", "é 😀 = #", "$(touch x)`;"]


@pytest.mark.parametrize("name", ODD_DIRECTORIES[2:3])
def test_a_directory_may_have_any_name(place: Path, name: str) -> None:
    """Its name is TOML in the configuration, and one word for the shell in the printed commands."""
    directory = place / name
    ran = run("init", str(directory), *USER, *FLAGS)
    assert (ran.returncode, names_in(directory)) == (0, set(NAMES)), ran.stderr


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


@pytest.mark.all
def test_the_readmes_command_works(place: Path) -> None:
    """It works as it is printed, except for the host's key, the directory and the handler's account."""
    [install, _, _] = commands("README.md", "Install it for one VM")
    [command] = re.findall(r"^breakglass init (?:.*\\\n)*.*\n", install, re.MULTILINE)
    command = command.replace("ssh-ed25519 AAAA…", HOST_KEY)
    start = shlex.join([*COMMAND, "init", str(place / "etc"), *USER])
    ran = subprocess.run(
        ["sh", "-c", command.replace("breakglass init", start)], cwd="/", capture_output=True, text=True
    )
    assert (ran.returncode, names_in(place / "etc")) == (0, {name.replace("@home", "") for name in NAMES}), ran.stderr
    assert "http://localhost:8080/ works on this machine only" in ran.stdout


# --- what it refuses ---

WRONG = {
    "a name with a space": ["--host", "p v=192.0.2.10"],
    "a name with a newline": ["--host", "pve\n1=192.0.2.10"],
    "a name that is TOML": ["--host", 'x]\n[server]\nuser = "root"#=192.0.2.10'],
    "a host twice": ["--host", "pve1=192.0.2.11"],
    "a host without an address": ["--host", "pve2"],
    "an empty address": ["--host", "pve2="],
    "an address with a path": ["--host", "pve2=192.0.2.10/24"],
    "an option of ssh": ["--host", "pve2=-oProxyCommand=id"],
    "a port that is none": ["--host", "pve2=192.0.2.10:99999"],
    "a broken IPv6 address": ["--host", "pve2=[2001:db8::1::2]"],
    "a key of no host": ["--host-key", f"pve3={HOST_KEY}"],
    "two keys": ["--host-key", f"pve1={HOST_KEY}"],
    "half a key": ["--host", "b=192.0.2.11", "--host-key", f"b={HOST_KEY[:60]}"],
    "a key of another type": [
        "--host",
        "b=192.0.2.11",
        "--host-key",
        f"b={HOST_KEY.replace('ssh-ed25519', 'ssh-rsa')}",
    ],
    "a line of ssh-keyscan": ["--host", "b=192.0.2.11", "--host-key", f"b=192.0.2.11 {HOST_KEY}"],
    "a key and a line more": ["--host", "b=192.0.2.11", "--host-key", f"b={HOST_KEY}\n{HOST_KEY}"],
    "a VM twice": ["--vm", "devvm=103"],
    "a number twice": ["--vm", "mail=102"],
    "a number that is none": ["--vm", "mail=1e3"],
    "a VM without a number": ["--vm", "mail"],
    "a VM on no host": ["--vm", "mail=103@pve9"],
    "a VM called ssh": ["--vm", "ssh=103"],
    "a URL without a scheme": ["--url", "rescue.example.org"],
    "a URL with a key": ["--url", "https://rescue.example.org/#key=whsec_x"],
    "an operator with a slash": ["--operator", "../../x"],
    "an operator with a quote": ["--operator", 'a"b'],
}


@pytest.mark.parametrize("flags", WRONG.values(), ids=WRONG)
def test_a_value_that_can_t_be_used_is_refused(
    place: Path, flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the flag; nothing is written."""
    monkeypatch.setattr(sys, "argv", ["breakglass", "init", str(place / "etc"), *USER, *FLAGS, *flags])
    from breakglass.cli.main import main

    assert main() == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"breakglass: nothing was written: {flags[-2]}")
    assert list(place.iterdir()) == []


def test_without_a_terminal_each_missing_flag_is_named(place: Path) -> None:
    """No question waits for an answer that can't come, even if there is an input."""
    ran = run("init", str(place / "etc"), *USER, "--host", "b=192.0.2.1", stdin="https://x/\n" * 9)
    assert (ran.returncode, ran.stdout, list(place.iterdir())) == (2, "", [])
    for flag in ("--url", "--vm", "--operator", "--host-key b=…"):
        assert flag in ran.stderr


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
    """The keys could be replaced there. No file is left in it."""
    directory = place / "etc"
    directory.mkdir()
    directory.chmod(0o775)
    ran = run("init", str(directory), *USER, *FLAGS)
    assert (ran.returncode, "other users can write" in ran.stderr, "chmod go-w" in ran.stderr) == (2, True, True)
    directory.chmod(0o755)
    os.chown(directory, pwd.getpwnam("daemon").pw_uid, -1)
    ran = run("init", str(directory), *USER, *FLAGS)
    assert (ran.returncode, "belongs to another user" in ran.stderr, list(directory.iterdir())) == (2, True, [])


@pytest.mark.real("root")
@pytest.mark.parametrize("is_there", [False, True], ids=["new", "there"])
def test_a_directory_below_another_users_is_refused(place: Path, is_there: bool) -> None:
    """That user could put a link in its place: root would then change the modes of any file, or write keys anywhere."""
    theirs = place / "home"
    theirs.mkdir()
    os.chown(theirs, pwd.getpwnam("daemon").pw_uid, -1)
    (theirs / "link").symlink_to(place)
    for directory in (theirs / "etc", theirs / "a/b/etc", theirs / "link/etc"):
        if is_there:
            directory.mkdir(parents=True, exist_ok=True)
        ran = run("init", str(directory), *USER, *FLAGS)
        assert (ran.returncode, f"{theirs} belongs to another user" in ran.stderr) == (2, True), ran.stderr
    assert [path for path in place.rglob("*") if path.is_file()] == []

    theirs.chmod(0o777)
    os.chown(theirs, 0, -1)
    ran = run("init", str(theirs / "more"), *USER, *FLAGS)
    assert (ran.returncode, f"other users may write in {theirs}" in ran.stderr) == (2, True), ran.stderr
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
def test_root_needs_the_handlers_account_before_any_question(place: Path) -> None:
    """An account that does not exist is the first error, with the command that makes it."""
    ran = run("init", str(place / "etc"), "--user", "no-such-user")
    assert (ran.returncode, "adduser --system" in ran.stderr, list(place.iterdir())) == (2, True, [])


# --- what goes wrong half-way ---


@pytest.mark.real("sshd")  # which is root in a mount namespace, as here
@pytest.mark.parametrize("options", ["size=12k", pytest.param("nr_inodes=9", marks=pytest.mark.all)])
def test_a_full_disk_leaves_nothing(tmp_path: Path, options: str) -> None:
    """A file system that has room for some of the files, or of the links, ends as empty as it was."""
    script = 'mount -t tmpfs -o mode=755,$1 none "$2" && shift && directory=$1 && shift && '
    script += '"$@"; echo "ended with $?"; ls -A "$directory"'
    command = [*COMMAND, "init", str(tmp_path), *USER, *FLAGS]
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", options, str(tmp_path), *command]
    ran = subprocess.run(argv, cwd="/", capture_output=True, text=True, timeout=100)
    assert (ran.stdout, "No space left on device" in ran.stderr) == ("ended with 1\n", True), ran.stderr


def crash_at_link(count: int, directory: Path) -> None:
    """Run init in a process that ends at the link of that number, as if the power failed."""
    code = (
        "import itertools, os, sys; from breakglass.cli.main import main; link, n = os.link, itertools.count(1)\n"
        f"os.link = lambda *names: os._exit(9) if next(n) == {count} else link(*names); sys.exit(main())"
    )
    argv = [sys.executable, "-c", code, "init", str(directory), *USER, *FLAGS]
    assert subprocess.run(argv, cwd="/", capture_output=True, timeout=100).returncode == 9


@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.all), 4])
def test_after_a_crash_the_next_run_says_what_to_remove(place: Path, count: int) -> None:
    """It writes nothing; the command that it prints removes what the first one left, and a third run works."""
    directory = place / "a directory"
    crash_at_link(count, directory)
    (directory / "of another").touch()
    assert len(names_in(directory)) == 2 + count  # and the directories of callers and of the unfinished ones
    ran = run("init", str(directory), *USER, *FLAGS)
    assert (ran.returncode, ran.stdout) == (2, "")
    found = re.search(r": (rm -r -- .*); then run init again", ran.stderr)
    assert found is not None, ran.stderr
    subprocess.run(["sh", "-c", found[1]], check=True)
    assert names_in(directory) == {"of another", "callers.d"}
    assert run("init", str(directory), *USER, *FLAGS).returncode == 0


@contextmanager
def at_stat_of(directory: Path, begin: Callable[[], None]) -> Iterator[None]:
    """Call `begin` when a directory's owner and mode are asked for the first time."""
    stat_of = os.stat
    called: list[object] = []

    def stat_then(path: "int | os.PathLike[str] | str", **more: bool) -> os.stat_result:
        if path == directory and not called:
            called.append(begin)
            begin()
        return stat_of(path, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "stat", stat_then)
        yield


def test_a_second_run_beside_the_first_takes_nothing_away(place: Path) -> None:
    """The first one has linked its files, and checks them, when the second one finds that it is too late."""
    directory, files = place / "etc", {"a": "1\n", "b": "2\n"}
    directory.mkdir(mode=0o700)
    is_linked, is_over = threading.Event(), threading.Event()

    def verify() -> None:
        is_linked.set()
        assert is_over.wait(60)

    first = threading.Thread(target=write_files, args=(directory, files, None, verify))

    def begin() -> None:
        first.start()
        assert is_linked.wait(60)

    try:
        with at_stat_of(directory, begin), pytest.raises(CommandError, match="File exists"):
            write_files(directory, files, None, verify)
    finally:
        is_over.set()
        first.join()
    assert {path.name: path.read_text() for path in directory.iterdir()} == files


@pytest.mark.all
def test_after_a_crash_at_the_end_the_files_stay(place: Path) -> None:
    """All files are in place, so the next run says to remove nothing but the directory of the unfinished ones."""
    directory = place / "etc"
    code = (
        "import os, shutil, sys; from breakglass.cli.main import main\n"
        "shutil.rmtree = lambda path: os._exit(9); sys.exit(main())"
    )
    argv = [sys.executable, "-c", code, "init", str(directory), *USER, *FLAGS]
    assert subprocess.run(argv, cwd="/", capture_output=True, timeout=100).returncode == 9
    ran = run("init", str(directory), *USER, *FLAGS)
    found = re.search(r": (rm -r -- .*); then run breakglass check", ran.stderr)
    assert found is not None, ran.stderr
    subprocess.run(["sh", "-c", found[1]], check=True)
    assert names_in(directory) == set(NAMES)
    assert run("check", str(directory / "breakglass.toml")).returncode == 0
