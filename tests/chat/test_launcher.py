"""The launcher, which is root: what it takes for a message, what it does for one, and what happens without it."""

import contextlib
import fcntl
import json
import os
import pwd
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from breakglass.chat import launcher
from breakglass.chat.launcher import LauncherClient, LauncherError
from breakglass.chat.request import LauncherLate
from breakglass.claude.launch_messages import ACCEPTED, FDS, MOST_BYTES, NOT_ISOLATED, encode_turn, parse_message

from ..support.model import Model
from ..support.rights import assert_unprivileged, status_of
from ..support.scripted_claude import RESULT, TEXT, ScriptedClaude
from ..support.selection import sampled
from ..support.service import SSH_KEY, config_text, new_secret
from ..support.signals import signal_process
from ..support.sshd import descendants
from ..support.stages import until
from ..support.talk import Talker, fake, last_error, started

pytestmark = [pytest.mark.real("root"), pytest.mark.slow]

ROOT = Path(__file__).parent.parent.parent
KEY, SID = "0123456789abcdef" * 2, "0b6f3f6a-3d0f-4d0e-9d0f-1c2f3a4b5c6d"
GOOD = encode_turn(KEY, SID, False, "devvm", "hello")


class Launchers:
    """Launchers for the user of the tests, one after the other."""

    def __init__(self, directory: Path, uid: int = 0) -> None:
        self.directory = directory
        self.sessions = directory / "sessions"
        self.config = directory / "breakglass.toml"
        self.config.touch(0o600)
        (directory / "credential").touch(0o600)
        (directory / "credential").write_text("ANTHROPIC_API_KEY=sk-test")
        callers = {"operator": {"secret": new_secret(), "allow": ["chat"]}}
        text = config_text(callers, port=1, key=SSH_KEY, host_key="any")
        text = text.replace("[sessions]\n", f'[sessions]\ndir = "{self.sessions}"\n')
        chat = f'[chat]\nshared_uid = true\ncommand = "/bin/true"\ncredential_file = "{directory}/credential"\n'
        self.config.write_text(text + chat)
        ours, theirs = socket.socketpair()
        self.control = ours
        with theirs, (directory / "log").open("wb") as log:
            command = [sys.executable, "-m", "tests.support.launcher_process", str(theirs.fileno()), str(uid)]
            command.append(str(self.config))
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, pass_fds=[theirs.fileno()])

    def open(self) -> tuple[int, socket.socket]:
        """Return the next launcher and the socket to it."""
        self.control.send(b"+")
        data, fds, _, _ = socket.recv_fds(self.control, 64, 1)
        channel = socket.socket(fileno=fds[0])
        channel.settimeout(60)
        return int(data), channel

    def close(self) -> None:
        self.control.close()
        self.process.wait(60)

    def logged(self) -> list[str]:
        return [json.loads(line)["why"] for line in (self.directory / "log").read_text().splitlines()]

    def files(self) -> list[Path]:
        return sorted(self.directory.rglob("*"))


@pytest.fixture(scope="module")
def launchers(directory: Path) -> Iterator[Launchers]:
    (directory / "launchers").mkdir()
    launchers = Launchers(directory / "launchers")
    yield launchers
    launchers.close()


