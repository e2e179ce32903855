"""Reads a caller's stored conversations: lists them and replays one."""

import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from ..base.errors import BreakglassError
from ..base.times import rfc3339
from .database import Disk
from .events import Event
from .job import encode_line
from .store import Store
from .tokens import LIFETIME, Session, seal

MOST_LISTED = 100
MOST_BYTES = 16 * 1024 * 1024  # the most bytes of events and prompts in a replay; the newest turn is always included
MOST_TURNS = 1000  # the most turns that are read of a conversation


class PastTurn(NamedTuple):
    """A turn of a conversation: its key and id, when it began, its tools, and how many bytes a replay of it has."""

    key: bytes
    turn: str
    at: float
    tools: str
    size: int


class Conversation(NamedTuple):
    """A conversation: its VM, time of the last turn, number of turns, and the turns to replay, oldest first.

    `cost` is the cost of all turns that are still stored (US dollars), and `running` is the id of the turn that has not
    ended. A conversation that was removed has no turns.
    """

    caller: str
    sid: str
    vm: str
    at: float = 0.0
    had: int = 0
    cost: float = 0.0
    running: str | None = None
    turns: Sequence[PastTurn] = ()


def find_all(
    store: Store, caller: str, keys: Sequence[str], may_see: Callable[[str], bool], now: float
) -> list[dict[str, object]]:
    """Return a caller's newest conversations that a token can continue, about VMs that `may_see` allows.

    `now` is in Unix seconds, `keys` sign the tokens. Blocks; raises SessionsUnwritable.
    """
    running = "SELECT turn FROM turn WHERE turn.sid = conversation.sid AND code IS NULL"
    newest = f"SELECT sid, vm, words, at, ({running}) FROM conversation WHERE caller = ? AND at > ? ORDER BY at DESC"  # noqa: S608
    with store.transaction() as db:
        rows = db.execute(newest, (caller, now - LIFETIME))
        seen = itertools.islice((row for row in rows if may_see(row[1])), MOST_LISTED)
        return [
            {
                "id": sid,
                "vm": vm,
                "words": words,
                "at": rfc3339(at),
                "session": seal(Session(sid, caller, vm, int(at) + LIFETIME), keys),
                "turn": turn,
            }
            for sid, vm, words, at, turn in seen
        ]


def find(store: Store, caller: str, sid: str, vm: str) -> Conversation:
    """Return the turns to replay of a caller's session. Blocks; raises SessionsUnwritable."""
    newest = "SELECT key, turn, at, tools, bytes FROM turn WHERE sid = ? ORDER BY at DESC, rowid DESC LIMIT ?"
    with store.transaction() as db:
        found = db.execute("SELECT at, turns FROM conversation WHERE sid = ? AND caller = ?", (sid, caller)).fetchone()
        if not found:
            return Conversation(caller, sid, vm)
        [cost] = db.execute("SELECT total(cost) FROM turn WHERE sid = ?", (sid,)).fetchone()
        running = db.execute("SELECT turn FROM turn WHERE sid = ? AND code IS NULL", (sid,)).fetchone()
        turns, left = list[PastTurn](), MOST_BYTES
        for row in db.execute(newest, (sid, MOST_TURNS)):
            left -= PastTurn(*row).size
            if left < 0 and turns:
                break
            turns.insert(0, PastTurn(*row))
    at, had = found
    return Conversation(caller, sid, vm, at, had, cost, running[0] if running else None, turns)


async def replay(store: Store, disk: Disk, keys: Sequence[str], conversation: Conversation) -> AsyncIterator[bytes]:
    """Yield the turns with their events. The last line is `replayed`.

    If sessions.dir fails during the replay, the last line is missing, so the client sees that the stream was cut. For a
    slow client, only one piece of a turn is in memory.
    """
    caller, sid, vm, at, had, _, running, turns = conversation
    left_out = had - len(turns)
    try:
        for turn in turns:
            found = await disk.run(store.find, turn.key)
            if found is None:  # the turn was removed after the list was read
                left_out += 1
                continue
            yield encode_line(
                {"type": "turn", "turn": turn.turn, "prompt": found.prompt, "at": rfc3339(turn.at), "tools": turn.tools}
            )
            number, has_ended = 0, False
            while not has_ended:
                lines, number, has_ended = await disk.run(store.read, turn.key, number)
                if not lines:
                    break
                yield lines
        after = await disk.run(find, store, caller, sid, vm)
    except BreakglassError:
        return
    token = seal(Session(sid, caller, vm, int(at) + LIFETIME), keys) if had else None
    last: Event = {"type": "replayed", "id": sid, "vm": vm, "session": token, "left_out": left_out}
    yield encode_line({**last, "cost_usd": after.cost, "turn": running if running == after.running else None})
