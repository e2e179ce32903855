"""A child that has become the handler's user, and that alone touches the keys in `sessions.dir/pairing/`.

Root makes no file in a directory of another user, because a name there can become a link at any moment. The child is
forked before there is a key, so it never has one.
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
    """`sessions.dir/pairing/`, as the handler's user sees it. What fails raises CommandError."""

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
        """Return it, once the child is the handler's user."""
        self._receive()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the child. One that a disk holds ends when the disk lets it go."""
        self._ours.close()
        end = time.monotonic() + _END_SECONDS
        while os.waitpid(self._pid, os.WNOHANG)[0] == 0 and time.monotonic() < end:
            time.sleep(0.01)

    def call(self, name: str, *arguments: object) -> str:
        """Call `leave`, `find_state` or `withdraw` of config/pairing.py there, and return what it returns."""
        try:
            self._ours.send(json.dumps([name, *arguments]).encode())
        except OSError:
            raise self._failed("it did not answer before") from None
        return self._receive()

    def _receive(self) -> str:
        try:
            data = self._ours.recv(_MOST_BYTES)
        except TimeoutError:
            self._ours.close()  # its answer would be taken for that of the next call
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
            signal.signal(number, signal.SIG_IGN)  # the parent is told too, and needs this process to clean up
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):  # a reader of the output must not wait for a disk that holds this process
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