def hostile_messages() -> dict[str, bytes]:
    """Return what a handler that was taken over could send in place of a message."""
    dice = random.Random(7)
    found = {f"dice {number}": dice.randbytes(dice.randint(1, 300)) for number in range(20)}
    found |= {f"flipped {n}": GOOD[:n] + bytes([GOOD[n] ^ 128]) + GOOD[n + 1 :] for n in range(0, GOOD.index(b"\n"), 7)}
    found |= {
        "a word more": b"check ",
        "a line more": b"check\n",
        "nothing but a word": b"turn",
        "no prompt": GOOD[: GOOD.index(b"\n") + 1],
        "a path": GOOD.replace(KEY.encode(), b"../../../../etc/cron.d/breakglass"),
        "a path in the session": GOOD.replace(SID.encode(), b"../../root/.ssh/authorized_keys...x"),
        "another case": GOOD.replace(KEY.encode(), KEY.upper().encode()),
        "digits of another script": GOOD.replace(b"0123", "٠١٢٣".encode()),
        "a flag for a VM": GOOD.replace(b"devvm", b"--root"),
        "a NUL": GOOD.replace(b"devvm", b"dev\0vm"),
        "two spaces": GOOD.replace(b"new ", b"new  "),
        "a third way": GOOD.replace(b"new", b"exec"),
        "an argument": GOOD.replace(b"\n", b" --settings=/tmp/x\n"),
        "a prompt that is no text": GOOD + b"\xff",
        "too long": GOOD + b"x" * (MOST_BYTES + 1 - len(GOOD)),
        "another directory": f"remove turns/{KEY}".encode(),
        "a path below": f"remove work/{KEY}/..".encode(),
        "all of it": b"remove work/",
    }
    return found


HOSTILE = hostile_messages()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_no_message(name: str) -> None:
    """The grammar is matched whole."""
    with pytest.raises(ValueError, match=r"grammar|decode"):
        parse_message(HOSTILE[name])


def test_a_message_is_read_as_it_was_written() -> None:
    """Each field comes out as it went in, also a prompt of many lines and the longest one."""
    for prompt in ("hello", "a\nb\n", "é" * 1000, "x" * (256 * 1024 + 4096)):
        for tools in ("", "host"):
            message = parse_message(encode_turn(KEY, SID, True, "devvm", prompt, tools))
            assert tuple(message) == ("turn", KEY, SID, True, "devvm", prompt, tools)
    assert parse_message(b"check").kind == "check"
    assert parse_message(f"remove work/{KEY}".encode()).name == f"work/{KEY}"


def attempt(launchers: Launchers, message: bytes, fds: Sequence[int]) -> None:
    """Send a message; fail unless it closes the channel, ends the launcher and starts nothing."""
    before, lines = launchers.files(), len(launchers.logged())
    pid, channel = launchers.open()
    with channel:
        socket.send_fds(channel, [message], fds)
        with contextlib.suppress(ConnectionResetError):
            assert channel.recv(1) == b""
    until(lambda: len(launchers.logged()) > lines, "a line of the log")
    until(lambda: not Path(f"/proc/{pid}").exists(), "the end")
    assert len(launchers.logged()) == lines + 1
    assert launchers.files() == before


@pytest.mark.parametrize("name", ["dice 0", "a path", "an argument", "too long"])
def test_hostile_bytes_start_nothing(launchers: Launchers, name: str) -> None:
    """The channel is closed, the log has one line, and no file and no process is there afterwards."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        attempt(launchers, HOSTILE[name], [theirs.fileno()] * 6)


@pytest.mark.parametrize(
    ("message", "count"),
    sampled([(GOOD, 0), (GOOD, 5), (GOOD, 8), (GOOD, 30), (b"check", 0), (b"check", 4)], (GOOD, 5), (b"check", 4)),
)
def test_another_number_of_descriptors_starts_nothing(launchers: Launchers, message: bytes, count: int) -> None:
    """A message has its own number of descriptors, and those that came with another one are closed."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            attempt(launchers, message, [theirs.fileno()] * count)
        ours.settimeout(60)
        assert ours.recv(1) == b""  # no process has the other end


def test_a_reply_that_is_a_file_starts_nothing(launchers: Launchers) -> None:
    """Root writes its reply to a socket alone."""
    with tempfile.TemporaryFile() as file:
        attempt(launchers, GOOD, [file.fileno()] * 6)
        assert file.seek(0, os.SEEK_END) == 0


def fill_connection(opened: contextlib.ExitStack) -> int:
    """Return a connection to this machine that is closed only after ten minutes, because its peer reads nothing."""
    listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
    ours = socket.create_connection(listener.getsockname())
    opened.enter_context(listener.accept()[0])
    ours.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(bytes(1 << 20))
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 600))
    return ours.detach()


