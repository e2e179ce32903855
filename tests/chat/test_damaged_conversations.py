"""Conversations whose files are damaged, many, large, or changed while they are read: each costs itself alone."""

import asyncio
import gc
import json
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from breakglass.chat import replay as replaying
from breakglass.chat.conversations import MOST_BYTES, find_conversation, list_conversations, note_turn
from breakglass.chat.replay import ConversationReader
from breakglass.chat.sessions import LIFETIME
from breakglass.chat.sessions_dir import SessionsDisk
from breakglass.chat.store import Store
from breakglass.chat.turn_requests import TurnRequest
from breakglass.claude.events import encode_event
from breakglass.config.model import Address, Host, Vm

VM = Vm("devvm", 102, (Host("pve1", Address("breakglass", "127.0.0.1"), ""),))
RESULT = {"type": "result", "n": 2, "cost_usd": 0.5}
DONE = {"type": "done", "n": 3, "ok": True}


def request(number: int, turn: str, prompt: str = "hello") -> TurnRequest:
    sid = f"0b6f3f6a-3d0f-4d0e-9d0f-{number:012}"
    return TurnRequest(VM, prompt, sid, turn=turn, caller="operator", typed=prompt)


def begin(store: Store, each: TurnRequest, *rest: dict[str, Any]) -> tuple[Path, int]:
    """Begin a turn, write the rest of its log, and return its directory and the log, which is locked."""
    turn_dir = store.turn_dir("operator", each.turn)
    log, lock = store.claim(turn_dir, each.record, {"type": "session", "n": 1}), store.lock(each.sid)
    assert log is not None
    assert lock is not None
    store.note_turn(turn_dir, each)
    os.write(log, b"".join(map(encode_event, rest)))
    os.close(lock)
    return turn_dir, log


def ended(store: Store, each: TurnRequest, *rest: dict[str, Any]) -> Path:
    turn_dir, log = begin(store, each, *(rest or (RESULT, DONE)))
    os.close(log)
    return turn_dir


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def of(store: Store) -> ConversationReader:
    return ConversationReader(store, SessionsDisk(), "operator", ["k" * 32], "")


def listed(store: Store) -> list[dict[str, Any]]:
    return asyncio.run(of(store).find_all(lambda _: True, time.time()))


def replayed(store: Store, sid: str, meanwhile: Callable[[], object] = lambda: None) -> list[dict[str, Any]]:
    async def read() -> bytes:
        replay = of(store)
        found = await replay.find(sid, "devvm")
        meanwhile()
        return b"".join([line async for line in replay.lines(found)])

    return [json.loads(line) for line in asyncio.run(read()).splitlines()]


def turns(lines: list[dict[str, Any]]) -> list[str]:
    return [line["turn"] for line in lines if line["type"] == "turn"]


def refuse_again(store: Store, turn_dir: Path) -> None:
    """As a turn whose logs were removed, and whose id then came again while the handler was busy."""
    (turn_dir / "log").unlink()
    (turn_dir / "about.json").unlink()
    turn_dir.rmdir()
    assert store.refuse("operator", turn_dir, {"vm": "devvm", "digest": "x"}, [DONE])


def make_directory(_: Store, turn_dir: Path) -> None:
    (turn_dir / "log").unlink()
    (turn_dir / "log").mkdir()


@pytest.mark.parametrize("damage", [refuse_again, make_directory])
def test_a_turn_without_its_log_costs_itself(store: Store, damage: Callable[[Store, Path], None]) -> None:
    """The list still has its conversation and the others, and the replay the other turns."""
    each = request(0, "msg_11111111")
    ended(store, each)
    damage(store, ended(store, request(0, "msg_22222222")))
    ended(store, request(1, "msg_33333333"))
    assert [found["turn"] for found in listed(store)] == [None, None]
    lines = replayed(store, each.sid)
    assert (turns(lines), lines[-1]["left_out"], lines[-1]["cost_usd"]) == (["msg_11111111"], 1, 0.5)


@pytest.mark.parametrize("about", [b"", b"[]", b'{"prompt": "', b"\xff", b"{}"])
def test_a_prompt_that_is_damaged_is_empty(store: Store, about: bytes) -> None:
    """After a power failure, a file that was new can be empty."""
    each = request(0, "msg_11111111")
    (ended(store, each) / "about.json").write_bytes(about)
    lines = replayed(store, each.sid)
    assert [line["type"] for line in lines] == ["turn", "session", "result", "done", "replayed"]
    assert lines[0]["prompt"] == ""


