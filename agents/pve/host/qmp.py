"""A client for QEMU's monitor (QMP) over its socket, in which every step has a deadline.

QEMU serves one client at a time, and `pvestatd` is another client, so a busy monitor is retried until the deadline, and
each conversation is short. Rules: QEMU's docs/interop/qmp-spec.rst.
"""

import json
import os
import socket
import time
from collections.abc import Sequence

MESSAGE_BYTES = 4 * 1024 * 1024
# RunState of QEMU's qapi/run-state.json, since 6.0. Any other word becomes `unknown`, because callers compare the
# state and send it back.
RUN_STATES = (
    *("debug", "inmigrate", "internal-error", "io-error", "paused", "postmigrate", "prelaunch", "finish-migrate"),
    *("restore-vm", "running", "save-vm", "shutdown", "suspended", "watchdog", "guest-panicked", "colo"),
)


class QmpSilent(Exception):
    """Raised if QEMU does not answer on its monitor; QEMU may or may not have read the command."""


class QmpError(Exception):
    """Raised if QEMU answers a command with an error."""


class Qmp:
    """One short conversation with a monitor; a context manager.

    `seconds` limits the whole conversation. Raises QmpSilent when QEMU does not answer in that time.
    """

    def __init__(self, path: str, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._buffer = b""
        self.events: list[str] = []
        self._socket = self._connect(path)
        try:
            self._next()  # QEMU sends its greeting when it serves this client
            self.command("qmp_capabilities")
        except BaseException:
            self._socket.close()
            raise

    def _connect(self, path: str) -> socket.socket:
        while True:
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            client.settimeout(self._left())
            try:
                client.connect(path)
                return client
            except BlockingIOError:  # the listen queue is full because another client is connected
                client.close()
                time.sleep(0.02)
            except OSError as error:
                client.close()
                raise QmpSilent(f"the monitor can't be reached: {error.strerror or error}") from None

    def _left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise QmpSilent("the monitor did not answer in time")
        return left

    def _next(self) -> dict[str, object]:
        while b"\n" not in self._buffer:
            self._socket.settimeout(self._left())
            try:
                chunk = self._socket.recv(65536)
            except OSError:
                raise QmpSilent("the monitor did not answer in time") from None
            if not chunk:
                raise QmpSilent("the monitor closed the connection")
            self._buffer += chunk
            if len(self._buffer) > MESSAGE_BYTES:
                raise QmpSilent("the monitor sent a message without an end")
        line, self._buffer = self._buffer.split(b"\n", 1)
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise QmpSilent("the monitor sent something that is not QMP")
        if "event" in message:
            self.events.append(str(message["event"]))
        return message

    def command(self, name: str, fds: Sequence[int] = (), **arguments: object) -> object:
        """Execute a QMP command, which may pass descriptors; return its answer. Raise QmpError if refused."""
        own = f"{os.getpid()}-{time.monotonic_ns()}"  # an answer to a client that has left goes to the next one
        request = {"execute": name, "id": own, **({"arguments": arguments} if arguments else {})}
        self._socket.settimeout(self._left())
        try:
            data = json.dumps(request).encode() + b"\n"
            socket.send_fds(self._socket, [data], fds) if fds else self._socket.sendall(data)
        except OSError:
            raise QmpSilent("the monitor did not take the command") from None
        while True:
            message = self._next()
            if message.get("id") != own:
                continue
            if "error" in message:
                raise QmpError(_description(message["error"]))
            if "return" in message:
                return message["return"]

    def wait_event(self, name: str) -> None:
        """Wait for the event `name`; raise QmpSilent when the conversation ends before it."""
        while name not in self.events:
            self._next()

    def status(self) -> str:
        """Return QEMU's RunState; `unknown` if it says anything else."""
        answer = self.command("query-status")
        word = str(answer.get("status")) if isinstance(answer, dict) else ""
        return word if word in RUN_STATES else "unknown"

    def __enter__(self) -> "Qmp":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def _description(error: object) -> str:
    return str(error.get("desc", error)) if isinstance(error, dict) else str(error)