@pytest.mark.parametrize("message", [b"no message", GOOD])
def test_a_descriptor_that_takes_long_to_close_holds_nothing_up(launchers: Launchers, message: bytes) -> None:
    """The launcher ends at once, although the last reference to such a connection is what came with a message."""
    pid, channel = launchers.open()
    with contextlib.ExitStack() as opened, channel:
        slow = fill_connection(opened)
        signal_process(pid, signal.SIGSTOP)
        socket.send_fds(channel, [message], [slow] * FDS["turn"][0])
        os.close(slow)  # which does not wait: the message has it
        signal_process(pid, signal.SIGCONT)
        with contextlib.suppress(ConnectionResetError):
            assert channel.recv(1) == b""
        until(lambda: not Path(f"/proc/{pid}").exists(), "the end")


def test_no_more_turns_than_the_configuration_has(launchers: Launchers) -> None:
    """A handler that was taken over can't start more; the place of a turn is free once its runner has ended."""
    text, waiting = launchers.config.read_text(), launchers.directory / "waiting"
    waiting.write_text("#!/bin/sh\nexec sleep 600\n")
    waiting.chmod(0o755)
    launchers.config.write_text(text.replace('"/bin/true"', f'"{waiting}"\nmax_turns_at_once = 1'))
    _, channel = launchers.open()
    try:
        with channel, contextlib.ExitStack() as opened:
            assert LauncherClient(channel).check() == ""

            def send(digit: str) -> tuple[socket.socket, socket.socket, bytes]:
                """Ask for a turn; return its control, its reply and what that said."""
                key, sid = digit * 32, SID[:-1] + digit
                fds = open_own(launchers, key, sid)
                for fd in fds.values():
                    opened.callback(os.close, fd)
                fcntl.flock(fds["log"], fcntl.LOCK_EX)
                fcntl.flock(fds["lock"], fcntl.LOCK_EX)
                (control, theirs), (reply, their_reply) = (
                    socket.socketpair(),
                    socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET),
                )
                for each in (control, reply):
                    opened.enter_context(each).settimeout(60)
                with theirs, their_reply:
                    sent = [fds["log"], fds["lock"], theirs.fileno(), fds["target"], fds["transcripts"]]
                    message = encode_turn(key, sid, False, "devvm", "hello")
                    socket.send_fds(channel, [message], [their_reply.fileno(), *sent])
                return control, reply, reply.recv(1024)

            control, reply, output = send("1")
            assert output == b"+"
            assert send("2")[2] == b"!the launcher runs 1 turns already"
            control.close()
            assert reply.recv(1) == b""  # the runner has ended
            control, reply, output = send("3")
            assert output == b"+"
            control.close()
            assert reply.recv(1) == b""  # it has begun and ended, so its directory has been made
    finally:
        launchers.config.write_text(text)
    until(lambda: not any((launchers.sessions / "work").iterdir()), "the removal")


def test_another_user_is_refused(tmp_path: Path) -> None:
    """The kernel says who sends, and only the handler's own user is heard."""
    others = Launchers(tmp_path, uid=65533)
    try:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            attempt(others, b"check", [theirs.fileno()])
        assert others.logged() == ["a message came from user 0"]
    finally:
        others.close()


def open_own(launchers: Launchers, key: str = KEY, sid: str = SID) -> dict[str, int]:
    """Return the descriptors of a turn that begins a session, as the handler makes them."""
    turn, transcripts = launchers.sessions / "turns" / key, launchers.sessions / "transcripts"
    turn.mkdir(exist_ok=True)
    paths = {"log": turn / "log", "lock": launchers.sessions / "locks" / sid, "target": transcripts / f"{sid}.new"}
    found = {name: os.open(path, os.O_RDWR | os.O_CREAT) for name, path in paths.items()}
    return found | {"transcripts": os.open(transcripts, os.O_RDONLY)}


def open_link(launchers: Launchers) -> int:
    """Put a link to a file of the system in the place of the log, and return the descriptor of that file."""
    path = launchers.sessions / "turns" / KEY / "log"
    path.unlink()
    path.symlink_to("/proc/self/oom_score_adj")
    return os.open(path, os.O_RDWR)


