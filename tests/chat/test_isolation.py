"""Which files claude's users can read, as a process of one of them finds out, and what the handler does about it."""

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from breakglass.claude import isolation
from breakglass.claude.command import ClaudeTurn, prepare_job
from breakglass.claude.isolation import isolation_fault, readable_by
from breakglass.claude.processes import prctl
from breakglass.config.model import Address, ChatSettings, Config, Host, Vm

from ..support.claude import UIDS
from ..support.ports import reserve_port
from ..support.service import ACCOUNT, SSH_KEY, config_text, give_to_handler, new_secret
from ..support.sshd import wait_listening

pytestmark = [pytest.mark.real("root"), pytest.mark.slow]
UID = UIDS[0]
PR_CAPBSET_DROP, CAP_NET_ADMIN, CAP_SYS_ADMIN = 24, 12, 21


@pytest.fixture
def place(short_dir: Path) -> Path:
    """A directory that every user may enter and only root may write."""
    short_dir.chmod(0o755)
    return short_dir


def tried(*paths: Path) -> list[str]:
    found = readable_by(map(str, paths), UID)
    return [Path(path).name for path in found]


def made(path: Path, mode: int, uid: int = 0) -> Path:
    path.write_text("secret")
    path.chmod(mode)
    os.chown(path, uid, 0)
    return path


def test_what_is_ours_alone_is_out_of_reach(place: Path) -> None:
    """A file of mode 0600, also one with an odd name, and one that is not there."""
    assert tried(made(place / "a", 0o600), made(place / "-n 'b' $(c)", 0o600), place / "none") == []


@pytest.mark.parametrize(("mode", "uid"), [(0o604, 0), (0o400, UID)], ids=["by others", "by its owner"])
def test_what_can_be_read_is_found(place: Path, mode: int, uid: int) -> None:
    """By its mode, or because the file belongs to that user."""
    assert tried(made(place / "a", 0o600), made(place / "b c", mode, uid)) == ["b c"]


def test_a_list_that_only_the_system_understands_is_found(place: Path) -> None:
    """Every rule of the system counts, here the group, because a process tries instead of computing."""
    path = made(place / "a", 0o640)
    os.chown(path, 0, UID)
    assert tried(path) == ["a"]


@pytest.mark.parametrize("mode", [0o704, 0o701])
def test_a_directory_that_can_be_listed_or_entered_is_found(place: Path, mode: int) -> None:
    """Either is enough: names can be guessed."""
    (place / "turns").mkdir(mode=mode)
    (place / "turns").chmod(mode)
    assert tried(place / "turns") == ["turns"]
    (place / "turns").chmod(0o700)
    assert tried(place / "turns") == []


def test_what_can_be_replaced_is_found(place: Path) -> None:
    """A file that can't be read lies in a directory that can be written."""
    path = made(place / "a", 0o600)
    place.chmod(0o777)
    assert tried(path) == ["a"]
    (place / "in").mkdir(mode=0o755)
    assert tried(made(place / "in" / "b", 0o600)) == ["b"]  # with the directory that it is in
    place.chmod(0o1777)  # sticky, as /tmp is
    assert tried(path, place / "in" / "b") == []


@pytest.mark.real("bwrap")
def test_where_a_link_leads_counts(place: Path) -> None:
    """A configuration that is a link to where claude's user can write could be replaced there."""
    (place / "open").mkdir()
    (place / "link").symlink_to(made(place / "open" / "a", 0o600))
    assert isolation_fault(config(place, place / "link", uids=UIDS)) == ""
    (place / "open").chmod(0o777)
    assert "open/a" in isolation_fault(config(place, place / "link", uids=UIDS))


def config(place: Path, *files: Path, **chat: object) -> Config:
    settings = ChatSettings(str(place / "sessions"), **chat)  # type: ignore[arg-type]
    return Config((), {}, {}, (), chat=settings, files=tuple(map(str, files)))


@pytest.mark.real("bwrap")
def test_chat_is_on_when_nothing_is_within_reach(place: Path) -> None:
    """The configuration, the files that it names and the event logs are tried, unless shared_uid is set."""
    (place / "sessions/turns").mkdir(mode=0o700, parents=True)
    secret, open_to_all = made(place / "key", 0o600), made(place / "open", 0o644)
    assert isolation_fault(config(place, secret, uids=UIDS)) == ""
    assert (
        isolation_fault(config(place, secret, open_to_all, uids=UIDS))
        == f"user {UID} of chat.uids can read or replace {open_to_all}"
    )
    assert isolation_fault(config(place, open_to_all, shared_uid=True)) == ""
    (place / "sessions/turns").chmod(0o755)
    assert "sessions/turns" in isolation_fault(config(place, secret, uids=UIDS))


