"""A child process that runs as the handler's user. Only it accesses the keys in `sessions.dir/pairing/`.

Root creates no file in another user's directory, because that user can replace a name by a link at any moment. The
child is forked before a key exists, so its memory never contains one.
"""

import json
import os
import pwd
import signal
import socket
import time
from types import TracebackType

from ...config.pairing import find_state, leave, withdraw
from ..account import become
from ..output import FAILED, CommandError, reason

_SECONDS = 10.0  # for one call
_END_SECONDS = 1.0
_MOST_BYTES = 65536
_CALLS = {"leave": leave, "find_state": find_state, "withdraw": withdraw}


class KeyDirectory:
    """`sessions.dir/pairing/`, accessed as the handler's user. Every failure raises CommandError."""

    def __init__(self, directory: str, account: pwd.struct_passwd | None) -> None:
        self._directory = os.path.abspath(directory)
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            self._ours.close()
            _serve(theirs, self._directory, account)
        theirs.close()
        self._ours.settimeout(_SECONDS)

    def __enter__(self) -> "KeyDirectory":
        """Return this object after the child has become the handler's user."""
        self._receive()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the child. A child that hangs on a disk ends when the disk answers."""
        self._ours.close()
        end = time.monotonic() + _END_SECONDS
        while os.waitpid(self._pid, os.WNOHANG)[0] == 0 and time.monotonic() < end:
            time.sleep(0.01)

    def call(self, name: str, *arguments: object) -> str:
        """Call `leave`, `find_state` or `withdraw` of config/pairing.py in the child, and return the result."""
        try:
            self._ours.send(json.dumps([name, *arguments]).encode())
        except OSError:
            raise self._failed("it stopped earlier") from None
        return self._receive()

    def _receive(self) -> str:
        try:
            data = self._ours.recv(_MOST_BYTES)
        except TimeoutError:
            self._ours.close()  # a late answer would be mistaken for the answer to the next call
            raise self._failed(f"it did not answer within {_SECONDS:g} s") from None
        except OSError:
            data = b""
        answer = json.loads(data or b'{"error": "the process that uses it has ended"}')
        if "error" in answer:
            raise self._failed(answer["error"])
        return str(answer["result"])

    def _failed(self, why: str) -> CommandError:
        message = f"sessions.dir, {self._directory}, can't be used by the handler's user: {why}"
        return CommandError(message, "see what breakglass doctor reports about it", FAILED)


def _serve(theirs: socket.socket, directory: str, account: pwd.struct_passwd | None) -> None:
    """Answer calls until the other end is closed. Does not return."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)  # the parent gets the signal too, and needs its child to clean up
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):  # otherwise a reader of the output would wait for this process if a disk hangs
            os.dup2(nowhere, fd)
        try:
            if account is not None:
                become(account)
        except CommandError as error:
            _answer(theirs, error=error.message)
            return
        _answer(theirs, result="")
        while data := theirs.recv(_MOST_BYTES):
            name, *arguments = json.loads(data)
            try:
                _answer(theirs, result=_CALLS[name](directory, *arguments))  # type: ignore[operator]
            except OSError as error:
                _answer(theirs, error=reason(error))
    finally:
        os._exit(0)


def _answer(theirs: socket.socket, **fields: object) -> None:
    theirs.send(json.dumps(fields).encode())