FOREIGN: dict[str, tuple[str, Callable[[Launchers], int]]] = {
    "another log": ("log", lambda launchers: os.open(launchers.directory / "other", os.O_RDWR | os.O_CREAT)),
    "a link for a log": ("log", open_link),
    "a device for a lock": ("lock", lambda _: os.open("/dev/null", os.O_RDWR)),
    "another transcript": ("target", lambda launchers: os.open(launchers.config, os.O_RDWR)),
    "another directory": ("transcripts", lambda _: os.open("/etc", os.O_RDONLY)),
    "a file for a directory": ("transcripts", lambda launchers: os.open(launchers.config, os.O_RDONLY)),
}


@pytest.mark.parametrize("name", sampled(["", *FOREIGN], "", "a link for a log"))
def test_only_the_turns_own_files_are_written(launchers: Launchers, name: str) -> None:
    """One descriptor of another file, or a link to one, and no turn starts; with the turn's own, one does."""
    _, channel = launchers.open()
    with channel:
        client = LauncherClient(channel)
        assert client.check() == ""
        (launchers.sessions / "turns" / KEY / "log").unlink(missing_ok=True)
        fds = open_own(launchers)
        if name:
            place, open_other = FOREIGN[name]
            os.close(fds[place])
            fds[place] = open_other(launchers)
        ours, theirs = socket.socketpair()
        reply, their_reply = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs, reply, their_reply:
            sent = [their_reply.fileno(), fds["log"], fds["lock"], theirs.fileno(), fds["target"], fds["transcripts"]]
            socket.send_fds(channel, [GOOD], sent)
            their_reply.close()
            reply.settimeout(60)
            assert reply.recv(1024)[:1] == (b"!" if name else b"+")
            assert reply.recv(1) == b""  # the runner has ended, if there was one
        for fd in fds.values():
            os.close(fd)
    until(lambda: not any((launchers.sessions / "work").iterdir()), "the removal")
    if name:
        assert "a descriptor is not" in launchers.logged()[-1]
        assert not (launchers.directory / "other").exists() or not (launchers.directory / "other").read_bytes()


def test_what_is_removed_is_below_the_sessions(launchers: Launchers) -> None:
    """A removal takes the directory of one turn, and nothing by a link."""
    _, channel = launchers.open()
    with channel:
        client = LauncherClient(channel)
        assert client.check() == ""
        place, kept = launchers.sessions / "work" / KEY, launchers.directory / "kept"
        place.mkdir()
        (place / "file").touch()
        client.remove(f"work/{KEY}")
        assert not place.exists()
        client.remove(f"work/{KEY}")  # it is gone already
        kept.mkdir()
        (kept / "file").touch()
        place.symlink_to(kept)
        with pytest.raises(LauncherError):
            client.remove(f"work/{KEY}")
        assert (kept / "file").exists()
        place.unlink()
        with pytest.raises(LauncherError):
            client.remove("turns")


def test_a_directory_of_others_is_left_alone(launchers: Launchers) -> None:
    """Root makes and changes nothing in a sessions.dir that has other files, such as `/`; an empty volume is good."""
    _, channel = launchers.open()
    text, volume = launchers.config.read_text(), launchers.directory / "volume"
    volume.mkdir(mode=0o711)
    work = volume / "work"
    work.mkdir(mode=0o750)
    with channel:
        client = LauncherClient(channel)
        launchers.config.write_text(text.replace(str(launchers.sessions), str(volume)))
        try:
            assert f"sessions.dir, {volume}, has files of others and none of ours" in client.check()
            assert (os.listdir(volume), work.stat().st_mode & 0o7777) == (["work"], 0o750)
            work.rename(volume / "lost+found")
            assert client.check() == ""
        finally:
            launchers.config.write_text(text)
    assert {"turns", "id", "lost+found"} <= set(os.listdir(volume))


