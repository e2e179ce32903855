"""Requests as one exec each: all that a host can do on which no resident session opens."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from ..allowance import LINE_BYTES, TOO_LONG
from ..budget import FIRST_SECONDS
from ..config.ssh_library import asyncssh
from ..errors import Lost, Unreached
from ..verbs import VERBS
from .outcome import Message
from .patience import Patience
from .wire import exec_messages, is_message

CLOSED = "lost"  # the cause when the connection ended before the request was sent; a new connection may be used
FULL = "the host is overloaded, or sshd's MaxSessions is small"
READ_BYTES = 64 * 1024  # at a time, of an exec's output
READ_CHANNELS, JOB_CHANNELS = 3, 4  # beside the session; sshd's MaxSessions is 10
POLL_SECONDS = 2.0  # between two looks at a job
# Of opening a channel. asyncssh asserts that there is a connection, which may have ended a moment before.
FAILURES = (OSError, asyncssh.Error, TimeoutError, AssertionError)


class Execs:
    """The execs on one connection."""

    def __init__(self, conn: asyncssh.SSHClientConnection) -> None:
        self._conn = conn
        self._for_reads, self._for_jobs = asyncio.Semaphore(READ_CHANNELS), asyncio.Semaphore(JOB_CHANNELS)

    async def ask(self, line: str) -> AsyncIterator[Message]:
        """Send a request and yield its messages, the last one a result.

        A job occupies no channel while it runs, or a few long ones would keep every other verb waiting: it is begun,
        looked at every few seconds, and asked for its messages once it has ended.
        """
        verb, *words = line.split()
        is_job = verb in VERBS and VERBS[verb].is_job
        is_followed = is_job and words[-1] != "detach"
        messages = await self.send(f"{line} detach" if is_followed else line, is_job)
        begun = messages[-1]
        if is_followed and begun.get("stage") == "accepted":
            stage = {"type": "stage"} | {name: begun.get(name) for name in ("stage", "deadline", "started")}
            if not is_message(stage):
                raise Lost("the host did not say when the job ends")
            yield stage
            patience = Patience(time.monotonic())
            patience.update(stage, time.monotonic())
            messages = await self._follow(line, f"job {words[0]} {words[1]}", patience)
            messages[-1]["attached"] = begun.get("attached", False)
        for message in messages:
            yield message

    async def _follow(self, line: str, look: str, patience: Patience) -> list[Message]:
        """Return a job's messages once it has ended, or is over its deadline; raise Lost, because it has begun."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            is_late = time.monotonic() > patience.until
            with suppress(Lost, Unreached):  # a full host may answer the next time
                job = (await self.send(look))[-1].get("whole_job")
                if is_late or (isinstance(job, dict) and job.get("outcome")):
                    return await self.send(line, is_job=True)
            if is_late or self._conn.is_closed():
                raise Lost("the connection was lost")

    async def send(self, line: str, is_job: bool = False) -> list[Message]:
        """Send a request as soon as a channel is free, and return its messages; raise Unreached or Lost."""
        async with self._for_jobs if is_job else self._for_reads:
            try:
                async with asyncio.timeout(FIRST_SECONDS):
                    process = await self._conn.create_process(line, encoding=None)
                    return await _read_answer(process)
            except asyncssh.ChannelOpenError as error:
                raise await self._not_opened(error) from None
            except FAILURES:
                raise Lost("the connection was lost") from None

    async def _not_opened(self, error: asyncssh.ChannelOpenError) -> Unreached | Lost:
        """Return whether the exec request was sent, when asyncssh reports that the channel did not open.

        asyncssh raises the same class before and after that. After it, the code is OPEN_REQUEST_SESSION_FAILED: the
        host refused the request, or the connection ended before the reply, and the host may be executing it.
        """
        if error.code == asyncssh.OPEN_REQUEST_SESSION_FAILED:
            return Lost("the connection was lost")
        await asyncio.sleep(0)  # asyncssh marks a connection as closed one step of the event loop after it closes it
        if self._conn.is_closed():
            return Unreached(CLOSED, "the connection was lost", "send it again")
        return Unreached("turned-away", f"the host refused a channel ({error.reason})", FULL)


async def _read_answer(process: asyncssh.SSHClientProcess[bytes]) -> list[Message]:
    """Return the messages of one exec; raise Lost when they are incomplete or too long."""
    try:
        stdout, stderr = await asyncio.gather(_read_all(process.stdout), _read_all(process.stderr))
        await process.wait_closed()
        return exec_messages(stdout, stderr, process.exit_status)
    finally:
        process.close()


async def _read_all(stream: asyncssh.SSHReader[bytes]) -> bytes:
    """Return all of an exec's stream; raise Lost once it is longer than LINE_BYTES.

    asyncssh reads no further ahead than the channel's window.
    """
    parts, size = [], 0
    while part := await stream.read(READ_BYTES):
        size += len(part)
        if size > LINE_BYTES:
            raise Lost(TOO_LONG)
        parts.append(part)
    return b"".join(parts)
