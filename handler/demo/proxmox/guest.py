"""The demo's guest behind QEMU's monitor: what it does, and how it comes to its fault."""

import json
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .power import BALLOON

OLD_SECONDS = 21  # if the last answer is older, a collection of evidence watches until it can say hung
_NO_LIMITS = dict.fromkeys(("bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)


def connect_monitor(path: Path, seconds: int = 20) -> socket.socket:
    """Return a connection to a monitor. Each step waits at most `seconds`, and the first for a place in the queue."""
    client = socket.socket(socket.AF_UNIX)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", seconds, 0))
    client.connect(str(path))  # before settimeout, with which it would not wait (connect(2), EAGAIN)
    client.settimeout(seconds)
    return client


@dataclass(frozen=True)
class Guest:
    """A VM's guest. `path` is the socket of a QMP monitor.

    Each method that waits raises RuntimeError, with the reason, if the guest does not do in time what it waits for.
    """

    path: Path

    def monitor(self, command: str, **arguments: object) -> object:
        """Send one QMP command and return its answer. Raises RuntimeError if the VM refuses it."""
        with connect_monitor(self.path) as client, client.makefile("rwb") as stream:
            while "QMP" not in json.loads(stream.readline()):  # an event may come before the greeting
                pass
            for request in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                stream.write(json.dumps(request).encode() + b"\n")
                stream.flush()
                while "event" in (answer := json.loads(stream.readline())):
                    pass
        if "error" in answer:
            raise RuntimeError(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def wait_for_heartbeat(self) -> None:
        """Wait until the guest's kernel has booted and its driver of the balloon answers."""
        _wait(self._last_answer, "the guest's kernel does not answer", 120)

    def press_enter(self, seconds: float = 10) -> None:
        """Press Enter in a living kernel, and wait for its panic for some seconds, because it may have no keyboard."""
        self._send_enter()
        with suppress(RuntimeError):
            _wait(lambda: self._is_in("guest-panicked"), "", seconds)

    def hang(self) -> None:
        """Press Enter in a living kernel, which then halts, and wait until its last answer is OLD_SECONDS old."""
        self._send_enter()
        _wait(lambda: time.time() - self._last_answer() > OLD_SECONDS, "the guest's kernel did not stop")

    def _send_enter(self) -> None:
        self.wait_for_heartbeat()
        self.monitor("send-key", keys=[{"type": "qcode", "data": "ret"}])

    def wait_for_panic(self) -> None:
        """Send NMIs, because a guest that still boots loses them, until QEMU knows of the panic."""
        _wait(lambda: self._is_in("guest-panicked") or self.monitor("inject-nmi"), "the guest's kernel does not panic")

    def wait_for_io_error(self) -> None:
        """Wait until QEMU has paused the VM after an I/O error."""
        _wait(lambda: self._is_in("io-error"), "the guest's disk has no error")

    def wait_for_reads(self) -> None:
        """Wait until the guest has read more than its firmware reads."""
        _wait(self._reads, "the guest does not read its disk")

    def freeze_disk(self, seconds: float = 60) -> None:
        """Stop the disk, and wait until a request is in flight at two looks, because the first may still complete."""
        self.monitor("block_set_io_throttle", device="virtio0", bps=1, **_NO_LIMITS)
        until, before = time.monotonic() + seconds, None
        try:
            devices = self.monitor("x-query-virtio")
        except RuntimeError:  # a QEMU before 7.2
            return
        while isinstance(devices, list) and devices:  # an IDE disk shows no requests
            queue = self.monitor("x-query-virtio-queue-status", path=devices[0]["path"], queue=0)
            if isinstance(queue, dict) and queue["inuse"] and queue == before:
                return
            if time.monotonic() > until:
                raise RuntimeError("the guest's disk is not frozen")
            before = queue
            time.sleep(0.1)

    def _is_in(self, state: str) -> bool:
        status = self.monitor("query-status")
        return isinstance(status, dict) and status["status"] == state

    def _last_answer(self) -> int:
        stats = self.monitor("qom-get", path=BALLOON, property="guest-stats")
        return int(stats["last-update"]) if isinstance(stats, dict) else 0

    def _reads(self) -> bool:
        blocks = self.monitor("query-blockstats")
        return isinstance(blocks, list) and blocks[0]["stats"]["rd_operations"] > 20


def _wait(seen: Callable[[], object], failure: str, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not seen():
        if time.monotonic() > until:
            raise RuntimeError(failure)
        time.sleep(0.05)