def test_a_configuration_that_the_handler_could_write_is_not_followed(launchers: Launchers) -> None:
    """Root starts nothing that another user wrote down, and makes nothing where another user can put a link."""
    _, channel = launchers.open()
    credential, real, text = (
        launchers.directory / "credential",
        launchers.directory / "real",
        launchers.config.read_text(),
    )
    (real / "below").mkdir(parents=True)
    theirs = launchers.directory / "theirs"
    theirs.mkdir()
    os.chown(theirs, 1, 1)
    (theirs / "credential").symlink_to(credential)
    (theirs / "link").symlink_to(real / "below")
    with channel:
        client = LauncherClient(channel)
        os.chown(credential, 1, 0)
        try:
            assert f"can write or replace {credential}; chown root {credential}; chmod 640" in client.check()
        finally:
            os.chown(credential, 0, 0)
        try:
            launchers.config.write_text(text.replace(str(credential), str(theirs / "credential")))
            assert f"can write or replace {theirs}/credential; chown root {theirs}; chmod 755" in client.check()
            launchers.config.write_text(text.replace(str(launchers.sessions), str(theirs / "link/sessions")))
            assert f"sessions.dir and all directories above it must be root's: chown root {theirs}" in client.check()
            assert list((real / "below").iterdir()) == []
            launchers.config.write_text(text.replace(str(launchers.sessions), str(real / "below/sessions")))
            assert client.check() == ""
        finally:
            launchers.config.write_text(text)


def test_nothing_starts_without_a_good_check(launchers: Launchers) -> None:
    """A sender that leaves the check out, or goes on after a bad one, gets nothing done, also while it still runs."""
    _, channel = launchers.open()
    with channel:
        client = LauncherClient(channel)
        with pytest.raises(LauncherError, match="did not show"):
            client.remove(f"work/{KEY}")
        os.chmod(launchers.config, 0o660)
        try:
            reply, their_reply = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with reply, their_reply:
                socket.send_fds(channel, [b"check"], [their_reply.fileno()])
                with pytest.raises(LauncherError, match="did not show"):
                    client.remove(f"work/{KEY}")
        finally:
            os.chmod(launchers.config, 0o600)
        assert client.check() == ""
        client.remove(f"work/{KEY}")


LEFT_BEHIND = """
import os, sys
from breakglass.claude.launcher import start_launcher
channel = start_launcher((1, 1), lambda: sys.exit("no configuration"))
channel.settimeout(60)
if os.fork():
    os._exit(0)
print(channel.recv(1))
"""


def test_the_launcher_works_for_nobody_who_outlives_the_handler() -> None:
    """A process that a handler started, and that has its socket, finds it closed once the handler has ended."""
    command = [sys.executable, "-c", LEFT_BEHIND]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert '"why": "the handler has ended"' in ran.stdout, ran
    assert ran.stdout.splitlines()[-1] == "b''"


# --- with a handler ---


@pytest.fixture
def claude(short_dir: Path) -> ScriptedClaude:
    return ScriptedClaude(short_dir)


@pytest.fixture
def talker(claude: ScriptedClaude, model: Model, short_dir: Path) -> Iterator[Talker]:
    with started(Talker(short_dir, model, chat=claude.chat)) as talker:
        yield talker


def launcher_of(talker: Talker) -> int:
    [pid] = [each for each in descendants(talker.process.pid)[:1] if status_of(each)["Uid"][0] == "0"]
    return pid


@pytest.mark.real("ptrace")
def test_who_answers_http_is_not_root_through_a_turn(talker: Talker, claude: ScriptedClaude) -> None:
    """Before a turn, while it runs, and after a reload: no process that answers HTTP can become root."""
    pid = assert_unprivileged(talker.port)
    with talker.open(prompt=fake({"text": "one two three four five six seven eight", "wait": "look"})) as stream:
        stream.until("text")
        assert assert_unprivileged(talker.port) == pid
        with talker.changed("[chat]", "[chat]\nturn_seconds = 900"):
            assert assert_unprivileged(talker.port) == pid
            claude.release("look")
            assert stream.rest()[-1]["ok"] is True
    launcher = status_of(launcher_of(talker))
    assert (launcher["Uid"], launcher["NoNewPrivs"]) == (["0"] * 4, ["1"])  # which its children inherit
    assert (talker.sessions.stat().st_uid, (talker.sessions / "work").stat().st_uid) == (0, 0)


