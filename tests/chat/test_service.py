"""Chat reports why it does not work, if a part is missing, after a reload or after a defect; verbs still work."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from breakglass.chat.request import ChatDisabled, ChatNotIsolated
from breakglass.chat.service import PLACE, ChatService
from breakglass.config.model import ChatSettings, Config
from breakglass.config.model_api import ModelApi
from breakglass.server.condition import GENERAL

from ..support.model import Model
from ..support.scripted_claude import ScriptedClaude
from ..support.service import Reply
from ..support.sshd import Sshd
from ..support.talk import Talker, fake, last_error

pytestmark = pytest.mark.slow

OFTEN = "from breakglass.chat import service, database; service.LOOK_SECONDS = 0.05; database.SECONDS = 10.0"
WAITING = {"text": "one two three four five six seven eight", "wait": "reload"}


@pytest.fixture(scope="module")
def talker(claude: ScriptedClaude, model: Model, directory: Path) -> Iterator[Talker]:
    """A handler for all tests, which looks often; a test that changes something changes it back."""
    with Talker(directory, model, chat=claude.chat, patched=OFTEN) as talker:
        talker.wait_for_chat("on")
        yield talker


def refusal(reply: Reply) -> tuple[int, str]:
    return reply.status, reply.json["error"]["code"]


def states(talker: Talker) -> list[tuple[str, str, str]]:
    """Return the log's lines about chat: the event, the state and why."""
    lines = [json.loads(line) for line in talker.log().splitlines()]
    return [(line["event"], line["state"], line["why"]) for line in lines if line["event"] in ("chat-up", "chat-down")]


@contextlib.contextmanager
def moved(path: Path) -> Iterator[None]:
    away = path.with_name(f"{path.name}-away")
    path.rename(away)
    try:
        yield
    finally:
        away.rename(path)


def program(talker: Talker) -> Path:
    [line] = [line for line in talker.config.read_text().splitlines() if line.startswith("command = ")]
    return Path(json.loads(line.removeprefix("command = ")))


@pytest.mark.parametrize("code", ["claude-missing", "sessions-unwritable"])
def test_what_goes_away_and_comes_back(talker: Talker, code: str) -> None:
    """In this time, the state has a code, /ready a reason, the log a line with the path, and verbs are answered.

    The last check may be old, so the turn itself says what it lacks.
    """
    before, ups = len(states(talker)), talker.log().count('"chat-up"')
    with moved(program(talker) if code == "claude-missing" else talker.sessions):
        talker.wait_for_chat(code)
        health = talker.health()
        assert (health["chat_isolated"], health["chat_started_by"]) == (None, "handler")
        assert GENERAL["chat-down"] in talker.send("GET", "/ready").json["reasons"]
        assert talker.pve("status").json["outcome"] == "unreached"
        if code == "claude-missing":
            assert last_error(talker.chat("hello"))["code"] == code
        else:
            assert refusal(talker.ask(prompt="hello")) == (503, code)
    talker.wait_for_chat("on")
    assert talker.health()["chat_isolated"] is True
    talker.logged('"chat-up"', times=ups + 1)
    [(down, state, why), *_, up] = states(talker)[before:]
    assert (down, state, up) == ("chat-down", code, ("chat-up", "on", ""))
    assert str(talker.directory) in why
    assert talker.chat("hello")[-1]["ok"] is True


def test_chat_is_switched_off_by_a_reload(talker: Talker, claude: ScriptedClaude) -> None:
    """A turn that runs continues to its end, or can be stopped; chat is on again after another reload."""
    with talker.open(prompt=fake(WAITING)) as stream, talker.open(prompt=fake({**WAITING, "wait": "never"})) as other:
        stream.until("text")
        other.until("text")
        with talker.changed("command =", "commando ="):
            health = talker.health()
            assert (health["chat"], health["chat_isolated"], health["chat_started_by"]) == ("disabled", None, None)
            assert (
                refusal(talker.ask(prompt="hello")) == refusal(talker.ask(attach=stream.turn)) == (503, "chat-disabled")
            )
            assert talker.pve("status").json["outcome"] == "unreached"
            claude.release("reload")
            assert stream.rest()[-1]["ok"] is True
            assert talker.ask(cancel=other.turn).json == {"cancelled": other.turn}
            assert last_error(other.rest())["code"] == "cancelled"
    talker.wait_for_chat("on")
    with talker.open(attach=stream.turn) as again:
        assert again.rest() == stream.seen


