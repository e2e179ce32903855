"""Children that answer reading verbs, one question after the other, so that a fork is not paid for each.

A reader that is late may hang for ever on what it reads: it is killed, left behind, and replaced.
"""

import json
import os
import socket
from dataclasses import asdict

from ..grammar import Request
from ..host.bounded import kill_child
from ..host.paths import Host, Key
from ..host.process import close_standard_streams, lock_memory
from .reads import read


class Reader:
    """One child and our end of its socket."""

    def __init__(self, host: Host, key: Key, bundle: str, resident: bool) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._socket.close()
                _answering(theirs, host, key, bundle, resident)
            finally:
                os._exit(0)
        theirs.close()

    def ask(self, request: Request) -> None:
        self._socket.sendall(json.dumps(asdict(request)).encode() + b"\n")

    def heard(self) -> bytes:
        """Return what the reader has said; nothing when it has died."""
        try:
            return self._socket.recv(1 << 20)
        except OSError:
            return b""

    def fileno(self) -> int:
        return self._socket.fileno()

    def kill(self) -> None:
        kill_child(self._pid)
        self._socket.close()


def _answering(theirs: socket.socket, host: Host, key: Key, bundle: str, resident: bool) -> None:
    """Answer until our parent is gone."""
    close_standard_streams()
    if resident:
        lock_memory()
    with theirs.makefile("rb") as questions:
        for line in questions:
            for message in read(host, key, Request(**json.loads(line)), bundle):
                theirs.sendall(json.dumps(message).encode() + b"\n")


class Readers:
    """The reader that waits for the next question, if any; more are made while it is busy."""

    def __init__(self, host: Host, key: Key, bundle: str, resident: bool) -> None:
        self._made_of = (host, key, bundle, resident)
        self._idle: Reader | None = None

    def ask(self, request: Request) -> Reader:
        """Return a reader that has been asked: the idle one, or a new one when that is busy or dead."""
        reader, self._idle = self._idle or Reader(*self._made_of), None
        try:
            reader.ask(request)
        except OSError:
            reader.kill()
            reader = Reader(*self._made_of)
            reader.ask(request)
        return reader

    def give_back(self, reader: Reader) -> None:
        """Keep a reader that has answered, or end it when another one waits already."""
        if self._idle is None:
            self._idle = reader
        else:
            reader.kill()

    def close(self) -> None:
        if self._idle is not None:
            self._idle.kill()