def test_a_launcher_that_died_ends_chat_and_no_verb(talker: Talker, claude: ScriptedClaude) -> None:
    """/health and the answer say so; verbs go on, and a turn that runs comes to its end."""
    with talker.open(prompt=fake({"text": "one two three four five six seven eight", "wait": "die"})) as stream:
        stream.until("text")
        signal_process(launcher_of(talker), signal.SIGKILL)
        until(lambda: talker.health()["chat"] == "failed", "the end of chat")
        refused = talker.ask(prompt="hello")
        assert (refused.status, refused.json["error"]["code"]) == (503, "chat-disabled")
        assert "the launcher has ended" in refused.json["error"]["message"]
        assert talker.pve("status").json["outcome"] == "unreached"
        claude.release("die")
        assert stream.rest()[-1]["ok"] is True


def test_a_late_check_is_waited_for_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher that hangs finds one check when it goes on, and not one for each try; an old reply is no new one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client = LauncherClient(ours)
    with ours, theirs:
        monkeypatch.setattr(launcher, "CHECK_SECONDS", 0.1)
        for _ in range(3):
            with pytest.raises(LauncherLate, match=r"the launcher did not answer in 0\.1 s"):
                client.check()
        monkeypatch.setattr(launcher, "CHECK_SECONDS", 60.0)
        answer(theirs, NOT_ISOLATED + b"as it was")
        with pytest.raises(BlockingIOError):
            theirs.recv(1, socket.MSG_DONTWAIT)
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(client.check)
            answer(theirs, ACCEPTED)
            assert found.result() == ""


def answer(channel: socket.socket, reply: bytes) -> None:
    """Answer the next message, as a launcher does."""
    message, [fd], *_ = socket.recv_fds(channel, 100, 1)
    assert message == b"check"
    with socket.socket(fileno=fd) as end:
        end.send(reply)


@pytest.mark.all
def test_a_launcher_that_hangs_starts_no_turn(talker: Talker, claude: ScriptedClaude) -> None:
    """The turn has an end within seconds, and does not begin later; the session can be continued then."""
    claude.play(TEXT + RESULT)
    first = talker.chat("hello")
    pid = launcher_of(talker)
    signal_process(pid, signal.SIGSTOP)
    try:
        error = last_error(talker.chat("go on", session=first[0]["session"]))
        assert "the launcher did not answer in 5 s" in error["message"]
        assert talker.pve("status").json["outcome"] == "unreached"
    finally:
        signal_process(pid, signal.SIGCONT)
    again = talker.chat("go on", session=first[0]["session"])
    assert again[-1]["ok"] is True, again


class Unit:
    """The part of systemd in it: a connection to the socket starts `breakglass launcher`, unless one is running."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "launcher")
        self.started: list[subprocess.Popen[bytes]] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(self.path)
        os.chmod(self.path, 0o666)
        self._listener.listen()
        self._is_open = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        fd = self._listener.fileno()
        script = f'umask 077; exec 3<&{fd}; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
        command = ["/bin/bash", "-c", script, "sh", sys.executable, "-m", "breakglass", "launcher"]
        env = os.environ | {"BREAKGLASS_CONFIG": f"{Path(self.path).parent}/config"}
        while select.select([fd], [], []) and self._is_open:
            self.started.append(subprocess.Popen(command, pass_fds=[fd], env=env))
            self.started[-1].wait()

    def close(self) -> None:
        self._is_open = False
        self._listener.shutdown(socket.SHUT_RDWR)
        self.started[-1].terminate()
        self._thread.join(60)
        self._listener.close()


@pytest.mark.all
def test_the_launcher_as_a_unit_of_its_own(
    claude: ScriptedClaude, model: Model, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler connects to its socket; a launcher that was stopped is started by the next connection, at a reload."""
    short_dir.chmod(0o711)
    unit = Unit(short_dir)
    monkeypatch.setenv("BREAKGLASS_LAUNCHER", unit.path)
    try:
        talker = Talker(short_dir, model, chat=claude.chat)
        (short_dir / "config").symlink_to(talker.config)
        with started(talker):
            talker.change("shared_uid = true", "shared_uid = true ")
            assert talker.chat("hello")[-1]["ok"] is True
            assert talker.sessions.stat().st_mode & 0o777 == 0o711  # whatever the unit's umask
            assert [status_of(each)["Uid"][0] for each in descendants(talker.process.pid)] == []
            for pid in (unit.started[-1].pid, *descendants(unit.started[-1].pid)):  # as `systemctl stop` does
                with contextlib.suppress(ProcessLookupError):
                    signal_process(pid, signal.SIGTERM)
            until(lambda: talker.health()["chat"] == "failed", "the end of chat")
            assert "the launcher has ended" in talker.ask(prompt="hello").json["error"]["message"]
            talker.change("shared_uid = true ", "shared_uid = true")
            assert talker.chat("hello")[-1]["ok"] is True
    finally:
        unit.close()