@pytest.mark.parametrize("name", ["a b", "a -b", "a\nb", "a'b", "\U0001d49c"])
def test_a_sessions_dir_that_programs_read_differently_is_refused(place: Path, name: str) -> None:
    """Claude would split the name of its shell there, and run a program outside the sandbox."""
    (place / name).mkdir()
    assert "sessions.dir is" in isolation_fault(config(place / name, uids=UIDS))
    assert "sessions.dir is" in isolation_fault(config(place / name, shared_uid=True))
    (place / "plain").symlink_to(place / name)
    assert "sessions.dir is" in isolation_fault(config(place / "plain", uids=UIDS))
    assert "outside /usr" in isolation_fault(config(Path("/usr/local/x"), uids=UIDS))


@pytest.mark.real("bwrap")
def test_a_program_that_is_out_of_reach_behind_the_wall(place: Path) -> None:
    """Claude's user can't get at it, and the turns would fail: chat is off, and the reason names it."""
    program = made(place / "claude", 0o755)
    assert isolation_fault(config(place, uids=UIDS, command=str(program))) == ""
    place.chmod(0o700)
    assert "behind its wall" in isolation_fault(config(place, uids=UIDS, command=str(program)))
    place.chmod(0o755)


_CHECK = """
import sys, pathlib
sys.path.insert(0, sys.argv[1])
from breakglass.claude.runner_job import RunnerJob
from breakglass.claude.start import start_runner
from tests.chat.test_isolation import UIDS, config, isolation_fault
print(isolation_fault(config(pathlib.Path("/tmp"), uids=UIDS)))
try:
    start_runner(RunnerJob((), {}, "", "", "", uids=UIDS))
except PermissionError:
    print("not started")
"""


@pytest.mark.all
@pytest.mark.real("bwrap")
def test_a_container_that_allows_no_network_namespace() -> None:
    """Without CAP_SYS_ADMIN claude would have this machine's network: chat is off, and says why."""
    command = [sys.executable, "-c", _CHECK, str(Path(__file__).parent.parent.parent)]
    ran = subprocess.run(
        command, preexec_fn=lambda: prctl(PR_CAPBSET_DROP, CAP_SYS_ADMIN), capture_output=True, text=True, check=True
    )
    assert "claude can't have a network namespace of its own: " in ran.stdout
    assert "'setns'" in ran.stdout
    assert ran.stdout.endswith("\nnot started\n")


@pytest.mark.real("mounts")
def test_a_network_namespace_takes_no_right_over_this_machines_network() -> None:
    """Root without CAP_NET_ADMIN, as the launcher's unit has it, gets one whose loopback is up."""
    ran = subprocess.run(
        [sys.executable, "-c", "from breakglass.claude.isolation import _network_fault as f; print(repr(f()))"],
        preexec_fn=lambda: prctl(PR_CAPBSET_DROP, CAP_NET_ADMIN),
        capture_output=True,
        text=True,
    )
    assert ran.stdout == "''\n", ran.stderr


@pytest.mark.real("bwrap")
def test_a_sessions_dir_that_claude_can_not_enter(place: Path) -> None:
    """Each turn would fail there: chat is off, and the reason names the directory."""
    program = made(place / "claude", 0o755)
    (place / "sessions/work").mkdir(mode=0o711, parents=True)
    (place / "sessions").chmod(0o700)
    assert "sessions/work" in isolation_fault(config(place, uids=UIDS, command=str(program)))
    (place / "sessions").chmod(0o711)
    assert isolation_fault(config(place, uids=UIDS, command=str(program))) == ""


def test_claude_can_enter_its_directories_under_any_umask(place: Path) -> None:
    """A service manager may start the launcher with one that closes every new directory to others."""
    vm = Vm("devvm", 102, (Host("pve1", Address("breakglass", "127.0.0.1", 22), "power", "read"),))
    before = os.umask(0o077)
    try:
        prepare_job(ChatSettings(str(place), uids=UIDS), ClaudeTurn(vm, "hello", "sid"), place)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (place, *place.iterdir())}
    private = {"ssh": 0o700, "home": 0o700, "scraps": 0o700}
    assert modes == private | {place.name: 0o711, "bin": 0o755, "cwd": 0o555, "shell": 0o555, "agents.json": 0o444}


