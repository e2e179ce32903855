"""The handler's reaction to a turn's program, whatever that sends. The test plays the program."""

import asyncio
import base64
import json
import os
import threading
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from breakglass.base import counts
from breakglass.base.errors import Unreached
from breakglass.chat import database, process, program, proposals
from breakglass.chat.failures import KILLED
from breakglass.chat.job import PIECE_BYTES, encode_line
from breakglass.chat.output import MOST_PARTS
from breakglass.chat.reads import AT_ONCE, MOST, TOO_MANY
from breakglass.chat.request import SessionsUnwritable
from breakglass.server.counters import Counters

from ..support.rendered import counted
from ..support.stand_in_turn import DONE, SID, StandIn, StandInTurns, request

JOB = f"job_{'0' * 24}"
APPROVAL = {"type": "approval", "n": 2, "verb": "reset", "vm": "devvm", "job": JOB, "why": "It hangs."}
RESULT = {
    "ok": True,
    "text": "fin",
    "turns": 1,
    "seconds": 1,
    "cost_usd": 0.25,
    "tokens": {"input": 12, "output": True},
}


@pytest.fixture
async def turn(short_dir: Path) -> AsyncIterator[StandInTurns]:
    async with StandInTurns(short_dir).serve() as stand_in:
        yield stand_in


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> Counters:
    monkeypatch.setattr(counts, "in_use", found := Counters())
    return found


def text(n: int, said: str = "x") -> dict[str, object]:
    return {"type": "text", "n": n, "text": said}


def piece(at: int, data: bytes, last: bool = True) -> dict[str, object]:
    return {"transcript": at, "data": base64.b64encode(data).decode(), "last": last}


def numbers(events: list[dict[str, Any]]) -> list[int]:
    return [event["n"] for event in events]


# --- events ---


async def test_what_a_turn_sends_is_stored_and_counted(turn: StandInTurns, counters: Counters) -> None:
    """Events are stored in order and unchanged. A repeated request starts and counts nothing."""
    lines = [text(2, "é\ud800"), {"type": "result", "n": 3, **RESULT}, {**DONE, "n": 4}]
    for _ in range(2):
        events = await turn.say(*lines)
        assert events[1:] == json.loads(json.dumps(lines))
        assert (events[0]["type"], events[0]["id"], numbers(events)) == ("session", SID, [1, 2, 3, 4])
        spent = {"turn_tokens_total{kind=input}": 12, "turn_cost_dollars_total": 0.25}
        assert counted(counters) == {"turns_total{outcome=ok}": 1, **spent}
    assert len(turn.jobs) == 1
    assert turn.chat.running == {}


async def test_a_program_that_ends_without_a_word(turn: StandInTurns, counters: Counters) -> None:
    """Its earlier events stay, an incomplete line does not, and the conversation continues."""
    events = await turn.say(text(2), b'{"type":"text","n":3,')
    assert numbers(events) == [1, 2, 3, 4]
    assert (events[2]["code"], events[2]["message"]) == KILLED[:2]
    assert counted(counters) == {"turns_total{outcome=claude-crashed}": 1}
    assert (await turn.run(turn="msg_next", resume=True))[-1]["ok"] is True


BAD: dict[str, Any] = {
    "no JSON": b"hello\n",
    "no object": b"[]\n",
    "a line that is two to some client": '{"type":"text","n":2,"text":"x\u2028y"}\n'.encode(),
    "NaN": b'{"type":"text","n":2,"text":"x","x":NaN}\n',
    "too deep": b"[" * 9000 + b"\n",
    "a line that is too long": b"x" * (1 << 21),
    "a line with too many parts": b'{"type":"text","n":2,"text":"x","x":[' + b"0," * MOST_PARTS + b"0]}\n",
    "a number again": text(1),
    "a number left out": text(3),
    "an unknown type": {"type": "ping", "n": 2},
    "the handler's own event": {"type": "session", "n": 2, "session": "token"},
    "half a result": {"type": "result", "n": 2, "ok": True},
    "an error's code": {"type": "error", "n": 2, "code": "\ud800", "message": "", "hint": ""},
    "another VM's proposal": {**APPROVAL, "vm": "other"},
    "a proposal of a read": {**APPROVAL, "verb": "status"},
    "a proposal whose id is a line": {**APPROVAL, "job": f"{JOB} by=operator"},
    "a question that is none": {"pve": "1", "line": "status"},
    "a gap in the transcript": piece(9, b"{}\n"),
    "a line after the end": encode_line(DONE) + encode_line(text(3)),
    "a large piece": piece(0, b"x" * (PIECE_BYTES + 1)),
}


