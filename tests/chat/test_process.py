"""The handler's reaction to a turn's program, whatever that sends. The test plays the program."""

import asyncio
import base64
import json
import os
import random
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from breakglass.base import audit, counts
from breakglass.base.errors import Unreached
from breakglass.chat import database, process, program
from breakglass.chat.failures import KILLED
from breakglass.chat.job import PIECE_BYTES, TRANSCRIPT_BYTES, encode_line
from breakglass.chat.output import MOST_PARTS, PIECE_COST
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
    "not UTF-8": '{"type":"text","n":2,"text":"x"}'.encode("utf-16-le") + b"\n",
    "a line that is two to some client": '{"type":"text","n":2,"text":"x\u2028y"}\n'.encode(),
    "a carriage return": b'{"type":"text",\r"n":2,"text":"x"}\n',
    "NaN": b'{"type":"text","n":2,"text":"x","x":NaN}\n',
    "too deep": b"[" * 9000 + b"\n",
    "a line that is too long": b"x" * (1 << 21),
    "a line with too many parts": b'{"type":"text","n":2,"text":"x","x":[' + b"0," * MOST_PARTS + b"0]}\n",
    "a number again": text(1),
    "a number left out": text(3),
    "true for a number": b'{"type":"text","n":true,"text":"x"}\n',
    "no type": {"type": None, "n": 2},
    "an unknown type": {"type": "ping", "n": 2},
    "the handler's own event": {"type": "session", "n": 2, "session": "token"},
    "a text that is none": {"type": "text", "n": 2, "text": {}},
    "half a result": {"type": "result", "n": 2, "ok": True},
    "an error's code": {"type": "error", "n": 2, "code": "\ud800", "message": "", "hint": ""},
    "another VM's proposal": {**APPROVAL, "vm": "other"},
    "a proposal of a read": {**APPROVAL, "verb": "status"},
    "a proposal whose id is a line": {**APPROVAL, "job": f"{JOB} by=operator"},
    "a question that is none": {"pve": "1", "line": "status"},
    "a gap in the transcript": piece(9, b"{}\n"),
    "a transcript that is no base64": {"transcript": 0, "data": "!"},
    "a line after the end": encode_line(DONE) + encode_line(text(3)),
    "a large piece": piece(0, b"x" * (PIECE_BYTES + 1)),
}


@pytest.mark.parametrize("line", BAD.values(), ids=BAD)
async def test_what_no_turn_sends_ends_it(turn: StandInTurns, line: Any) -> None:
    """The rest is not read; there is an error and an end, with the next numbers."""
    events = await turn.say(line, text(2), {**DONE, "n": 3})
    assert [event["type"] for event in events] == ["session", "error", "done"]
    assert events[1]["code"] == "claude-crashed"
    assert numbers(events) == [1, 2, 3]


async def test_a_program_that_can_not_be_started(turn: StandInTurns, counters: Counters) -> None:
    """If systemd's socket is gone, the turn ends with the command that helps."""
    os.unlink(turn.directory / "turns")
    events = await turn.run()
    assert (events[1]["code"], events[1]["hint"]) == ("claude-crashed", program.RESTART)
    assert counted(counters) == {"turns_total{outcome=claude-crashed}": 1}


async def test_a_turn_has_no_descriptor_of_the_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or terminal that the handler's log goes to could be read through it."""
    monkeypatch.setattr(program, "starter_command", lambda: ["/bin/bash", "-c", "readlink /proc/$$/fd/*"])
    async with program.open_channel("") as (reader, _):
        found = (await reader.read()).decode().split()
    assert [each.partition(":")[0] for each in found] == ["socket", "socket", "pipe"]