def test_chat_is_off_when_it_can_not_be_proven(place: Path) -> None:
    """No ids are set, or one of them has an account or a group."""
    assert isolation_fault(config(place)) == "chat.uids is not set"
    assert "65534 of chat.uids is the user nobody" in isolation_fault(config(place, uids=(65500, 65534)))


@pytest.mark.real("bwrap")
@pytest.mark.parametrize("name", ["subuid", "subgid"])
def test_ids_that_a_user_may_map_are_refused(place: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As root of containers of its own, that user could signal claude and read its files."""
    monkeypatch.setattr(isolation, "SUBORDINATE", (str(place / "subuid"), str(place / "subgid")))
    ranges = {"before": (UID - 65536, 65536), "after": (UIDS[1] + 1, 65536), "over": (UIDS[1] - 10, 100)}
    lines = [f"{user}:{first}:{count}\n" for user, (first, count) in ranges.items()]
    (place / name).write_text("".join(lines[:2]) + "no line\n")
    assert isolation_fault(config(place, uids=UIDS)) == ""
    (place / name).write_text("".join(lines))
    assert "to over" in isolation_fault(config(place, uids=UIDS))


@pytest.mark.real("bwrap")
def test_a_file_of_ours_that_an_id_owns_is_found(place: Path) -> None:
    """Of any id of the range, and by its group too, although a process of the first one can't read it."""
    (place / "sessions/turns").mkdir(mode=0o700, parents=True)
    for path in (made(place / "key", 0o600), place / "sessions/turns"):
        assert isolation_fault(config(place, place / "key", uids=UIDS)) == ""
        for owner in ((UIDS[1], 0), (0, UIDS[1])):
            os.chown(path, *owner)
            assert f"{path} belongs to" in isolation_fault(config(place, place / "key", uids=UIDS))
        os.chown(path, 0, 0)


def test_a_handler_without_root_proves_nothing(place: Path) -> None:
    """A handler without root can't become one of claude's users, and says so."""
    code = "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import tests.chat.test_isolation as t; "
    code += "print(t.isolation_fault(t.config(pathlib.Path('/tmp'), uids=t.UIDS)))"
    # what was imported stays; the user changes afterwards
    code = code.replace("print(", "import os, breakglass.claude.isolation; os.setgid(65534); os.setuid(65534); print(")
    ran = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent.parent.parent)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "needs the launcher: let root start the handler" in ran.stdout


def test_the_names_of_the_files_that_were_read_are_kept(place: Path) -> None:
    """What is tried is what was read: the configuration itself and each file that it names."""
    from breakglass.config.load import load_config

    from ..unit.test_config import GOOD

    key, path = made(place / "key", 0o600), place / "breakglass.toml"
    key.write_text(SSH_KEY)
    made(path, 0o600).write_text(GOOD.replace(f"key = '''{SSH_KEY}'''", f"key_file = {json.dumps(str(key))}"))
    assert load_config(path, {}).files == (str(path), str(key))


def test_the_handlers_memory_can_not_be_read(place: Path) -> None:
    """A process of the handler's own user, as claude is under shared_uid, sees neither its environment nor its memory.

    Of another process of that user it sees both.
    """
    caller = {"operator": {"secret": new_secret(), "allow": ["status"]}}
    path, port = made(place / "breakglass.toml", 0o600), reserve_port()
    path.write_text(config_text(caller, port=1, key=SSH_KEY, host_key="any"))
    give_to_handler(path)
    account = pwd.getpwnam(ACCOUNT)
    ids: dict[str, Any] = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": ()}
    env = {**os.environ, "BREAKGLASS_CONFIG": str(path), "PORT": str(port), "COUNT_ON": "it"}
    handler = subprocess.Popen([sys.executable, "-m", "breakglass", "serve"], env=env, stdout=subprocess.DEVNULL)
    other = subprocess.Popen(["/bin/sleep", "600"], env=env, **ids)
    try:
        wait_listening(port, handler)
        for name in ("environ", "maps", "mem"):
            seen = [
                subprocess.run(
                    ["/bin/sh", "-c", f"exec 3</proc/{process.pid}/{name}"], stderr=subprocess.DEVNULL, **ids
                ).returncode
                for process in (handler, other)
            ]
            assert [bool(code) for code in seen] == [True, False], name
    finally:
        for process in (handler, other):
            process.terminate()
            process.wait(60)