def test_few_launchers_serve_one_user(short_dir: Path) -> None:
    """A handler that was taken over can't have a launcher, with turns of its own, for each connection."""
    (short_dir / "config").touch(0o600)
    (short_dir / "config").write_text('[server]\nuser = "daemon"\n')
    unit = Unit(short_dir)

    def connect(uid: int = 0) -> socket.socket:
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel.settimeout(60)
        os.seteuid(uid)
        try:
            channel.connect(unit.path)
        finally:
            os.seteuid(0)
        return channel

    def is_serving(pid: int) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return status_of(pid)["State"][0] != "Z"
        return False

    def serving() -> int:
        return sum(map(is_serving, descendants(unit.started[0].pid)))

    try:
        short_dir.chmod(0o711)
        with connect() as other:
            assert other.recv(1) == b""
        uid = pwd.getpwnam("daemon").pw_uid
        with contextlib.ExitStack() as stack:
            channels = [stack.enter_context(connect(uid)) for _ in range(12)]
            assert [channel.recv(1) for channel in channels[8:]] == [b""] * 4
            until(lambda: serving() == 8, "eight launchers")
            channels[0].close()
            until(lambda: serving() == 7, "the end of one")
            stack.enter_context(connect(uid))
            until(lambda: serving() == 8, "another one")
        until(lambda: serving() == 0, "the end of all")
        assert unit.started[0].poll() is None
    finally:
        unit.close()


def test_the_launcher_is_no_command_for_people() -> None:
    """Without a socket, also with one that was meant for another process, it says why and names the runbook."""
    environment = os.environ | {"LISTEN_FDS": "1", "LISTEN_PID": "1"}
    command = [sys.executable, "-m", "breakglass", "launcher"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, "no socket was passed" in ran.stderr, "breakglass docs runbook" in ran.stderr) == (
        2,
        True,
        True,
    )


@pytest.mark.parametrize(
    ("server", "words", "hint"),
    sampled(
        [
            ("", "does not know whose handler it works for", '[server] user = "breakglass"'),
            ('[server]\nuser = "no-such-user"\n', '"no-such-user", and there is no such user', "adduser"),
            ('[server]\nuser = "root"\n', '"root", which is root', "adduser"),
        ],
        ('[server]\nuser = "root"\n', '"root", which is root', "adduser"),
    ),
)
def test_a_launcher_without_a_handlers_user_says_what_to_write(
    tmp_path: Path, server: str, words: str, hint: str
) -> None:
    """It works for no account that it can't name, and not for root."""
    config = tmp_path / "breakglass.toml"
    config.touch(0o600)
    config.write_text(server)
    script = 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
    command = ["/bin/bash", "-c", script, "sh", sys.executable, "-m", "breakglass", "launcher"]
    env = os.environ | {"BREAKGLASS_CONFIG": str(config)}
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 2
    assert words in ran.stderr
    assert hint in ran.stderr
