"""Turns that start too late and clients that leave: the handler keeps nothing of them. Without claude."""

import asyncio
import contextlib
import json
import os
import time
from pathlib import Path

import pytest

from breakglass.chat import sessions_dir
from breakglass.chat.request import SessionsUnwritable
from breakglass.chat.sessions_dir import THREADS, SessionsDisk
from breakglass.chat.turn_requests import TurnRequest
from breakglass.chat.turns import Chat
from breakglass.config.model import Address, ChatSettings, Host, Vm

VM = Vm("devvm", 102, (Host("pve1", Address("breakglass", "127.0.0.1"), ""),))
REQUEST = TurnRequest(VM, "hello", "0b6f3f6a-3d0f-4d0e-9d0f-1c2f3a4b5c6d", turn="msg_12345678", caller="operator")


@pytest.fixture
def chat(short_dir: Path) -> ChatSettings:
    return ChatSettings(str(short_dir), "/bin/true", shared_uid=True)


async def read(chat: Chat, place: Path) -> list[dict[str, object]]:
    async with asyncio.timeout(60):
        return [json.loads(line) async for lines in chat.follow(place, 0) for line in lines.splitlines()]


async def test_a_turn_that_began_too_late_has_an_end(chat: ChatSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is slow, the client gets an error, and then the turn starts after all: it is stopped at once."""
    turns = Chat(chat, SessionsDisk())
    with monkeypatch.context() as patched:
        patched.setattr(sessions_dir, "SECONDS", 0)
        with pytest.raises(SessionsUnwritable):
            await turns.begin(REQUEST)
    place = turns.store.turn_dir(REQUEST.caller, REQUEST.turn)
    until = time.monotonic() + 60
    while not place.exists():
        assert time.monotonic() < until
        await asyncio.sleep(0.01)
    events = await read(turns, place)
    await turns.stop()
    assert (events[0]["type"], events[-1]["type"], events[-1]["ok"]) == ("session", "done", False)


async def test_clients_that_leave_leave_nothing_open(chat: ChatSettings) -> None:
    """At whatever step they leave. The power verbs need the same limited number of descriptors."""
    turns = Chat(chat, SessionsDisk())
    place = await turns.begin(REQUEST)
    assert (await read(turns, place))[-1]["type"] == "done"
    await turns.stop()
    turns = Chat(chat, SessionsDisk())
    await turns.metadata(place)
    before = len(os.listdir("/proc/self/fd"))
    for steps in range(40):
        client = asyncio.ensure_future(read(turns, place))
        for _ in range(steps % 8):
            await asyncio.sleep(0)
        client.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await client
    await turns.metadata(place)  # queued behind their reads
    assert len(os.listdir("/proc/self/fd")) <= before + THREADS


async def test_a_broken_directory_is_reported(chat: ChatSettings, short_dir: Path) -> None:
    """Attaching and cancelling name the fault, as starting a turn does."""
    (short_dir / "turns").write_text("no directory")
    turns = Chat(chat, SessionsDisk())
    place = turns.store.turn_dir(REQUEST.caller, REQUEST.turn)
    for call in (turns.metadata(place), turns.cancel(place), turns.begin(REQUEST)):
        with pytest.raises(SessionsUnwritable, match=r"directory|turn"):
            await call
