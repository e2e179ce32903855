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

from breakglass.cli.init_files import STAGING
from breakglass.cli.main import main
from breakglass.config.new_file import NewConfig, NewHost, NewVm, config_texts, entry_text

from ..support.forked import run_command as run
from ..support.other_user import run_as
from ..support.ports import reserve_port
from ..support.rows import each_row
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
    assert "anna@home; hosts: pve1; VMs: devvm" in checked.stdout

    for name in SECRETS:
        for line in (directory / name).read_text().splitlines():
            assert line not in ran.stdout
    steps = [line.strip() for line in ran.stdout.splitlines() if line.startswith("    ")]
    assert f"export BREAKGLASS_CONFIG={directory}/breakglass.toml" in steps
    recipe = next(line for line in steps if "install-commands" in line)
    assert re.fullmatch(r"breakglass host install-commands --host pve1 (--from \S+ )?> pve1\.sh", recipe)
    printed = run(*shlex.split(recipe.partition(" > ")[0])[1:], BREAKGLASS_CONFIG=f"{directory}/breakglass.toml")
    assert printed.returncode == 0
    assert (directory / "pve_power.pub").read_text().split()[1] in printed.stdout

    client = place / "config-home/breakglass/client.toml"  # so a new shell needs no variables
    key = f"{directory}/anna@home.signing-key"
    assert tomllib.loads(client.read_text()) == {"url": "https://rescue.example.org/", "secret_file": key}
    assert stat.S_IMODE(client.stat().st_mode) == 0o600


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
    ("--host", "pve2=-oProxyCommand=id"),
    ("--host", "pve2=192.0.2.10:99999"),
    ("--host-key", f"pve1={HOST_KEY}"),
    ("--host-key", f"b={HOST_KEY[:60]}"),
    ("--host-key", f"b={HOST_KEY}\n{HOST_KEY}"),
    ("--vm", "devvm=103"),
    ("--vm", "mail=102"),
    ("--vm", "mail=103@pve9"),
    ("--url", "rescue.example.org"),
    ("--url", "https://rescue.example.org/#key=whsec_x"),
    ("--operator", "../../x"),
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
    assert (output.out, f" written: {flag}" in output.err, list(place.iterdir())) == ("", True, [])


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
    refused = run("init", str(other), *USER)
    assert (refused.returncode, f"{other}/session" in refused.stderr, names_in(other)) == (2, True, {"session"})


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

    theirs.chmod(0o755)
    os.chown(theirs, daemon, -1)
    refuse(theirs, "belongs to another user")
    for directory in (theirs / "a/b/etc", theirs / "link/etc"):
        refuse(directory, f"{theirs} belongs to another user")
    theirs.chmod(0o777)
    os.chown(theirs, 0, -1)
    refuse(theirs / "more", f"other users may write in {theirs}")
    theirs.chmod(0o1777)  # as /tmp: only its owner can replace what is in it
    assert run("init", str(theirs / "more"), *USER, *FLAGS).returncode == 0
    ran = run("init", str(place / "etc"), "--user", "nobody")  # `nogroup` is several users' on Debian
    assert (ran.returncode, "every key" in ran.stderr, (place / "etc").exists()) == (2, True, False)


# --- what goes wrong half-way ---


CRASH_AT_LINK = """\
import itertools, os, sys; from breakglass.cli.main import main; link, n = os.link, itertools.count(1)
os.link = lambda *names: os._exit(9) if next(n) == 4 else link(*names); sys.exit(main())
"""


def test_after_a_crash_the_next_run_says_what_to_remove(place: Path) -> None:
    """It writes nothing. The command that it prints removes what is not whole, and no other file."""
    directory = place / "a directory"
    argv = [sys.executable, "-c", CRASH_AT_LINK, "init", str(directory), *USER, *FLAGS]
    assert subprocess.run(argv, cwd="/", capture_output=True, timeout=100).returncode == 9
    (directory / "of another").touch()
    assert len(names_in(directory)) == 6  # and the directories of callers and of the unfinished ones
    ran = run("init", str(directory), *USER, *FLAGS)
    assert (ran.returncode, ran.stdout) == (2, "")
    found = re.search(r": (rm -r -- .*); then run init again", ran.stderr)
    assert found is not None, ran.stderr
    subprocess.run(["sh", "-c", found[1]], check=True)
    assert names_in(directory) == {"of another", "callers.d"}
    assert run("init", str(directory), *USER, *FLAGS).returncode == 0
    assert run("check", str(directory / "breakglass.toml")).returncode == 0
