"""A turn's program that a test plays. It listens at the socket where systemd would start turns."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from breakglass.chat.database import Disk
from breakglass.chat.job import LINE_BYTES, Job, encode_line, parse_job
from breakglass.chat.request import TurnRequest
from breakglass.chat.turns import Chat
from breakglass.config.model import Address, ChatSettings, Host, Vm
from breakglass.config.model_api import ModelApi

VM = Vm("devvm", 102, (Host("pve1", Address("breakglass", "127.0.0.1"), ""),))
SID = "0b6f3f6a-3d0f-4d0e-9d0f-1c2f3a4b5c6d"
DONE = {"type": "done", "n": 2, "ok": True}


def request(turn: str = "msg_12345678", **more: Any) -> TurnRequest:
    fields: dict[str, Any] = {
        "turn": turn,
        "caller": "operator",
        "vm": VM,
        "sid": SID,
        "prompt": "hello",
    }
    return TurnRequest(**{**fields, **more})


class StandIn:
    """The end of the socket that belongs to the turn."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.job: Job
        self.transcript = b""

    async def begin(self) -> None:
        opening = json.loads(await self._reader.readline())
        self.job = parse_job(await self._reader.readexactly(opening["job"]))
        self.transcript = await self._reader.readexactly(opening["transcript"])

    async def receive(self) -> dict[str, Any]:
        """Return the handler's next line, which is empty once the handler is gone."""
        line = await self._reader.readline()
        return dict(json.loads(line)) if line else {}

    async def send(self, *lines: Any) -> None:
        """Send objects as lines, and bytes unchanged."""
        with contextlib.suppress(ConnectionError):  # the handler has closed the connection
            for line in lines:
                if self._writer.is_closing():
                    return
                self._writer.write(line if isinstance(line, bytes) else encode_line(line))
                await self._writer.drain()


Play = Callable[[StandIn], Awaitable[None]]


async def ask_nothing(line: str) -> list[dict[str, object]]:
    raise AssertionError(f"the host was asked: {line}")


class StandInTurns:
    """A Chat whose turns run `play`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.play: Play = StandInTurns.end
        self.jobs: list[Job] = []
        self.transcripts: list[bytes] = []
        settings = ChatSettings(str(directory / "s"), ModelApi("ANTHROPIC_API_KEY", "sk"), "/bin/true")
        self.chat = Chat(settings, Disk(), str(directory / "turns"))

    @staticmethod
    async def end(turn: StandIn) -> None:
        await turn.send(DONE)

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator["StandInTurns"]:
        await self.chat.open()
        async with await asyncio.start_unix_server(self._serve, self.directory / "turns", limit=2 * LINE_BYTES):
            yield self
        await self.chat.stop()
        await self.chat.disk.run(self.chat.store.close)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        turn = StandIn(reader, writer)
        try:
            await turn.begin()
            self.jobs.append(turn.job)
            self.transcripts.append(turn.transcript)
            await self.play(turn)
        finally:
            writer.close()

    async def run(self, play: Play | None = None, read: Any = ask_nothing, **fields: Any) -> list[dict[str, Any]]:
        """Run a turn to its end, and return its events."""
        self.play = play or StandInTurns.end
        wanted = request(**fields)
        async with asyncio.timeout(60):
            return await _parse(await self.chat.request(wanted, read))

    async def say(self, *lines: Any, **fields: Any) -> list[dict[str, Any]]:
        """Run a turn that sends these lines."""
        return await self.run(lambda turn: turn.send(*lines), **fields)

    async def follow(self, wanted: TurnRequest) -> list[dict[str, Any]]:
        async with asyncio.timeout(60):
            return await _parse(self.chat.follow(wanted.key, 0))


async def _parse(stream: AsyncIterator[bytes]) -> list[dict[str, Any]]:
    events = [json.loads(line) async for lines in stream for line in lines.splitlines()]
    return [event for event in events if event["type"] != "ping"]  # on a slow machine, pings come between
