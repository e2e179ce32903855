"""Floods of strangers, each from its own process: what an operator's status takes, and the handler's memory.

Three floods: requests without end on one connection, half requests, bodies without their last byte.
"""

import contextlib
import resource
import socket
import subprocess
import sys
import time
from collections import deque

from ..support.service import Service
from .client import millis, resident_kib

SECONDS = 5.0
A_SECOND = 110  # new connections
GET = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
BODY = b"POST /alert/alertmanager HTTP/1.1\r\nhost: x\r\ncontent-length: 1048576\r\n\r\n" + b"x" * 1048575
SENDS = {"pipelined": GET * 4096, "half": GET[:-2], "bodies": BODY}
HELD = {"pipelined": 1, "half": 1300, "bodies": 500}  # connections that are there when it begins, and later
TITLES = {
    f"{kind}_{figure}": f"{title}: {said}"
    for kind, title in (("pipelined", "requests without end"), ("half", "half requests"), ("bodies", "unsigned bodies"))
    for figure, said in (
        ("status", "an operator's status, median, ms (wanted: under 500)"),
        ("worst", "the same, worst, ms"),
        ("mib", "resident memory, most, MiB (wanted: under 150)"),
    )
}


def flood_figures(service: Service) -> dict[str, float]:
    """Return the figures of each flood. Each status comes over its own connection."""
    found: dict[str, float] = {}
    for kind in SENDS:
        command = [sys.executable, "-m", "tests.bench.floods", kind, str(service.port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as flood:
            assert flood.stdout
            flood.stdout.readline()
            samples, resident = [], 0
            while flood.poll() is None:
                began = time.perf_counter()
                assert service.pve("status").json["outcome"] == "done"
                samples.append(time.perf_counter() - began)
                resident = max(resident, resident_kib(service.process.pid))
        found[f"{kind}_status"], found[f"{kind}_worst"] = millis(samples), round(max(samples) * 1000, 1)
        found[f"{kind}_mib"] = round(resident / 1024, 1)
    return found


def main(kind: str, port: int) -> None:
    """Send one flood: many connections at once, then new ones at a steady pace, which replace the oldest."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held: deque[socket.socket] = deque()
    print("begun", flush=True)
    began = time.monotonic()
    for n in range(HELD[kind] + int(SECONDS * A_SECOND)):
        time.sleep(max(0.0, began + (n - HELD[kind]) / A_SECOND - time.monotonic()))
        with contextlib.suppress(OSError):
            held.append(socket.create_connection(("127.0.0.1", port), 1))
            held[-1].settimeout(0.5)
            held[-1].sendall(SENDS[kind])
        if len(held) > HELD[kind]:
            held.popleft().close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
