"""Gives a caller its conversations back: a list of them, and what was said in one."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from ..base.errors import BreakglassError
from ..base.times import rfc3339
from .database import Disk
from .events import Event, encode_event
from .store import Store
from .tokens import LIFETIME, Session, seal

MOST_LISTED = 100
MOST_BYTES = 16 * 1024 * 1024  # of the events and prompts in one replay, unless the newest turn alone has more
MOST_TURNS = 1000  # of a conversation that are looked at


class PastTurn(NamedTuple):
    """A turn of a conversation: its key and id, when it began, its tools, and how many bytes a replay of it has."""

    key: bytes
    turn: str
    at: float
    tools: str
    size: int


class Conversation(NamedTuple):
    """A conversation: its VM, the time of its last turn, how many turns it had, and those to replay, oldest first.

    `cost` is what all cost that are still there (US dollars), and `running` the id of the turn that has not ended.
    """

    sid: str
    vm: str
    at: float
    had: int
    cost: float
    running: str | None
    turns: Sequence[PastTurn]


class ConversationReader:
    """The conversations of one caller. `keys` sign the tokens."""

    def __init__(self, store: Store, disk: Disk, caller: str, keys: Sequence[str]) -> None:
        self._store, self._disk, self._caller, self._keys = store, disk, caller, keys

    async def find_all(self, may_see: Callable[[str], bool], now: float) -> list[dict[str, object]]:
        """Return the newest conversations, about VMs that `may_see` lets through, that a token can continue at `now`.

        That is in Unix seconds. Raises SessionsUnwritable.
        """
        return await self._disk.run(self._find_all, may_see, now)

    def _find_all(self, may_see: Callable[[str], bool], now: float) -> list[dict[str, object]]:
        running = "SELECT turn FROM turn WHERE turn.sid = conversation.sid AND code IS NULL"
        newest = (
            f"SELECT sid, vm, words, at, ({running}) FROM conversation WHERE caller = ? AND at > ? ORDER BY at DESC"  # noqa: S608
        )
        found: list[dict[str, object]] = []
        with self._store.transaction() as db:
            for sid, vm, words, at, turn in db.execute(newest, (self._caller, now - LIFETIME)):
                if len(found) == MOST_LISTED:
                    break
                if may_see(vm):
                    token = self._token(sid, vm, at)
                    found.append(
                        {"id": sid, "vm": vm, "words": words, "at": rfc3339(at), "session": token, "turn": turn}
                    )
        return found

    async def find(self, sid: str, vm: str) -> Conversation:
        """Return what there is to replay of a session. Raises SessionsUnwritable."""
        return await self._disk.run(self._find, sid, vm)

    def _find(self, sid: str, vm: str) -> Conversation:
        newest = "SELECT key, turn, at, tools, bytes FROM turn WHERE sid = ? ORDER BY at DESC, rowid DESC LIMIT ?"
        with self._store.transaction() as db:
            found = db.execute(
                "SELECT at, turns FROM conversation WHERE sid = ? AND caller = ?", (sid, self._caller)
            ).fetchone()
            if not found:
                return Conversation(sid, vm, 0.0, 0, 0.0, None, ())
            at, had = found
            [cost] = db.execute("SELECT total(cost) FROM turn WHERE sid = ?", (sid,)).fetchone()
            running = db.execute("SELECT turn FROM turn WHERE sid = ? AND code IS NULL", (sid,)).fetchone()
            turns, left = list[PastTurn](), MOST_BYTES
            for row in db.execute(newest, (sid, MOST_TURNS)):
                left -= PastTurn(*row).size
                if left < 0 and turns:
                    break
                turns.insert(0, PastTurn(*row))
        return Conversation(sid, vm, at, had, cost, running[0] if running else None, turns)

    async def lines(self, conversation: Conversation) -> AsyncIterator[bytes]:
        """Yield the turns, each with its events; the last line is `replayed`.

        That one is missing if sessions.dir fails meanwhile, as the last line of a stream that is cut is. A slow client
        holds one piece of a turn.
        """
        left_out = conversation.had - len(conversation.turns)
        try:
            for turn in conversation.turns:
                prompt = await self._disk.run(self._store.prompt, turn.key)
                if prompt is None:  # it was removed meanwhile
                    left_out += 1
                    continue
                yield encode_event(
                    {"type": "turn", "turn": turn.turn, "prompt": prompt, "at": rfc3339(turn.at), "tools": turn.tools}
                )
                number, has_ended = 0, False
                while not has_ended:
                    lines, number, has_ended = await self._disk.run(self._store.read, turn.key, number)
                    if not lines:
                        break
                    yield lines
            after = await self.find(conversation.sid, conversation.vm)
        except BreakglassError:
            return
        sid, vm, at, had, _, running, _ = conversation
        token = self._token(sid, vm, at) if had else None
        last: Event = {"type": "replayed", "id": sid, "vm": vm, "session": token, "left_out": left_out}
        yield encode_event({**last, "cost_usd": after.cost, "turn": running if running == after.running else None})

    def _token(self, sid: str, vm: str, at: float) -> str:
        """Return a token that is good for as long as the one of the newest turn."""
        return seal(Session(sid, self._caller, vm, int(at) + LIFETIME), self._keys)
