"""Supervises one turn in its sandbox: serves claude's commands, and sends claude's events to the handler.

Its protocol is in job.py. It enforces the limits of a turn, and reports why it stopped one. When this process ends, its
process namespace ends too, so no process is left behind.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import time
from collections.abc import Sequence
from subprocess import Popen
from typing import IO

from ..base.framer import Framer
from ..base.verbs import PROPOSAL_ID
from .command import Started, transcript_path
from .commands import CommandServer
from .events import Event, Translator
from .failures import End
from .job import LINE_BYTES, PIECE_BYTES, TRANSCRIPT_BYTES, Job, Line, encode_line, encode_pieces

STDERR_BYTES = 4096
TICK_SECONDS = 0.5
GRACE_SECONDS = {"shutting-down": 1.0}  # from SIGINT to SIGKILL; short for a handler that is stopping
_GRACE = 3.0
LAST_SECONDS = 3.0  # for reading claude's last output, and then for a handler that reads slowly


async def supervise(job: Job, sent: int, started: Started, channel: socket.socket) -> None:
    """Supervise a started turn until its end. `sent` is how much of the transcript the handler has."""
    reader, writer = await asyncio.open_connection(sock=channel, limit=2 * LINE_BYTES)
    await Turn(job, sent, started, reader, writer).run()


class Turn:
    """The turn under way."""

    def __init__(
        self, job: Job, sent: int, started: Started, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.job = job
        self._sent, self._started = sent, started
        self._reader, self._writer = reader, writer
        self._translator = Translator(job.vm, lambda: f"{PROPOSAL_ID}{os.urandom(12).hex()}", 2, job.verbs)
        self._commands = CommandServer(job, self._send)
        self._stderr = b""
        self._output_at = time.monotonic()
        self._stopped = ""
        self._unsaved = False

    async def run(self) -> None:
        """Run the turn to its end."""
        exit = await self._wait(self._started.claude)
        seconds = {"silent": self.job.silence_seconds, "turn-timeout": self.job.turn_seconds}.get(self._stopped, 0)
        said = self._stderr.decode("utf-8", "replace")
        end = End(exit, said, self._stopped, seconds, self._unsaved)
        self._write(self._translator.close(end))
        with contextlib.suppress(OSError, TimeoutError):  # the handler has closed the socket, or does not read
            async with asyncio.timeout(LAST_SECONDS):
                await self._writer.drain()
                self._writer.close()
                await self._writer.wait_closed()

    async def _wait(self, claude: Popen[bytes]) -> int:
        """Wait until claude's last output is read and its transcript is sent. Return how claude ended."""
        server = await asyncio.start_unix_server(self._commands.serve, sock=self._started.commands)
        works = (server.serve_forever(), self._listen(), self._watch(), self._wait_for_proxy())
        tasks = [asyncio.create_task(work) for work in works]
        reads = [
            asyncio.create_task(self._read_output(claude.stdout)),
            asyncio.create_task(self._read_stderr(claude.stderr)),
        ]
        exit = await _ended(claude)
        await asyncio.wait(reads, timeout=LAST_SECONDS)
        for task in (*reads, *tasks):
            task.cancel()
        self._send_transcript()
        return 128 - exit if exit > 128 else exit  # bubblewrap adds 128 to the number of a signal

    # --- claude ---

    async def _read_output(self, pipe: IO[bytes] | None) -> None:
        framer, output = Framer(), await _open(pipe)
        while chunk := await output.read(PIECE_BYTES):
            self._output_at = time.monotonic()
            for line in framer.feed(chunk):
                events = self._translator.feed(line)
                self._write(events)
                if any(event["type"] == "tool_result" for event in events):
                    self._send_transcript()
            await self._writer.drain()

    async def _read_stderr(self, pipe: IO[bytes] | None) -> None:
        output = await _open(pipe)
        while chunk := await output.read(PIECE_BYTES):
            self._stderr = (self._stderr + chunk)[-STDERR_BYTES:]

    def _write(self, events: Sequence[Event]) -> None:
        for event in events:
            line = encode_line(event)
            if len(line) > LINE_BYTES:  # the input of a tool call can be this long
                line = encode_line({**event, "input": {}, "text": "", "cut": True})
            self._send(line)

    def _send(self, line: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(line)

    def _send_transcript(self) -> None:
        """Send the whole lines that the transcript has gained, or the whole transcript if claude has shortened it."""
        try:
            new = self._read_transcript()
        except OSError as error:
            self._unsaved = not isinstance(error, FileNotFoundError)
            return
        self._unsaved = False
        whole = new[: new.rfind(b"\n") + 1]
        for line in encode_pieces(whole, self._sent):
            self._send(line)
        self._sent += len(whole)

    def _read_transcript(self) -> bytes:
        """Return the part that was not sent yet. Raises OSError if the file is a link or a pipe."""
        fd = os.open(transcript_path(self.job.sid), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size > TRANSCRIPT_BYTES:
                raise OSError("not a regular file, or too long")
            self._sent = 0 if found.st_size < self._sent else self._sent
            return os.pread(file.fileno(), found.st_size - self._sent, self._sent)

    # --- limits ---

    async def _watch(self) -> None:
        """Stop the turn when it reaches a limit."""
        until = time.monotonic() + self.job.turn_seconds
        while not self._stopped:
            now = time.monotonic()
            if now > until:
                self._stop("turn-timeout")
            elif now - self._output_at > self.job.silence_seconds and not self._translator.in_tool:
                self._stop("silent")
            await asyncio.sleep(min(TICK_SECONDS, max(until - now, 0.01)))

    async def _wait_for_proxy(self) -> None:
        await _ended(self._started.proxy)
        self._stop("proxyless")

    async def _listen(self) -> None:
        """Follow the handler's instructions until it closes the socket."""
        try:
            while line := await self._reader.readline():
                self._take(json.loads(line))
        except (OSError, ValueError):
            pass
        self._stop("shutting-down")

    def _take(self, line: Line) -> None:
        if "pve" in line:
            self._commands.take_answer(line)
        elif isinstance(why := line.get("stop"), str):
            self._stop(why)

    def _stop(self, why: str) -> None:
        """Stop claude, or shorten the time it has left to stop. The error names the first reason."""
        is_first, self._stopped = not self._stopped, self._stopped or why
        claude = self._started.claude
        if claude.returncode is not None:
            return
        if is_first and (pid := _find_claude(claude.pid)):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGINT)
        # the kill ends claude's sandbox and every process in it
        asyncio.get_running_loop().call_later(GRACE_SECONDS.get(why, _GRACE), claude.kill)


async def _ended(process: Popen[bytes]) -> int:
    """Wait until a process has ended, and return how it ended."""
    loop, fd, has_ended = asyncio.get_running_loop(), os.pidfd_open(process.pid), asyncio.Event()
    loop.add_reader(fd, has_ended.set)
    try:
        await has_ended.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)
    return process.wait()


async def _open(pipe: IO[bytes] | None) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=PIECE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader


def _find_claude(pid: int) -> int:
    """Return claude's process: in its sandbox, the child of process 1, which is itself a child of bubblewrap."""
    for _ in range(2):
        try:
            with open(f"/proc/{pid}/task/{pid}/children") as file:
                pid = int(file.read().split()[0])
        except (OSError, ValueError, IndexError):  # the process is still starting, or has already ended
            return 0
    return pid
