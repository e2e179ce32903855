"""What the handler counts of turns: their ends, and what they spent. With a script in place of claude."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from breakglass.base import counts
from breakglass.chat.ended_turns import TurnSummary, read_summary
from breakglass.chat.sessions_dir import SessionsDisk
from breakglass.chat.turn_requests import TurnRequest
from breakglass.chat.turns import Chat
from breakglass.config.model import Address, ChatSettings, Host, Vm
from breakglass.server.counters import Counters

from ..support.rendered import counted

VM = Vm("devvm", 102, (Host("pve1", Address("breakglass", "127.0.0.1"), ""),))
REQUEST = TurnRequest(VM, "hello", "0b6f3f6a-3d0f-4d0e-9d0f-1c2f3a4b5c6d", turn="msg_12345678", caller="operator")
USAGE = {"inputTokens": 12, "outputTokens": 5, "cacheReadInputTokens": 700, "cacheCreationInputTokens": 30}
RESULT = {
    "type": "result",
    "subtype": "success",
    "is_error": False,
    "result": "fin",
    "num_turns": 1,
    "duration_ms": 1,
    "model_usage_since_last_result": {"a-model": {**USAGE, "costUSD": 0.25}},
}
SPENT = {"input": 12, "output": 5, "cache_read": 700, "cache_write": 30}


def settings(directory: Path, script: str) -> ChatSettings:
    program = directory / "claude"
    program.write_text(f"#!/bin/bash\n{script}\n")
    program.chmod(0o755)
    return ChatSettings(str(directory / "sessions"), str(program), shared_uid=True)


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> Counters:
    """What counts for the time of a test."""
    monkeypatch.setattr(counts, "in_use", found := Counters())
    return found


async def run(chat: Chat, *requests: TurnRequest) -> None:
    """Begin turns that no client follows, and wait until all of them have ended."""
    for request in requests:
        await chat.begin(request)
    async with asyncio.timeout(60):
        while chat.running:
            await next(iter(chat.running.values())).collected.wait()


async def test_a_turn_that_no_client_follows_is_counted(short_dir: Path, counters: Counters) -> None:
    """With its tokens by kind and its cost, from claude's own result. The same request again counts nothing."""
    chat = Chat(settings(short_dir, f"cat >/dev/null; echo '{json.dumps(RESULT)}'"), SessionsDisk())
    spent = {f"turn_tokens_total{{kind={kind}}}": count for kind, count in SPENT.items()}
    for _ in range(2):
        await run(chat, REQUEST)
        assert counted(counters) == {"turns_total{outcome=ok}": 1, **spent, "turn_cost_dollars_total": 0.25}


async def test_a_turn_that_fails_is_counted_by_its_code(short_dir: Path, counters: Counters) -> None:
    """It has no result, so it has spent nothing that is known."""
    await run(Chat(settings(short_dir, "exit 3"), SessionsDisk()), REQUEST)
    assert counted(counters) == {"turns_total{outcome=claude-crashed}": 1}


async def test_a_turn_that_does_not_begin_is_counted_once(short_dir: Path, counters: Counters) -> None:
    """No place, or the handler stops: the request is refused, and stays so when it is sent again."""
    full = Chat(replace(settings(short_dir, "exit 3"), max_turns_at_once=0), SessionsDisk())
    await run(full, REQUEST, REQUEST)
    await full.stop()
    await run(full, replace(REQUEST, turn="msg_another_one"))
    assert counted(counters) == {"turns_total{outcome=busy}": 1, "turns_total{outcome=shutting-down}": 1}


async def test_a_turn_whose_runner_can_not_start_is_counted(short_dir: Path, counters: Counters) -> None:
    """Its transcript can't be written."""
    chat = Chat(settings(short_dir, "exit 3"), SessionsDisk())
    await chat.prepare()
    (short_dir / f"sessions/transcripts/{REQUEST.sid}.new").mkdir()
    await run(chat, REQUEST)
    assert counted(counters) == {"turns_total{outcome=claude-crashed}": 1}


DONE = b'{"type":"done","n":9,"ok":false}\n'
ERROR = b'{"type":"error","n":8,"code":"turn-timeout","message":"m","hint":"h"}\n'
WELL = b'{"type":"result","n":7,"ok":true,"text":"t","cost_usd":0.5,"tokens":{"input":3}}\n'
LOGS = {
    "nothing": (b"", TurnSummary("ok", {}, 0.0)),
    "no result": (ERROR + DONE, TurnSummary("turn-timeout", {}, 0.0)),
    "a result and an error": (WELL + ERROR + DONE, TurnSummary("turn-timeout", {"input": 3}, 0.5)),
    "a result whose beginning is cut": (WELL[9:] + DONE, TurnSummary("ok", {}, 0.0)),
    "an earlier event that looks like one": (WELL + DONE * 3, TurnSummary("ok", {}, 0.0)),
    "numbers that are none": (
        WELL.replace(b"0.5", b"-1").replace(b"3", b"true") + DONE,
        TurnSummary("ok", {"input": 0.0}, 0.0),
    ),
    "a huge number": (WELL.replace(b"3", b"9" * 30) + DONE, TurnSummary("ok", {"input": 0.0}, 0.5)),
    "no table of tokens": (WELL.replace(b'{"input":3}', b"3") + DONE, TurnSummary("ok", {}, 0.5)),
}


@pytest.mark.parametrize(("log", "expected"), LOGS.values(), ids=LOGS)
def test_the_end_of_a_log(log: bytes, expected: TurnSummary) -> None:
    """Only its last events count, and only numbers that a counter can take."""
    assert read_summary(log) == expected