def test_prompts_count_and_are_not_held(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that reads slowly holds none of them in the handler; and they are a part of what a replay may have."""
    size = 200_000
    for number in range(20):
        ended(store, request(0, f"msg_1111111{number:02}", "x" * size))
    sid, replay = request(0, "").sid, of(store)
    tracemalloc.start()
    try:
        found = asyncio.run(replay.find(sid, "devvm"))
        gc.collect()
        held = [trace.size for trace in tracemalloc.take_snapshot().traces if trace.size >= size]
    finally:
        tracemalloc.stop()
    assert (len(found.turns), len(held) < 5) == (20, True), held  # other threads may have a large block or two
    monkeypatch.setattr(replaying, "MOST_BYTES", 5 * size)
    lines = replayed(store, sid)
    assert (len(turns(lines)), lines[-1]["left_out"], lines[-1]["cost_usd"]) == (4, 16, 10.0)


def test_a_turn_that_ends_during_its_replay_is_not_under_way(store: Store) -> None:
    """Its `done` was sent, so nothing is left to attach to, and its cost counts."""
    each = request(0, "msg_11111111")
    _, log = begin(store, each)

    def end() -> None:
        os.write(log, b"".join(map(encode_event, (RESULT, DONE))))

    lines = replayed(store, each.sid, end)
    os.close(log)
    assert lines[-2]["type"] == "done"
    assert (lines[-1]["turn"], lines[-1]["cost_usd"]) == (None, 0.5)


def test_a_turn_that_is_removed_during_a_replay_is_left_out(store: Store) -> None:
    """Another handler prunes the oldest turns at any time."""
    each = request(0, "msg_11111111")
    first = ended(store, each)
    ended(store, request(0, "msg_22222222"))

    def remove() -> None:
        for name in ("log", "about.json"):
            (first / name).unlink()
        first.rmdir()

    lines = replayed(store, each.sid, remove)
    assert (turns(lines), lines[-1]["left_out"]) == (["msg_22222222"], 1)


def test_a_killed_turn_is_not_listed_as_under_way(store: Store) -> None:
    """While its log is locked it is; then no process will write its end."""
    _, log = begin(store, request(0, "msg_11111111"))
    assert [each["turn"] for each in listed(store)] == ["msg_11111111"]
    os.close(log)
    assert [each["turn"] for each in listed(store)] == [None]


def test_a_conversation_that_no_token_continues_is_not_listed(store: Store, tmp_path: Path) -> None:
    """A handler without turns prunes nothing, so its file may still be there."""
    old = request(0, "msg_11111111")
    ended(store, old)
    ended(store, request(1, "msg_22222222"))
    [file] = tmp_path.rglob(f"conversations/*/{old.sid}")
    file.unlink()
    note_turn(tmp_path / "conversations", "0" * 32, old, time.time() - LIFETIME - 60)
    assert [each["id"] for each in listed(store)] == [request(1, "").sid]


def test_only_the_newest_are_listed(store: Store) -> None:
    """A hundred, though the first of them have no VM that the caller may see."""
    for number in range(130):
        ended(store, request(number, f"msg_11111{number:03}"), DONE)
    assert [each["id"][-3:] for each in listed(store)] == [f"{number:03}" for number in range(129, 29, -1)]


# --- the file of a conversation ---


@pytest.mark.parametrize("at", ["NaN", "Infinity", "-1e300", "1e300", "1e400"])
def test_a_time_that_is_none_costs_its_line(tmp_path: Path, at: str) -> None:
    note_turn(tmp_path, "0" * 32, request(0, "msg_11111111"), 10.0)
    [file] = [path for path in tmp_path.rglob("*") if path.is_file()]
    with file.open("a") as end:
        end.write(f'["msg_22222222", "{"1" * 32}", {at}, ""]\n')
    [found] = list_conversations(tmp_path, "operator")
    assert [said.turn for said in found.turns] == ["msg_11111111"]


@pytest.mark.parametrize("first", [b'{"vm": "dev', b"\0" * 200, b"\n\n"])
def test_a_first_line_that_was_lost_is_written_again(tmp_path: Path, first: bytes) -> None:
    """With the next turn, the conversation is listed again."""
    each = request(0, "msg_11111111")
    note_turn(tmp_path, "0" * 32, each, 10.0)
    [file] = [path for path in tmp_path.rglob("*") if path.is_file()]
    file.write_bytes(first)
    assert list_conversations(tmp_path, "operator") == []
    note_turn(tmp_path, "1" * 32, request(0, "msg_22222222", "and now?"), 20.0)
    note_turn(tmp_path, "2" * 32, request(0, "msg_33333333", "again"), 30.0)
    found = find_conversation(tmp_path, "operator", each.sid)
    assert found is not None
    assert (found.vm, found.words, len(found.turns)) == ("devvm", "and now?", 2)


def test_what_is_no_file_is_no_conversation(tmp_path: Path) -> None:
    """A pipe would keep its reader for ever, and a link leads elsewhere."""
    note_turn(tmp_path, "0" * 32, request(0, "msg_11111111"), 10.0)
    [file] = [path for path in tmp_path.rglob("*") if path.is_file()]
    os.mkfifo(file.with_name(request(1, "").sid))
    file.with_name(request(2, "").sid).mkdir()
    file.with_name(request(3, "").sid).symlink_to(file)
    assert [each.sid for each in list_conversations(tmp_path, "operator")] == [request(0, "").sid]


def test_words_are_plain_and_on_one_line(tmp_path: Path) -> None:
    """Neither a terminal nor a reader is deceived by them, and blanks at the beginning hide nothing."""
    prompt = " \n" * 3000 + "\x1b]0;owned\x07why\u2028is\x9b2J \u202eit\u2069\x00 hung?\x7f"
    note_turn(tmp_path, "0" * 32, request(0, "msg_11111111", prompt), 10.0)
    [found] = list_conversations(tmp_path, "operator")
    assert found.words == "]0;owned why is 2J it hung?"


# --- pruning ---


def test_what_can_not_be_removed_costs_itself(store: Store, tmp_path: Path) -> None:
    """The others are removed all the same, until 256 MiB are left; what was asked counts, too."""
    third = MOST_BYTES // 3 + 1
    made = [ended(store, request(0, f"msg_1111111{number}")) for number in range(5)]
    for turn_dir, name in zip(made, ("log", "log", "about.json", "log", "log"), strict=True):
        os.truncate(turn_dir / name, third)  # with a hole, so that it takes no room
    [directory] = (tmp_path / "conversations").iterdir()
    (directory / "stray").mkdir()
    store.prune()
    assert [turn_dir.exists() for turn_dir in made] == [False, False, False, True, True]