def test_a_callers_vms_hold(talker: Talker) -> None:
    """A caller without the VM, or from whom it was taken, gets no turn for it."""
    first = talker.chat("hello")[0]
    text = talker.config.read_text()
    twin = text[text.index("[vms.devvm]") : text.index("[sessions]")].replace("devvm", "twin").replace("102", "103")
    with talker.changed("[sessions]\n", f"{twin}\n[sessions]\n"):
        assert refusal(talker.ask(prompt="which?")) == (400, "bad-request")
        with talker.changed("[callers.operator]\n", '[callers.operator]\nvms = ["twin"]\n'):
            assert refusal(talker.ask(prompt="hello", vm="devvm")) == (403, "forbidden")
            assert refusal(talker.ask(prompt="go on", session=first["session"])) == (403, "forbidden")
            assert refusal(talker.ask(attach=first["turn"])) == (404, "turn-unknown")
            assert talker.chat("hello", vm="twin")[-1]["ok"] is True


@pytest.mark.parametrize(
    ("answer", "state", "error"),
    [
        ({"fault": ""}, "on", None),
        ({"fault": "no namespaces", "code": "sandbox-refused", "fix": "sysctl"}, "chat-not-isolated", ChatNotIsolated),
        (None, "failed", ChatDisabled),
    ],
)
async def test_where_turns_run_is_tried(
    monkeypatch: pytest.MonkeyPatch, short_dir: Path, answer: object, state: str, error: type[ChatDisabled] | None
) -> None:
    """Chat is on once a probe found walls there; what it found is said with the line that helps."""

    async def probe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert json.loads(await reader.readline())["probe"] == "wall"
        writer.write(json.dumps(answer).encode() + b"\n")
        writer.close()

    monkeypatch.setenv(PLACE, str(short_dir / "turns"))
    settings = ChatSettings(str(short_dir / "sessions"), ModelApi("ANTHROPIC_API_KEY", "sk"), "/bin/true")
    service = ChatService()
    async with await asyncio.start_unix_server(probe, short_dir / "turns"):
        await service.use(Config((), {}, {}, ("k" * 32,), chat=settings))
    assert (service.state, service.started_by) == (state, "systemd")
    with pytest.raises(error) if error else contextlib.nullcontext() as caught:
        await service.chat()
    if error and isinstance(answer, dict):
        assert caught
        assert (answer["fault"] in str(caught.value), caught.value.hint) == (True, answer["fix"])
    chat = await service.chat(stops=True)
    await service.stop()
    await chat.disk.run(chat.store.close)


async def test_chat_is_disabled_at_this_handler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """BREAKGLASS_CHAT=off disables chat, whatever the configuration has."""
    monkeypatch.setenv(PLACE, "off")
    service = ChatService()
    settings = ChatSettings(str(tmp_path), ModelApi("ANTHROPIC_API_KEY", "sk"), "/bin/true")
    await service.use(Config((), {}, {}, ("k" * 32,), chat=settings))
    assert (service.state, service.started_by) == ("none", None)
    with pytest.raises(ChatDisabled, match="disabled at this handler"):
        await service.chat()
    await service.stop()


@pytest.mark.all
@pytest.mark.real("sshd")
def test_chat_that_can_not_be_imported_stops_no_verb(sshd: Sshd, model: Model, directory: Path) -> None:
    """A library of chat's alone is broken: chat is disabled with the reason in the log, and a verb reaches its host."""
    (directory / "itsdangerous.py").write_text('raise ImportError("half an upgrade")')
    (directory / "itsdangerous.py").chmod(0o644)
    directory.chmod(0o755)
    broken = f"sys.path.insert(0, {str(directory)!r})"
    with Talker(sshd.world.directory, model, host=sshd, patched=broken) as talker:
        talker.answering()
        talker.wait_for_chat("failed")
        health = talker.health()
        assert (health["ok"], health["chat"], health["chat_isolated"]) == (True, "failed", None)
        assert refusal(talker.ask(prompt="hello")) == (503, "chat-disabled")
        assert talker.pve("status").json["state"] == "running"
        assert talker.pve("reset").json["outcome"] == "done"
        assert "half an upgrade" in talker.logged('"chat-failed"')
