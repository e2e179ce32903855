"""Gives a caller its conversations back: a list of them, and what was said in one, from the turns' logs."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..base.errors import BreakglassError
from ..base.times import rfc3339
from ..claude.eventlog import Reader, finish_log, read_more
from ..claude.events import Event, encode_event
from .conversations import Conversation, TurnEntry, size_of
from .ended_turns import KILLED, finish_turn
from .sessions import LIFETIME, Session, seal
from .sessions_dir import SessionsDisk
from .store import Store

MOST_BYTES = 16 * 1024 * 1024  # of the logs and prompts in one replay, unless the newest turn alone has more
MOST_TURNS = 1000  # of a conversation that are looked at

_NO_LOG = (FileNotFoundError, NotADirectoryError, IsADirectoryError)  # removed, or a refusal is in its place


class StoredTurn(NamedTuple):
    """A turn whose log is there: its directory, and how many bytes a replay of it has."""

    entry: TurnEntry
    directory: Path
    size: int

    @property
    def log(self) -> str:
        """The path of its log."""
        return str(self.directory / "log")


class ConversationLog(NamedTuple):
    """A conversation: its turns to replay, how many are left out, what all cost (US dollars), and which one runs."""

    conversation: Conversation
    turns: Sequence[StoredTurn]
    left_out: int
    cost: float
    running: str | None


class ConversationReader:
    """The conversations of one caller. `keys` sign the tokens, and `directory` is the id of sessions.dir."""

    def __init__(self, store: Store, disk: SessionsDisk, caller: str, keys: Sequence[str], directory: str) -> None:
        self._store, self._disk, self._caller, self._keys, self._directory = store, disk, caller, keys, directory

    async def find_all(self, may_see: Callable[[str], bool], now: float) -> list[dict[str, object]]:
        """Return the newest conversations, about VMs that `may_see` lets through, that a token can continue at `now`.

        That is in Unix seconds. Raises SessionsUnwritable.
        """
        return await self._disk.read(self._find_all, may_see, now)

    def _find_all(self, may_see: Callable[[str], bool], now: float) -> list[dict[str, object]]:
        def is_listed(each: Conversation) -> bool:
            return may_see(each.vm) and each.turns[-1].at + LIFETIME > now

        return [
            {
                "id": each.sid,
                "vm": each.vm,
                "words": each.words,
                "at": rfc3339(each.turns[-1].at),
                "session": self._token(each),
                "turn": each.turns[-1].turn if self._runs(each.turns[-1]) else None,
            }
            for each in self._store.list_conversations(self._caller, is_listed)
        ]

    async def find(self, sid: str, vm: str) -> ConversationLog:
        """Return what there is to replay of a session. Raises SessionsUnwritable."""
        return await self._disk.read(self._find, sid, vm)

    async def lines(self, log: ConversationLog) -> AsyncIterator[bytes]:
        """Yield the turns, each with its events; the last line is `replayed`.

        That one is missing if sessions.dir fails meanwhile, as the last line of a stream that is cut is.
        """
        left_out, cost, running = log.left_out, log.cost, log.running
        try:
            for turn in log.turns:
                entry, reader = turn.entry, Reader(-1, 0)
                prompt = await self._disk.run(_read_prompt, turn.directory)  # only now: a slow client holds one
                lines = await self._disk.run(_read_first, turn.log, reader)
                if lines is None:  # it was removed meanwhile
                    left_out += 1
                    continue
                metadata = {"turn": entry.turn, "prompt": prompt, "at": rfc3339(entry.at), "tools": entry.tools}
                yield encode_event({"type": "turn", **metadata})
                while lines:
                    yield lines
                    lines = b"" if reader.ended else await self._disk.run(read_more, turn.log, reader)
                if entry.turn == running and reader.ended:  # it ended meanwhile
                    running = None
                    cost += (await self._disk.run(finish_turn, turn.log)).cost
        except (OSError, BreakglassError):
            return
        token = self._token(log.conversation) if log.conversation.turns else None
        last: Event = {"type": "replayed", "id": log.conversation.sid, "vm": log.conversation.vm, "session": token}
        yield encode_event({**last, "left_out": left_out, "cost_usd": cost, "turn": running})

    def _find(self, sid: str, vm: str) -> ConversationLog:
        """Find what there is to replay. The ending of a turn whose runner was killed is written first."""
        conversation = self._store.find_conversation(self._caller, sid)
        if conversation is None:  # it began before there was a list of them
            conversation = Conversation(sid, vm, "", ())
        turns, cost, running = list[StoredTurn](), 0.0, None
        for entry in conversation.turns[-MOST_TURNS:]:
            turn_dir = self._store.turn_dir(self._caller, entry.turn)
            running = entry.turn if self._runs(entry) else None
            try:
                cost += finish_turn(str(turn_dir / "log")).cost if running is None else 0
                turns.append(StoredTurn(entry, turn_dir, size_of(turn_dir)))
            except _NO_LOG:
                pass
        newest, left = list[StoredTurn](), MOST_BYTES
        for each in reversed(turns):
            left -= each.size
            if left < 0 and newest:
                break
            newest.insert(0, each)
        return ConversationLog(conversation, newest, len(conversation.turns) - len(newest), cost, running)

    def _runs(self, entry: TurnEntry) -> bool:
        """Tell whether a turn has not ended. The ending of one whose runner was killed is written first."""
        try:
            return not finish_log(str(self._store.turn_dir(self._caller, entry.turn) / "log"), *KILLED)
        except _NO_LOG:
            return False

    def _token(self, conversation: Conversation) -> str:
        """Return a token that is good for as long as the one of the newest turn."""
        expires = int(conversation.turns[-1].at) + LIFETIME
        return seal(Session(conversation.sid, self._caller, conversation.vm, expires, self._directory), self._keys)


def _read_prompt(turn_dir: Path) -> str:
    """Return what was asked in a turn; an empty text if its file is damaged, as after a power failure, or removed."""
    try:
        metadata = json.loads((turn_dir / "about.json").read_bytes())
    except (*_NO_LOG, ValueError, RecursionError):
        return ""
    prompt = metadata.get("prompt") if isinstance(metadata, dict) else None
    return prompt if isinstance(prompt, str) else ""


def _read_first(log: str, reader: Reader) -> bytes | None:
    """Return the first piece of a log, or None if there is no log any more."""
    try:
        return read_more(log, reader)
    except _NO_LOG:
        return None
