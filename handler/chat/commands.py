"""Runs `pve` and the guest's command for claude, outside claude's sandbox.

claude has no key and no network for ssh. In its sandbox the commands are clients (client.py) of a socket that only the
worker listens on. `pve` sends a question to the handler, and only the handler decides what it answers, and how often.
The guest's command is an ssh in its own sandbox. Of the turn, it has only the guest's key. It gets pipes, never
claude's descriptors.
"""

import asyncio
import contextlib
import json
import struct
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence

from . import wall
from .job import Job, Line, encode_line

AT_ONCE = 16
REQUEST_BYTES = 65536
FRAME_BYTES = 65536
_HEAD = struct.Struct(">cI")
_GUEST_USAGE = "usage: {name} COMMAND, which runs inside the VM"


class CommandServer:
    """Serves the connections of claude's commands. `send` sends a line to the handler."""

    def __init__(self, job: Job, send: Callable[[bytes], None]) -> None:
        self._job, self._send = job, send
        self._asked: dict[int, asyncio.Future[Line]] = {}
        self._number = 0
        self._room = asyncio.Semaphore(AT_ONCE)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one command. A client that does not speak our protocol gets no answer."""
        with contextlib.suppress(OSError, ValueError, RecursionError, asyncio.IncompleteReadError):
            kind, data = await _read_frame(reader, REQUEST_BYTES)
            words = json.loads(data)
            if kind == b"r" and _are_texts(words):
                await self._answer(words[0], words[1:], reader, writer)
        writer.close()

    async def _answer(
        self, name: str, words: Sequence[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        text = " ".join(words)
        if name == "pve":
            await self._ask_handler(text, writer)
        elif not self._job.ssh_files or name != self._job.vm or not text or "\0" in text:
            _exit(writer, 2, _GUEST_USAGE.format(name=name))
        elif self._room.locked():
            _exit(writer, 255, f"{name}: {AT_ONCE} commands are running already; wait until one has ended")
        else:
            async with self._room:
                await _run_ssh(name, text, reader, writer)

    async def _ask_handler(self, text: str, writer: asyncio.StreamWriter) -> None:
        self._number += 1
        number, answer = self._number, asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self._send(encode_line({"pve": number, "line": text}))
            line = await answer
        finally:
            del self._asked[number]
        _frame(writer, b"o", str(line.get("text", "")).encode("utf-8", "replace"))
        exit = line.get("exit")
        _exit(writer, exit if isinstance(exit, int) else 255)

    def take_answer(self, line: Line) -> None:
        """Give the handler's answer to the command that waits for it."""
        number = line["pve"]
        asked = self._asked.get(number) if isinstance(number, int) else None
        if asked is not None and not asked.done():
            asked.set_result(line)


async def _run_ssh(name: str, text: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    ssh = ["/usr/bin/ssh", "-F", f"{wall.SSH}/config", name, "--", text]
    command = wall.network_wall(ssh, [wall.SSH])
    environment = {"PATH": wall.PATH, "LANG": "C.UTF-8"}
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment)
    assert process.stdout is not None
    assert process.stderr is not None
    feeding = asyncio.create_task(_feed(process, reader))
    try:
        await asyncio.gather(_pass_on(process.stdout, b"o", writer), _pass_on(process.stderr, b"w", writer))
        code = await process.wait()
        _exit(writer, code if code >= 0 else 128 - code)
        await writer.drain()
    finally:
        feeding.cancel()
        with contextlib.suppress(ProcessLookupError):
            process.kill()


async def _feed(process: Process, reader: asyncio.StreamReader) -> None:
    """Pass on the client's input; end ssh when the client has gone."""
    assert process.stdin is not None
    try:
        while True:
            kind, data = await _read_frame(reader, FRAME_BYTES)
            if kind == b"i":
                process.stdin.write(data)
                await process.stdin.drain()
            else:
                process.stdin.close()
    except (OSError, ValueError, asyncio.IncompleteReadError):
        with contextlib.suppress(ProcessLookupError):
            process.kill()


async def _pass_on(output: asyncio.StreamReader, kind: bytes, writer: asyncio.StreamWriter) -> None:
    while data := await output.read(FRAME_BYTES):
        _frame(writer, kind, data)
        await writer.drain()


async def _read_frame(reader: asyncio.StreamReader, most: int) -> tuple[bytes, bytes]:
    kind, size = _HEAD.unpack(await reader.readexactly(_HEAD.size))
    if size > most:
        raise ValueError("a frame is too long")
    return kind, await reader.readexactly(size)


def _frame(writer: asyncio.StreamWriter, kind: bytes, data: bytes) -> None:
    if not writer.is_closing():
        writer.write(_HEAD.pack(kind, len(data)) + data)


def _exit(writer: asyncio.StreamWriter, code: int, message: str = "") -> None:
    if message:
        _frame(writer, b"w", f"{message}\n".encode())
    _frame(writer, b"x", str(code).encode())


def _are_texts(words: object) -> bool:
    return isinstance(words, list) and bool(words) and all(isinstance(word, str) for word in words)
