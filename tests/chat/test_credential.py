"""The credential of the model's API: claude, its commands and its files don't have it. With the real claude."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from breakglass.client import new_id
from breakglass.config.model_api import CREDENTIALS

from ..support.model import Model
from ..support.naps import behind_wall, find_processes, nap, outermost, parent
from ..support.signals import signal_process
from ..support.stages import until
from ..support.talk import Stream, Talker, answer_text, bash, fake, last_error, started

pytestmark = [pytest.mark.real("claude"), pytest.mark.all]

SECRET = "sk-ant-oat01-the-real-one"
PAUSE = {"text": "one two three four five six seven", "wait": "never"}


@pytest.fixture(scope="module")
def talker(model: Model, directory: Path) -> Iterator[Talker]:
    credential = f"# the key of the rescue\n\nANTHROPIC_API_KEY={SECRET}\n"
    with started(Talker(directory, model, credential=credential, chat="max_turns_at_once = 4")) as talker:
        yield talker


@contextlib.contextmanager
def paused(talker: Talker, *steps: Mapping[str, object]) -> Iterator[tuple[Stream, int]]:
    """Run a turn to the middle of its last step; yield its stream and claude's process."""
    with talker.open(prompt=fake(*steps)) as stream:
        try:
            stream.until("tool" if "tool" in steps[-1] else "text")
            claude = behind_wall(find_processes(f"--session-id={stream.seen[0]['id']}"))  # the others are its wall
            yield stream, claude
        finally:
            talker.ask(cancel=stream.turn)
            stream.rest()


def find_naps() -> list[int]:
    """Return the processes that sleep, without those which still start one."""
    return [pid for pid in find_processes(nap(61)) if read(pid, "cmdline").startswith(b"sleep\0")]


def read(pid: int, name: str) -> bytes:
    with contextlib.suppress(OSError):  # it has ended
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""


def variables(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(line.split("=", 1) for line in lines if line)


def shown(pid: int) -> bytes:
    """Return what a process has: its command line, its environment, its open files and its memory."""
    there = Path(f"/proc/{pid}")
    found = [(there / "cmdline").read_bytes(), (there / "environ").read_bytes()]
    for fd in (there / "fd").iterdir():
        with contextlib.suppress(OSError):
            if fd.stat().st_size and fd.is_file():
                found.append(fd.read_bytes())
    with (there / "mem").open("rb", 0) as memory:
        for line in (there / "maps").read_text().splitlines():
            begin, end = (int(number, 16) for number in line.split()[0].split("-"))
            writable = line.split()[1].startswith("rw")
            with contextlib.suppress(OSError, OverflowError, ValueError):
                if writable and end - begin <= 1 << 28:
                    found.append(os.pread(memory.fileno(), end - begin, begin))
    return b"".join(found)


@pytest.mark.real("root")
def test_claude_and_its_commands_have_no_credential(talker: Talker, model: Model) -> None:
    """Not in an environment, a command line, an open file or memory; what they have is this turn's token."""
    with paused(talker, bash(f"{nap(61)} | {nap(61)}")) as (stream, claude):
        until(lambda: len(find_naps()) == 2, "the command")
        token = variables(claude)["ANTHROPIC_API_KEY"]
        commands = find_processes(nap(61))  # what starts them is there for as long as they are
        assert token.encode() in shown(claude)  # so this looks where it is
        for pid in (claude, *commands):
            assert SECRET.encode() not in shown(pid)
        assert not [pid for pid in commands if token in variables(pid).values()]
        runner = parent(outermost(find_processes(f"--session-id={stream.seen[0]['id']}")))
        assert SECRET.encode() not in b"".join(
            Path(f"/proc/{runner}/{name}").read_bytes() for name in ("cmdline", "environ")
        )
        assert model.asked[-1].headers["x-api-key"] == SECRET
    until(lambda: not list((talker.sessions / "work").iterdir()), "the turn's directory is removed")
    own = talker.sessions.rglob("*")
    assert not [path for path in own if path.is_file() and SECRET.encode() in path.read_bytes()]
    last = new_id()
    talker.pve("status", msg_id=last)
    assert SECRET not in talker.logged(last)
    assert SECRET not in json.dumps(stream.seen)


@pytest.mark.parametrize("name", CREDENTIALS)
def test_each_kind_of_credential_works(model: Model, directory: Path, name: str) -> None:
    """The CLI sends the header of its kind, and the API sees the credential there."""
    with started(Talker(directory, model, credential=f"{name}={SECRET}")) as talker:
        assert answer_text(talker.chat(fake({"text": "in"}))) == "in"
    headers = model.asked[-1].headers
    found = {key: value for key, value in headers.items() if SECRET in value}
    assert found == ({"x-api-key": SECRET} if name == "ANTHROPIC_API_KEY" else {"authorization": f"Bearer {SECRET}"})
    assert ("oauth-" in headers["anthropic-beta"]) is (name == "CLAUDE_CODE_OAUTH_TOKEN")
    assert {"x-api-key", "authorization"} - set(found) == {"x-api-key", "authorization"} - set(headers)


def test_a_proxy_that_is_killed_ends_the_turn(talker: Talker) -> None:
    """The error says so, no process is left, and the session continues."""
    with talker.open(prompt=fake(PAUSE)) as stream:
        stream.until("text")
        found = find_processes(f"--session-id={stream.seen[0]['id']}")
        runner = parent(outermost(found))
        children = Path(f"/proc/{runner}/task/{runner}/children").read_text().split()
        [proxy] = {int(pid) for pid in children} - {*found}
        signal_process(proxy, signal.SIGKILL)
        error = last_error(stream.rest())
    assert (error["code"], "connection to the model API" in error["message"]) == ("claude-crashed", True)
    assert answer_text(talker.chat(fake({"text": "here"}), session=stream.seen[0]["session"])) == "here"
