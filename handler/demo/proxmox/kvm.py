"""A stand-in for a missing QEMU: a process with a pid file and a QMP monitor, but without a guest.

Like QEMU, it serves one monitor client at a time, greets first, and sends events before answers.
"""

import json
import os
import socket
import sys
from contextlib import suppress
from io import BufferedRWPair
from typing import Any

RETURNS: dict[str, object] = {
    "query-version": {"qemu": {"major": 10, "minor": 0, "micro": 0}},
    "qmp_capabilities": {},
    "system_powerdown": {},
}


STATES = {"stop": "paused", "inject-nmi": "guest-panicked"}


class Machine:
    """The machine's state, which the monitor shows and changes."""

    def __init__(self) -> None:
        self.status = "running"
        self.has_quit = False

    def answer(self, request: dict[str, Any]) -> list[dict[str, object]]:
        """Return the messages that answer one command."""
        command = str(request.get("execute"))
        self.has_quit = command == "quit"
        events: list[dict[str, object]] = []
        if command == "query-status":
            return [{"return": {"status": self.status, "running": self.status == "running"}}]
        if command == "system_reset":
            events.append({"event": "RESET", "data": {"guest": False}})
            self.status = self.status if self.status == "running" else "prelaunch"
        elif command == "cont":
            self.status = "running"
        elif command in STATES:
            self.status = STATES[command]
        elif command not in (*RETURNS, "quit"):
            return [{"error": {"class": "CommandNotFound", "desc": f"The command {command} has not been found"}}]
        return [*events, {"return": RETURNS.get(command, {})}]


def serve(listener: socket.socket, machine: Machine) -> None:
    """Serve monitor clients one after the other, until one sends quit."""
    while not machine.has_quit:
        client, _ = listener.accept()
        with suppress(OSError), client, client.makefile("rwb") as stream:  # a client may leave before its answer
            converse(stream, machine)


def converse(stream: BufferedRWPair, machine: Machine) -> None:
    """Serve one client until it leaves or sends quit."""
    send(stream, {"QMP": {"version": {}, "capabilities": []}})
    for line in stream:
        request = json.loads(line)
        for message in machine.answer(request):
            own = {"id": request["id"]} if "id" in request and "event" not in message else {}
            send(stream, {**message, **own})
        if machine.has_quit:
            return


def send(stream: BufferedRWPair, message: dict[str, object]) -> None:
    """Send a client one message."""
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def main() -> None:
    """Run `kvm kvm.py -pidfile PIDFILE -qmp SOCKET -daemonize`: serve in the background."""
    pidfile, qmp = sys.argv[2], sys.argv[4]
    if os.path.exists(qmp):
        os.unlink(qmp)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(qmp)
    listener.listen(1)
    ready, ready_end = os.pipe()
    if pid := os.fork():
        os.close(ready_end)
        os.read(ready, 1)  # empty once the child is in a new session, because `qm` ends its task's process group
        # QEMU too writes this file before this process ends, because `qm start` then reads it
        with open(pidfile, "w", encoding="ascii") as file:
            file.write(f"{pid}\n")
        return
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(ready_end)
    serve(listener, Machine())


if __name__ == "__main__":
    main()
