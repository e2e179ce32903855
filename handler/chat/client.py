"""Runs in claude's sandbox in place of a command outside it. Passes on arguments, streams and the exit code.

It is copied into the sandbox as `bin/NAME` and uses only the standard library. Each frame is a letter, a length and
that many bytes. The client sends `r` (the request), `i` (input) and `e` (end of input), and receives `o` (output), `w`
(stderr) and `x` (the exit code).
"""

import contextlib
import json
import os
import select
import socket
import struct
import sys

_HEAD = struct.Struct(">cI")
_SOCKET = f"{os.path.dirname(os.path.abspath(__file__))}/../commands"


def _send(server: socket.socket, kind: bytes, data: bytes) -> None:
    server.sendall(_HEAD.pack(kind, len(data)) + data)


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def main() -> int:
    """Run the command outside the sandbox, and return its exit code."""
    name = os.path.basename(__file__)
    try:
        os.fstat(0)
    except OSError:  # standard input is closed, so the socket would get its number
        os.open(os.devnull, os.O_RDONLY)
    server = socket.socket(socket.AF_UNIX)
    try:
        server.connect(_SOCKET)
        _send(server, b"r", json.dumps([name, *sys.argv[1:]]).encode())
        waiting: list[socket.socket | int] = [server, 0]
        while True:
            ready = select.select(waiting, [], [])[0]
            if 0 in ready:
                data = os.read(0, 65536)
                with contextlib.suppress(OSError):  # the server may have answered and closed the socket already
                    _send(server, b"i" if data else b"e", data)
                waiting = waiting if data else [server]
            if server in ready:
                kind, size = _HEAD.unpack(server.recv(_HEAD.size, socket.MSG_WAITALL))
                data = server.recv(size, socket.MSG_WAITALL)
                if kind == b"x":
                    return int(data)
                _write(1 if kind == b"o" else 2, data)
    except (OSError, ValueError, struct.error) as error:
        sys.stderr.write(f"{name}: it could not be run, or its result is not known: {error}\n")
        return 255


if __name__ == "__main__":
    sys.exit(main())