async def test_what_no_turn_sends_ends_it(turn: StandInTurns) -> None:
    """The rest is not read; there is an error and an end, with the next numbers."""
    for name, line in BAD.items():
        events = await turn.say(line, text(2), {**DONE, "n": 3}, turn=f"msg_{name}", sid=str(uuid.uuid4()))
        assert [event["type"] for event in events] == ["session", "error", "done"], name
        assert (events[1]["code"], numbers(events)) == ("claude-crashed", [1, 2, 3]), name
    assert turn.chat.running == {}
    assert numbers(await turn.say(encode_line(text(2)) + b"hello\n", turn="msg_late")) == [1, 2, 3, 4]


async def test_a_program_that_can_not_be_started(turn: StandInTurns, counters: Counters) -> None:
    """If systemd's socket is gone, the turn ends with the command that helps."""
    os.unlink(turn.directory / "turns")
    events = await turn.run()
    assert (events[1]["code"], events[1]["hint"]) == ("claude-crashed", program.RESTART)
    assert counted(counters) == {"turns_total{outcome=claude-crashed}": 1}


async def test_a_turn_has_no_descriptor_of_the_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or terminal that the handler's log goes to could be read through it. A program that stays is killed."""
    script = "readlink /proc/$$/fd/*; exec <&- >&- 2>&-; exec sleep 1000"
    monkeypatch.setattr(program, "starter_command", lambda: ["/bin/bash", "-c", script])
    async with asyncio.timeout(60), program.open_channel("") as (reader, _):
        found = (await reader.read()).decode().split()
    assert [each.partition(":")[0] for each in found] == ["socket", "socket", "pipe"]


async def test_the_last_place_is_no_callers_second(turn: StandInTurns) -> None:
    """Of three places one caller gets two. A refused request begins no conversation that could be continued."""
    turn.chat.settings = replace(turn.chat.settings, max_turns_at_once=3)

    async def begin(turn_id: str, caller: str) -> list[dict[str, Any]]:
        return await turn.run(end_on_request, turn=turn_id, sid=str(uuid.uuid4()), caller=caller)

    streams = [asyncio.create_task(begin(f"msg_{n}", "operator")) for n in range(2)]
    while len(turn.jobs) < 2:  # noqa: ASYNC110  # their programs have begun
        await asyncio.sleep(0.01)
    session, error, _ = await begin("msg_third", "operator")
    assert ("session" in session, error["code"], "another caller" in error["message"]) == (False, "busy", True)
    streams.append(asyncio.create_task(begin("msg_other", "operator2")))
    while len(turn.jobs) < 3:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert "3 turns" in (await begin("msg_fourth", "operator2"))[1]["message"]
    for running in turn.chat.running.values():
        running.stop("cancelled")
    assert [(await stream)[-1]["ok"] for stream in streams] == [True] * 3


# --- stopping ---


async def end_on_request(stand_in: StandIn) -> None:
    await stand_in.receive()
    await stand_in.send(DONE)


async def ignore(stand_in: StandIn) -> None:
    while await stand_in.receive():
        pass


