"""The reason of a failure in the system's words, without Python's."""

import asyncio
import errno
import socket

import pytest

from breakglass.base.reasons import reason

from ..support.rows import each_row

REASONS: dict[str, tuple[Exception, str]] = {
    "asyncio's": (OSError(errno.EHOSTUNREACH, "Connect call failed ('192.0.2.10', 22)"), "No route to host"),
    "of two addresses": (
        OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 22, 0, 0), [Errno 113] Connect call f…"),
        "Connection refused and No route to host",
    ),
    "of a file": (FileNotFoundError(errno.ENOENT, "No such file or directory", "/etc/x"), "No such file or directory"),
    "of a name": (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
    "a sentence": (PermissionError("its listener is not root"), "its listener is not root"),
    "a wait": (TimeoutError(), "timed out"),
    "nothing": (ValueError(), "ValueError"),
}


@each_row("kind", REASONS)
def test_a_reason_is_in_the_systems_words(kind: str) -> None:
    error, words = REASONS[kind]
    assert reason(error) == words


async def test_a_connection_that_fails_says_why_without_python() -> None:
    """The error is asyncio's own, for a port without a server."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="Connect call") as caught:
            await asyncio.open_connection(*closed.getsockname())
    assert reason(caught.value) == "Connection refused"
