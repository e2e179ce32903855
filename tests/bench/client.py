"""A client that the bench times, and its figures."""

import http.client
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from ..support.service import Service

Figures = dict[str, float]


def millis(samples: list[float]) -> float:
    return round(statistics.median(samples) * 1000, 2)


def timed(act: Callable[[], object], count: int, warm: int = 1) -> list[float]:
    """Return the seconds of each of `count` calls, after `warm` that don't count."""
    for _ in range(warm):
        act()
    samples = []
    for _ in range(count):
        began = time.perf_counter()
        act()
        samples.append(time.perf_counter() - began)
    return samples


class Keeping:
    """One kept-alive HTTP connection that signs."""

    def __init__(self, service: Service, vm: str = "devvm") -> None:
        self.service = service
        self._body = json.dumps({"verb": "status", "vm": vm}).encode()
        self.connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)

    def status(self) -> None:
        self.connection.request("POST", "/pve", self._body, self.service.signed(self._body))
        reply = json.loads(self.connection.getresponse().read())
        assert reply["outcome"] == "done", reply


def kib(pid: int, file: str, name: str) -> int:
    """Return a number of KiB from a file of /proc."""
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def resident_kib(pid: int) -> int:
    return kib(pid, "status", "VmRSS")