async def test_what_a_defect_of_a_turn_prints_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the output is logged, because a turn that ends without a message gives no other reason."""
    logged: list[tuple[str, str]] = []
    monkeypatch.setattr(audit, "note", lambda event, error: logged.append((event, error)))
    command = "for n in {1..9999}; do echo line $n >&2; done; echo a defect >&2"
    monkeypatch.setattr(program, "starter_command", lambda: ["/bin/bash", "-c", command])
    async with program.open_channel("") as (reader, _):
        await reader.read()
    [(event, error)] = logged
    assert (event, len(error), error[-19:]) == ("turn-stderr", 4096, "line 9999\na defect\n")


# --- stopping ---


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
    """They end within the time limit of a stream. A later request for a turn is refused."""
    monkeypatch.setitem(process.STOP_SECONDS, "shutting-down", 0.3)

    async def ignore(stand_in: StandIn) -> None:
        while await stand_in.receive():
            pass

    following = asyncio.create_task(turn.run(ignore))
    while not turn.jobs:  # noqa: ASYNC110  # the program has begun
        await asyncio.sleep(0.01)
    await turn.chat.stop()
    assert (await following)[-2]["code"] == "shutting-down"
    events = await turn.run(turn="msg_too_late")
    assert (events[-2]["code"], "session" in events[0]) == ("shutting-down", False)


async def test_a_turn_that_was_just_asked_for_when_the_handler_stops(turn: StandInTurns) -> None:
    """The turn is already in the file, but its program is not started any more."""
    free = threading.Event()
    hanging = asyncio.create_task(turn.chat.disk.run(free.wait, 60))
    await asyncio.sleep(0)
    running = asyncio.create_task(turn.run())
    while not turn.chat._starting:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    stopping = asyncio.create_task(turn.chat.stop())
    await asyncio.sleep(0)
    free.set()
    assert (await running)[-2]["code"] == "shutting-down"
    await asyncio.gather(hanging, stopping)
    assert turn.jobs == []


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


async def test_a_disk_that_takes_no_end(turn: StandInTurns) -> None:
    """If not even the end of a turn can be stored, its readers get that error and the fix."""

    def set_read_only(value: int) -> None:
        with turn.chat.store.transaction() as db:
            db.execute(f"PRAGMA query_only = {value}")

    async def play(stand_in: StandIn) -> None:
        await turn.chat.disk.run(set_read_only, 1)
        await stand_in.send(text(2))

    error, done = (await turn.run(play))[-2:]
    assert (error["message"], done["n"]) == ("the turn's events can't be written: sessions.dir is full or broken", 3)
    await turn.chat.disk.run(set_read_only, 0)
    await turn.chat.open()
    assert (await turn.follow(request()))[-1] == done


async def test_a_disk_that_hangs_holds_up_nothing(turn: StandInTurns, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call has a time limit. A running turn can be stopped during it, and the streams end."""
    monkeypatch.setattr(database, "SECONDS", 0.3)
    free = threading.Event()

    async def ignore(stand_in: StandIn) -> None:
        while await stand_in.receive():
            pass

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
    await turn.say(piece(0, b"[]\n", last=False), piece(3, b"{}\n"), DONE, turn="msg_4", resume=True)
    assert turn.transcripts[-1] == whole
    await turn.say(DONE, turn="msg_5", resume=True)
    assert turn.transcripts[-1] == b"[]\n{}\n"
    assert "was saved" not in turn.jobs[-1].prompt


async def test_a_session_that_was_never_saved_begins_again(turn: StandInTurns) -> None:
    """The next turn tells claude so. An unknown session is lost."""
    await turn.say()
    await turn.run(turn="msg_2", resume=True)
    assert turn.jobs[-1].resume is False
    assert turn.jobs[-1].prompt.startswith("[From breakglass, not from the operator. Nothing")
    events = await turn.run(turn="msg_3", resume=True, sid=SID[:-1] + "e")
    assert [event.get("code") for event in events] == [None, "session-lost", None]