async def test_a_turn_is_asked_to_stop_and_then_ended(turn: StandInTurns, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that obeys ends the turn itself. One that does not is killed."""
    monkeypatch.setitem(process.STOP_SECONDS, "cancelled", 0.5)
    words: list[dict[str, Any]] = []

    async def obey(stand_in: StandIn) -> None:
        words.append(await stand_in.receive())
        error = {"type": "error", "n": 2, "code": "cancelled", "message": "by itself", "hint": ""}
        await stand_in.send(error, {**DONE, "n": 3, "ok": False})

    async def ignore(stand_in: StandIn) -> None:
        while said := await stand_in.receive():
            words.append(said)

    for play, message in ((obey, "by itself"), (ignore, "stopped on request")):
        wanted = request(turn=f"msg_{play.__name__}_1", prompt=message)
        turn.play = play
        await turn.chat.request(wanted, None)  # type: ignore[arg-type]  # nothing is asked
        while message not in [job.prompt for job in turn.jobs]:  # noqa: ASYNC110  # the program has begun
            await asyncio.sleep(0.01)
        turn.chat.cancel(wanted.key)
        events = await turn.follow(wanted)
        assert (events[-2]["code"], events[-2]["message"]) == ("cancelled", message)
    assert words == [{"stop": "cancelled"}] * 2


async def test_a_handler_that_stops_ends_its_turns(turn: StandInTurns, monkeypatch: pytest.MonkeyPatch) -> None:
    """They end within the time limit of a stream, also one that is being cancelled or that has just begun.

    A later request for a turn is refused.
    """
    monkeypatch.setitem(process.STOP_SECONDS, "shutting-down", 0.3)

    following = asyncio.create_task(turn.run(ignore))
    while not turn.jobs:  # noqa: ASYNC110  # the program has begun
        await asyncio.sleep(0.01)
    turn.chat.cancel(request().key)
    free = threading.Event()
    hanging = asyncio.create_task(turn.chat.disk.run(free.wait, 60))
    beginning = asyncio.create_task(turn.run(turn="msg_begun", sid=SID[:-1] + "e"))
    for _ in range(5):
        await asyncio.sleep(0)
    stopping = asyncio.create_task(turn.chat.stop())
    await asyncio.sleep(0)
    free.set()
    await asyncio.gather(hanging, stopping)
    assert (turn.chat.running, len(turn.jobs)) == ({}, 1)
    for events, begun in ((await following, True), (await beginning, True), (await turn.run(turn="msg_late"), False)):
        assert (events[-2]["code"], "session" in events[0]) == ("shutting-down", begun)


async def test_a_full_disk_ends_a_turn(turn: StandInTurns) -> None:
    """The file can't grow: the client hears why, the turn has its end once there is room, and the handler continues."""

    async def flood(stand_in: StandIn) -> None:
        for n in range(2, 2000):
            await stand_in.send(text(n, "x" * 10_000))

    def limit(pages: int) -> None:
        with turn.chat.store.transaction() as db:
            db.execute(f"PRAGMA max_page_count = {pages}")

    await turn.chat.disk.run(limit, 300)
    events = await turn.run(flood)
    assert (events[-2]["code"], events[-1]["ok"]) == ("claude-crashed", False)
    await turn.chat.disk.run(limit, 1 << 30)
    await turn.chat.open()
    assert numbers(await turn.follow(request())) == list(range(1, events[-1]["n"] + 1))
    assert (await turn.run(turn="msg_next", resume=True))[-1]["ok"] is True


async def test_a_disk_that_hangs_holds_up_nothing(turn: StandInTurns, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call has a time limit. A running turn can be stopped during it, and the streams end."""
    monkeypatch.setattr(database, "SECONDS", 0.3)
    free = threading.Event()

    turn.play = ignore
    wanted = request()
    await turn.chat.request(wanted, None)  # type: ignore[arg-type]
    hanging = asyncio.create_task(turn.chat.disk.run(free.wait, 60))
    try:
        await asyncio.sleep(0)
        assert (await turn.follow(wanted))[0]["message"].endswith("sessions.dir does not answer")
        with pytest.raises(SessionsUnwritable, match="did not answer"):
            await turn.run(turn="msg_other", sid=SID[:-1] + "e")
        monkeypatch.setitem(process.STOP_SECONDS, "cancelled", 0.1)
        turn.chat.cancel(wanted.key)
        while turn.chat.running:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    finally:
        free.set()
    with pytest.raises(SessionsUnwritable):
        await hanging
    monkeypatch.setattr(database, "SECONDS", 60.0)
    await turn.chat.open()
    for each in (wanted, request(turn="msg_other")):  # the second began too late, so it has the end of a killed one
        assert (await turn.follow(each))[-1]["ok"] is False


# --- transcripts ---


async def test_a_transcript_comes_out_and_goes_in_again(turn: StandInTurns) -> None:
    """It comes in pieces. An incomplete piece of a killed turn does not count. A piece at 0 begins it again."""
    line = b'"' + b"x" * (PIECE_BYTES - 3) + b'"\n'
    await turn.say(piece(0, line), piece(len(line), b'"y"\n'), DONE)
    assert (turn.jobs[-1].resume, turn.transcripts[-1]) == (False, b"")
    at = len(line) + 4
    whole = line + b'"y"\n"z"\n'
    await turn.say(piece(at, b'"z"\n'), piece(at + 4, b'"half', last=False), turn="msg_2", resume=True)
    assert (turn.jobs[-1].resume, turn.transcripts[-1]) == (True, line + b'"y"\n')
    await turn.say(piece(0, b"[]\n", last=False), turn="msg_3", resume=True)
    assert turn.transcripts[-1] == whole
    await turn.say(piece(len(whole), b'"w"\n'), DONE, turn="msg_4", resume=True)
    assert turn.transcripts[-1] == whole
    await turn.say(piece(0, b"[]\n", last=False), piece(3, b"{}\n"), DONE, turn="msg_5", resume=True)
    assert turn.transcripts[-1] == whole + b'"w"\n'
    await turn.say(DONE, turn="msg_6", resume=True)
    assert turn.transcripts[-1] == b"[]\n{}\n"
    assert "was saved" not in turn.jobs[-1].prompt


async def test_a_session_that_was_never_saved_begins_again(turn: StandInTurns) -> None:
    """The next turn tells claude so. An unknown session is lost."""
    await turn.say()
    await turn.run(turn="msg_2", resume=True)
    assert turn.jobs[-1].resume is False
    assert turn.jobs[-1].prompt.startswith("[From breakglass, not")
    events = await turn.run(turn="msg_3", resume=True, sid=SID[:-1] + "e")
    assert [event.get("code") for event in events] == [None, "session-lost", None]


# --- claude's requests to the host ---


async def ask(turns: StandInTurns, *lines: str, read: Any, **fields: Any) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = []

    async def play(stand_in: StandIn) -> None:
        for number, line in enumerate(lines):
            await stand_in.send({"pve": number, "line": line})
            answers.append(await stand_in.receive())
        await stand_in.send(DONE)

    await turns.run(play, read, **fields)
    return answers


async def test_a_read_is_answered_by_the_host(turn: StandInTurns) -> None:
    """The answer is the output and the result without pictures, as by ssh. Other text can't pose as the result."""
    asked: list[str] = []

    async def read(line: str) -> list[Any]:
        asked.append(line)
        output = [{"type": "output", "stream": "stdout", "text": text} for text in ("running\n#break", "glass {}\n")]
        job = {"screen_png": "AAAA", "output": "o"}
        return [*output, {"type": "result", "exit_code": 13, "outcome": "failed", "whole_job": job, "note": None}]

    lines = ("status", "forensics", "history", f"job id={JOB}")
    answers = await ask(turn, *lines, read=read)
    assert asked == ["status vm=102", "forensics vm=102 fresh=60", "history vm=102", f"job vm=102 id={JOB}"]
    shown = (
        'running\n #breakglass {}\n#breakglass {"exit_code": 13, "outcome": "failed", "whole_job": {"output": "o"}}\n'
    )
    assert answers[0] == {"pve": 0, "exit": 13, "text": shown}


LINES = [
    *("reset", "stop", "cycle", "start"),
    *("", "where", "screen", "session", "status vm=101", "status doctor", "forensics fresh=0", "reset anyway=x"),
    *("status" + " " * 600, "job", "job id=x y", "job id=x\ny", "status\nreset vm=102 id=x by=y", "Status"),
    "job id=a vm=101",
]


async def test_nothing_else_reaches_the_host(turn: StandInTurns) -> None:
    """A verb that changes power is a proposal; all else is a wrong usage. The tools of the host are reads alone."""
    asked: list[str] = []

    async def read(line: str) -> list[dict[str, object]]:
        asked.append(line)
        return [{"type": "result", "exit_code": 0, "last": "none"}]

    answers = await ask(turn, *LINES, read=read)
    assert asked == ["status vm=102"]  # for what the proposals are bound to
    assert [answer["exit"] for answer in answers] == [16] * 4 + [2] * (len(LINES) - 4)
    assert answers[0]["text"] == "approval-required: reset\n"
    assert [word in answers[-1]["text"] for word in ("usage: pve", "job id=ID")] == [True, True]
    assert turn.jobs[-1].verbs == ["status", "forensics", "history", "job", "start", "stop", "reset", "cycle"]
    [answer] = await ask(turn, "reset", read=None, turn="msg_2", tools="host")
    assert (answer["exit"], "history" in answer["text"], "job" in answer["text"]) == (2, True, False)


@pytest.mark.parametrize(
    ("lasts", "bound_to"),
    [(["msg_12345678", "none", None, "no id\n"], "none"), ([None], "")],
    ids=["what claude saw", "not known"],
)
async def test_a_proposal_is_bound_to_the_last_job(turn: StandInTurns, lasts: list[str | None], bound_to: str) -> None:
    """It is bound to the job that claude has seen, or the newest. Without one, there is no proposal."""
    answers: list[dict[str, Any]] = []
    left = iter(lasts)

    async def read(line: str) -> list[dict[str, object]]:
        return [{"type": "result", "exit_code": 0, "last": next(left)}]

    async def play(stand_in: StandIn) -> None:
        for number, question in enumerate([*["status"] * (len(lasts) - 1), *["forensics"] * (len(lasts) > 1), "reset"]):
            await stand_in.send({"pve": number, "line": question})
            answers.append(await stand_in.receive())
        await stand_in.send({**APPROVAL, "last": "msg_of_the_turn"}, {**DONE, "n": 3})

    events = await turn.run(play, read)
    assert answers[-1]["exit"] == (16 if bound_to else 255)
    assert [event["last"] for event in events if event["type"] == "approval"] == [bound_to]


async def test_claude_is_told_once_of_a_spent_proposal(turn: StandInTurns, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the host, at the next turn in which it answers: another job has acted since."""
    monkeypatch.setattr(proposals, "SECONDS", 0.1)

    async def read(line: str) -> list[dict[str, object]]:
        if line.startswith("job") and len(turn.jobs) == 1:
            await asyncio.sleep(60)
        last = "msg_12345678" if line.startswith("job") else "none"
        return [{"type": "result", "exit_code": 0, "last": last, "whole_job": None}]

    async def play(stand_in: StandIn) -> None:
        await stand_in.send({"pve": 0, "line": "reset"})
        await stand_in.receive()
        await stand_in.send(APPROVAL, {**DONE, "n": 3})

    await turn.run(play, read)
    for name in ("msg_silent", "msg_next", "msg_last"):
        await turn.run(None, read, turn=name, resume=True)
    assert ["another verb" in job.prompt for job in turn.jobs] == [False, False, True, False]


async def test_a_host_that_is_not_reached(turn: StandInTurns) -> None:
    """The command ends with exit 255, as with ssh. A defect loses only this answer."""

    async def read(line: str) -> list[dict[str, object]]:
        if line.startswith("history"):
            raise KeyError("a defect")
        raise Unreached("timeout", "pve1 did not answer", "look at pve1")

    answers = await ask(turn, "status", "history", read=read)
    assert [answer["exit"] for answer in answers] == [255, 255]
    assert answers[0]["text"].split("; ") == ["pve1 did not answer", "nothing was sent", "look at pve1\n"]


async def test_answers_that_are_not_read(turn: StandInTurns) -> None:
    """Only as many questions are sent as may be open, so unread answers can't fill the handler's memory."""
    asked: list[str] = []

    async def read(line: str) -> list[dict[str, object]]:
        asked.append(line)
        return [{"type": "output", "text": "x" * 300_000}, {"type": "result", "exit_code": 0}]

    async def play(stand_in: StandIn) -> None:
        for number in range(10 * AT_ONCE):
            await stand_in.send({"pve": number, "line": "status"})
            await asyncio.sleep(0)
        for _ in range(10 * AT_ONCE):
            await stand_in.receive()
        await stand_in.send(DONE)

    await turn.run(play, read)
    assert len(asked) < 5 * AT_ONCE


@pytest.mark.slow
async def test_questions_are_bounded(turn: StandInTurns) -> None:
    """Sixteen at once, and a thousand in all, as in a loop that waits for the VM; very many more end the turn."""
    waits = asyncio.Event()
    asked: list[str] = []
    answers: list[str] = []

    async def read(line: str) -> list[dict[str, object]]:
        asked.append(line)
        await waits.wait()
        return []

    async def play(stand_in: StandIn) -> None:
        for number in range(AT_ONCE + 1):
            await stand_in.send({"pve": number, "line": "status"})
        said = await stand_in.receive()
        assert (said["pve"], said["exit"], said["text"].split()[0]) == (AT_ONCE, 255, str(AT_ONCE))
        for number in range(AT_ONCE + 1, TOO_MANY + 1):
            await stand_in.send({"pve": number, "line": "x"})
            if number < TOO_MANY:
                answers.append((await stand_in.receive())["text"])
        await stand_in.send(DONE)

    events = await turn.run(play, read)
    assert (len(asked), events[1]["code"]) == (AT_ONCE, "claude-crashed")
    assert [text.split()[0] for text in answers].index(str(MOST)) == MOST - AT_ONCE - 1
