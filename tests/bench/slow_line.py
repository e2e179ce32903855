"""A phone's bad line in front of a port: a rate and a delay in each direction, and a connection costs a round trip.

TCP's slow start is not played: its first window, 14.6 kB, is most of what such a line holds in one round trip.
"""

import queue
import socket
import threading
import time
from dataclasses import dataclass, field

from ..support.ports import reserve_port

_SEGMENT = 1460
_Data = tuple[float, bytes]  # when it arrives; no bytes: the end


@dataclass
class _Direction:
    """What all connections share: bytes leave one after the other."""

    seconds_per_byte: float
    delay: float
    free_at: float = 0.0
    passed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def arrival_of(self, size: int, earliest: float) -> float:
        """Return when so many bytes arrive that are sent now, or as soon as the connection is there."""
        with self.lock:
            self.passed += size
            self.free_at = max(self.free_at, earliest, time.monotonic()) + size * self.seconds_per_byte
            return self.free_at + self.delay


class SlowLine:
    """A TCP proxy on loopback that takes its time, counts bytes, and can swallow everything."""

    to = 0  # the port behind it

    def __init__(self, bits_per_second: int, round_trip: float) -> None:
        self.port = reserve_port()
        self.swallows = False
        self._round_trip = round_trip
        self._forth, self._back = (_Direction(8 / bits_per_second, round_trip / 2) for _ in "12")
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def passed(self) -> int:
        """The bytes that passed, in both directions."""
        return self._forth.passed + self._back.passed

    def drop(self) -> None:
        """End all connections, as a phone does that slept."""
        for end in list(self._open):
            self._end(end)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(client)
            if not self.swallows:
                handler = socket.create_connection(("127.0.0.1", self.to))
                self._open.add(handler)
                is_there = time.monotonic() + self._round_trip
                self._carry(client, handler, self._forth, is_there)
                self._carry(handler, client, self._back, is_there)

    def _carry(self, source: socket.socket, sink: socket.socket, way: _Direction, is_there: float) -> None:
        under_way: queue.SimpleQueue[_Data] = queue.SimpleQueue()
        threading.Thread(target=self._send, args=(source, way, under_way, is_there), daemon=True).start()
        threading.Thread(target=self._receive, args=(sink, under_way), daemon=True).start()

    def _send(
        self, source: socket.socket, way: _Direction, under_way: "queue.SimpleQueue[_Data]", since: float
    ) -> None:
        data = b"first"
        while data:
            try:
                data = source.recv(_SEGMENT)
            except OSError:
                data = b""
            under_way.put((way.arrival_of(len(data), since), data))

    def _receive(self, sink: socket.socket, under_way: "queue.SimpleQueue[_Data]") -> None:
        while True:
            arrival, data = under_way.get()
            time.sleep(max(0.0, arrival - time.monotonic()))
            try:
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)
            except OSError:
                self._end(sink)
                return

    def _end(self, end: socket.socket) -> None:
        self._open.discard(end)
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        end.close()
