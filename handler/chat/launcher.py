"""The launcher as the handler sees it: a socket to a process that is root (claude/launcher.py).

All of it blocks, for a few seconds at most, so it runs in a thread of `threads.py`.
"""

import contextlib
import socket
import time
from collections.abc import Sequence
from typing import Protocol

from ..base.reasons import reason
from ..claude.command import ClaudeTurn
from ..claude.launch_channel import sender_of
from ..claude.launch_messages import ACCEPTED, MOST_BYTES, NOT_ISOLATED, encode_turn
from ..claude.start import TurnFds
from .request import LauncherLate

SECONDS = 5.0  # to accept a message
CHECK_SECONDS = 9.0  # less than SessionsDisk allows
END_SECONDS = 9.0  # from the end of a runner's socket to the end of its processes
_REPLY_BYTES = 64 * 1024


class LauncherError(OSError):
    """The launcher has ended, or refused a message."""


class Waitable(Protocol):
    """A runner whose end can be waited for."""

    def wait(self) -> object:
        """Return once it has ended."""


class LaunchedRunner:
    """A runner that the launcher started."""

    def __init__(self, reply: socket.socket) -> None:
        self._reply = reply

    def wait(self) -> None:
        """Return once it has ended. Raises OSError when that takes too long."""
        with self._reply as reply:
            reply.settimeout(END_SECONDS)
            reply.recv(1)


class LauncherClient:
    """Sends messages to the launcher. Each has a socket for its reply.

    `channel` is the socket to the launcher that this handler has started, or None. Then `path` is the socket on which
    a service manager starts one.
    """

    def __init__(self, channel: socket.socket | None, path: str = "") -> None:
        self.channel, self._path = channel, path
        self._late: socket.socket | None = None  # for the reply to a check that was not answered in time
        if channel is not None:
            channel.settimeout(SECONDS)

    def connect(self) -> None:
        """Make sure that there is a channel. Raises LauncherError."""
        if self.channel is not None:
            return
        if not self._path:
            raise LauncherError("the launcher has ended")
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel.settimeout(SECONDS)
        try:
            channel.connect(self._path)
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MOST_BYTES)
            if sender_of(channel) != 0:
                raise PermissionError("its listener is not root")
        except OSError as error:
            channel.close()
            raise LauncherError(f"no launcher answers on {self._path}: {reason(error)}") from None
        self.channel = channel

    def disconnect(self, seconds: float = 0.0) -> None:
        """Close the channel. First give the launcher `seconds` to end and to remove the files of the last turns."""
        channel, self.channel = self.channel, None
        late, self._late = self._late, None
        if late is not None:
            late.close()
        if channel is not None:
            with channel, contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_WR)
                channel.settimeout(seconds)
                channel.recv(1)

    def check(self) -> str:
        """Have the launcher read the configuration again; return why claude is not isolated, or "".

        Raises LauncherError, and LauncherLate after CHECK_SECONDS.
        """
        end = time.monotonic() + CHECK_SECONDS
        late, self._late = self._late, None
        if late is not None:
            self._wait(late, CHECK_SECONDS)
        first, text = self._wait(self._send(b"check", ()), max(end - time.monotonic(), 0.1))
        if first not in (ACCEPTED, NOT_ISOLATED):
            raise LauncherError(text)
        return text

    def _wait(self, reply: socket.socket, seconds: float) -> tuple[bytes, str]:
        """Return the reply to a check. A late one is waited for at the next check: the launcher does one at a time."""
        try:
            answer = _receive(reply, seconds)
        except LauncherLate:
            self._late = reply
            raise LauncherLate(f"the launcher did not answer in {CHECK_SECONDS:g} s") from None
        except BaseException:
            reply.close()
            raise
        reply.close()
        return answer

    def start_turn(self, key: str, turn: ClaudeTurn, turn_fds: TurnFds) -> Waitable:
        """Start a turn that has these descriptors. Raises LauncherError or LauncherLate."""
        fds = [fd for fd in turn_fds if fd >= 0]  # only the last one may be missing
        message = encode_turn(key, turn.sid, turn.resume, turn.vm.name, turn.prompt, turn.tools)
        reply = self._send(message, fds)
        try:
            first, text = _receive(reply, SECONDS)
            if first != ACCEPTED:
                raise LauncherError(text)
        except BaseException:
            reply.close()
            raise
        return LaunchedRunner(reply)

    def remove(self, name: str) -> None:
        """Remove a directory below sessions.dir. Raises LauncherError or LauncherLate."""
        with self._send(f"remove {name}".encode(), ()) as reply:
            first, text = _receive(reply, CHECK_SECONDS)
        if first != ACCEPTED:
            raise LauncherError(text)

    def _send(self, message: bytes, fds: Sequence[int]) -> socket.socket:
        channel = self.channel
        if channel is None:
            raise LauncherError("the launcher has ended")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                socket.send_fds(channel, [message], [theirs.fileno(), *fds])
            except OSError as error:
                ours.close()
                raise LauncherError(f"the launcher could not be sent a message: {reason(error)}") from None
        return ours


def _receive(reply: socket.socket, seconds: float) -> tuple[bytes, str]:
    """Return the first byte of a reply, and its text."""
    reply.settimeout(seconds)
    try:
        data = reply.recv(_REPLY_BYTES)
    except TimeoutError:
        raise LauncherLate(f"the launcher did not answer in {seconds:g} s") from None
    if not data:
        raise LauncherError("the launcher ended the connection without an answer")
    return data[:1], data[1:].decode("utf-8", "replace")