@pytest.mark.slow
async def test_pieces_without_end(turn: StandInTurns) -> None:
    """Many pieces are as bad as large ones, and a transcript that begins again does not reset the count."""
    tiny = encode_line(piece(0, b"\n"))

    async def play(stand_in: StandIn) -> None:
        for _ in range(4 * TRANSCRIPT_BYTES // PIECE_COST // 1000 + 1):
            await stand_in.send(tiny * 1000)
        await stand_in.send(DONE)

    events = await turn.run(play)
    assert events[1]["message"].endswith("the pieces of its transcript reached their size limit")


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
    *(
        "",
        "where",
        "screen",
        "check",
        "session",
        "status vm=101",
        "status doctor",
        "forensics fresh=0",
        "reset anyway=x",
    ),
    *(
        "status" + " " * 600,
        "job",
        "job id=x y",
        "job id=x\ny",
        "job id=",
        "status\nreset vm=102 id=x by=y",
        "Status",
        "job id=a vm=101",
    ),
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
    assert answers[-1]["text"].startswith("usage: pve status | forensics | history | job id=ID | ")
    assert turn.jobs[-1].verbs == ["status", "forensics", "history", "job", "start", "stop", "reset", "cycle"]
    [answer] = await ask(turn, "reset", read=None, turn="msg_2", tools="host")
    assert (answer["exit"], answer["text"]) == (2, "usage: pve status | forensics | history\n")


@pytest.mark.parametrize(
    ("lasts", "bound_to"),
    [
        (["msg_12345678"], "msg_12345678"),
        (["msg_12345678", "none", None, "no id\n"], "none"),
        ([None], ""),
    ],
    ids=["asked for", "what claude saw", "not known"],
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


SPENT = "You proposed reset: another verb has changed the VM's power, so the proposal can't be approved any more"


@pytest.mark.parametrize(
    ("last", "words"), [("none", "You proposed reset: the proposal is not approved"), ("msg_12345678", SPENT)]
)
async def test_claude_is_told_of_a_spent_proposal(turn: StandInTurns, last: str, words: str) -> None:
    """By the host, at the next turn: another job has acted since."""

    async def read(line: str) -> list[dict[str, object]]:
        is_job = line.startswith("job")
        return [{"type": "result", "exit_code": 0, "last": last if is_job else "none", "whole_job": None}]

    async def play(stand_in: StandIn) -> None:
        await stand_in.send({"pve": 0, "line": "reset"})
        await stand_in.receive()
        await stand_in.send(APPROVAL, {**DONE, "n": 3})

    await turn.run(play, read)
    await turn.run(None, read, turn="msg_next", resume=True)
    assert words in turn.jobs[-1].prompt
    await turn.run(None, read, turn="msg_last", resume=True)
    assert (words in turn.jobs[-1].prompt) is (words != SPENT)  # what is final is told once


async def test_a_host_that_is_not_reached(turn: StandInTurns) -> None:
    """The command ends with exit 255, as with ssh. A defect loses only this answer."""

    async def read(line: str) -> list[dict[str, object]]:
        if line.startswith("history"):
            raise KeyError("a defect")
        raise Unreached("timeout", "pve1 did not answer", "look at pve1")

    answers = await ask(turn, "status", "history", read=read)
    assert [answer["exit"] for answer in answers] == [255, 255]
    assert answers[0]["text"] == "pve1 did not answer; nothing was sent; look at pve1\n"


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
        assert await stand_in.receive() == {
            "pve": AT_ONCE, "exit": 255, "text": f"{AT_ONCE} questions are open already; wait until one is answered\n",
        }  # fmt: skip
        for number in range(AT_ONCE + 1, TOO_MANY + 1):
            await stand_in.send({"pve": number, "line": "x"})
            if number < TOO_MANY:
                answers.append((await stand_in.receive())["text"])
        await stand_in.send(DONE)

    events = await turn.run(play, read)
    assert (len(asked), events[1]["code"]) == (AT_ONCE, "claude-crashed")
    assert [text.split()[0] for text in answers].index(str(MOST)) == MOST - AT_ONCE - 1


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


# --- any bytes at all ---

SEED = 20261130
GOOD = [
    *(encode_line(text(n, "word " * 50)) for n in range(2, 40)),
    encode_line({"type": "tool", "n": 40, "id": "t", "name": "Bash", "input": {"command": "pve status"}}),
    encode_line(piece(0, b"{}\n" * 1000)),
    encode_line({"pve": 1, "line": "status"}),
    encode_line({**DONE, "n": 41}),
]
HEAVY = [
    b'{"type":"text","n":2,"text":"x","x":' + b"[" * 500_000,
    b"{" + b'"":0,' * 100_000,
    b'["",' * 200_000,
    b"," * 1_040_000,
]


def mutated(chance: random.Random) -> bytes:
    """Return what a turn sends with some of it changed, repeated, cut or out of order."""
    lines = list(GOOD)
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(lines))
        change = chance.randrange(6)
        if change == 0:
            lines[at] = chance.randbytes(chance.randrange(200)) + b"\n"
        elif change == 1:
            lines[at] = lines[at][: chance.randrange(len(lines[at]))]
        elif change == 2:
            lines.insert(at, chance.choice(lines))
        elif change == 3:
            del lines[at]
        elif change == 4:
            byte = chance.randrange(len(lines[at]))
            lines[at] = lines[at][:byte] + chance.randbytes(1) + lines[at][byte + 1 :]
        else:
            lines.insert(at, chance.choice(HEAVY) + b"\n")
    return b"".join(lines or GOOD)


async def measure_loop(longest: list[float]) -> None:
    while True:
        began = time.monotonic()
        await asyncio.sleep(0)
        longest[0] = max(longest[0], time.monotonic() - began)


@pytest.mark.slow
async def test_any_bytes_at_all(turn: StandInTurns) -> None:
    """Each turn has one end, its events are in order, and the loop, which serves the verbs, is never held for long."""
    chance, longest = random.Random(SEED), [0.0]
    measuring = asyncio.create_task(measure_loop(longest))
    for number in range(150):
        sent = mutated(chance)
        events = await turn.say(
            sent, read=lambda line: asyncio.sleep(0, []), turn=f"msg_{number:08}", sid=f"{SID[:-3]}{number:03}"
        )
        assert numbers(events) == list(range(1, len(events) + 1))
        assert [event["type"] for event in events].count("done") == 1
        assert events[-1]["type"] == "done"
    measuring.cancel()
    assert turn.chat.running == {}
    assert longest[0] < 10 * 0.05
