"""Requests as one exec each: all that a host can do on which no resident session opens."""

import asyncio

import asyncssh
from asyncssh.constants import OPEN_REQUEST_SESSION_FAILED

from ..errors import Lost, Unreached
from .outcome import Message
from .patience import exec_seconds
from .wire import LINE_BYTES, TOO_LONG, exec_messages

CLOSED = "lost"  # the cause when the connection ended before the request was sent; a new connection may be used
FULL = "the host is overloaded, or sshd's MaxSessions is small"
READ_BYTES = 64 * 1024  # at a time, of an exec's output
EXEC_CHANNELS = 7  # beside the session; sshd's MaxSessions is 10


class Execs:
    """The execs on one connection."""

    def __init__(self, conn: asyncssh.SSHClientConnection) -> None:
        self._conn = conn
        self._slots = asyncio.Semaphore(EXEC_CHANNELS)

    async def ask(self, line: str) -> list[Message]:
        """Send a request as soon as a channel is free, and return its messages, the last one a result."""
        async with self._slots:
            return await self.ask_now(line)

    async def ask_now(self, line: str) -> list[Message]:
        """Send a request and return its messages; raise Unreached or Lost."""
        try:
            async with asyncio.timeout(exec_seconds(line)):
                process = await self._conn.create_process(line, encoding=None)
                return await _read_answer(process)
        except asyncssh.ChannelOpenError as error:
            raise await self._not_opened(error) from None
        except (OSError, asyncssh.Error, TimeoutError):
            raise Lost("the connection was lost") from None

    async def _not_opened(self, error: asyncssh.ChannelOpenError) -> Unreached | Lost:
        """Return whether the exec request was sent, when asyncssh reports that the channel did not open.

        asyncssh raises the same class before and after that. After it, the code is OPEN_REQUEST_SESSION_FAILED: the
        host refused the request, or the connection ended before the reply, and the host may be executing it.
        """
        if error.code == OPEN_REQUEST_SESSION_FAILED:
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
