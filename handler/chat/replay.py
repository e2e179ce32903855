"""Gives a caller its conversations back: a list of them, and what was said in one, from the turns' logs."""

import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from ..claude.eventlog import Reader, has_ended, read_more
from ..claude.events import Event, encode_event
from ..errors import BreakglassError
from ..text import rfc3339
from .conversations import MOST, Conversation, Said
from .sessions import LIFETIME, Session, seal
from .sessions_disk import SessionsDisk
from .store import Store
from .summary import finish_turn

MOST_BYTES = 16 * 1024 * 1024  # of the logs in one replay, unless the newest turn alone has more


class Kept(NamedTuple):
    """A turn whose log is there: the path of that, what was asked, and the log's size in bytes."""

    said: Said
    log: str
    prompt: str
    size: int


class Found(NamedTuple):
    """A conversation: its turns to replay, how many are left out, what all cost (US dollars), and which one runs."""

    conversation: Conversation
    turns: Sequence[Kept]
    left_out: int
    cost: float
    running: str | None


class Replay:
    """The conversations of one caller. `keys` sign the tokens, and `directory` is the id of sessions.dir."""

    def __init__(self, store: Store, disk: SessionsDisk, caller: str, keys: Sequence[str], directory: str) -> None:
        self._store, self._disk, self._caller, self._keys, self._directory = store, disk, caller, keys, directory

    async def find_all(self, may_see: Callable[[str], bool]) -> list[dict[str, object]]:
        """Return the newest conversations, of the VMs whose names `may_see` lets through. Raises SessionsUnwritable."""
        return await self._disk.read(self._find_all, may_see)

    def _find_all(self, may_see: Callable[[str], bool]) -> list[dict[str, object]]:
        found = [each for each in self._store.list_conversations(self._caller) if may_see(each.vm)]
        return [
            {
                "id": each.sid,
                "vm": each.vm,
                "words": each.words,
                "at": rfc3339(each.turns[-1].at),
                "session": self._token(each),
                "turn": each.turns[-1].turn if self._runs(each.turns[-1]) else None,
            }
            for each in found[:MOST]
        ]

    async def find(self, sid: str, vm: str) -> Found:
        """Return what there is to replay of a session. Raises SessionsUnwritable."""
        return await self._disk.read(self._find, sid, vm)

    async def lines(self, found: Found) -> AsyncIterator[bytes]:
        """Yield the turns, each with its events; the last line is `replayed`.

        That one is missing if sessions.dir fails meanwhile, as the last line of a stream that is cut is.
        """
        try:
            for kept in found.turns:
                said, reader = kept.said, Reader(-1, 0)
                about = {"turn": said.turn, "prompt": kept.prompt, "at": rfc3339(said.at), "tools": said.tools}
                yield encode_event({"type": "turn", **about})
                while not reader.ended and (lines := await self._disk.run(read_more, kept.log, reader)):
                    yield lines
        except (OSError, BreakglassError):
            return
        token = self._token(found.conversation) if found.conversation.turns else None
        last: Event = {"type": "replayed", "id": found.conversation.sid, "vm": found.conversation.vm, "session": token}
        yield encode_event({**last, "left_out": found.left_out, "cost_usd": found.cost, "turn": found.running})

    def _find(self, sid: str, vm: str) -> Found:
        """Find what there is to replay. The ending of a turn whose runner was killed is written first."""
        conversation = self._store.find_conversation(self._caller, sid)
        if conversation is None:  # it began before there was a list of them
            conversation = Conversation(sid, vm, "", ())
        kept, cost, running = list[Kept](), 0.0, None
        for said in conversation.turns:
            turn_dir = self._store.turn_dir(self._caller, said.turn)
            log = turn_dir / "log"
            try:
                cost += finish_turn(str(log)).cost
                prompt = json.loads((turn_dir / "about.json").read_bytes()).get("prompt", "")
                kept.append(Kept(said, str(log), str(prompt), log.stat().st_size))
            except FileNotFoundError:
                continue
            running = said.turn if self._runs(said) else None
        newest, left = list[Kept](), MOST_BYTES
        for each in reversed(kept):
            left -= each.size
            if left < 0 and newest:
                break
            newest.insert(0, each)
        return Found(conversation, newest, len(conversation.turns) - len(newest), cost, running)

    def _runs(self, said: Said) -> bool:
        """Tell whether a turn has not ended."""
        try:
            log = os.open(self._store.turn_dir(self._caller, said.turn) / "log", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not has_ended(log)
        finally:
            os.close(log)

    def _token(self, conversation: Conversation) -> str:
        """Return a token that is good for as long as the one of the newest turn."""
        expires = int(conversation.turns[-1].at) + LIFETIME
        return seal(Session(conversation.sid, self._caller, conversation.vm, expires, self._directory), self._keys)
