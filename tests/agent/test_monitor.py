"""A monitor of QEMU that refuses a reset, that ends, or that never ends a message."""

import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pytest

from breakglass.agents.pve.host.qmp import Qmp, QmpSilent
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import execute
from ..support.stages import seen_a_moment_ago

pytestmark = pytest.mark.real("qemu")


Serve = Callable[[BinaryIO, BinaryIO], None]  # gets what is read from a client, and what is written to it


@contextmanager
def monitor_at(path: Path, serve: Serve) -> Iterator[None]:
    """Serve one client at a time."""

    class Monitor(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                serve(self.rfile, self.wfile)

    with socketserver.UnixStreamServer(str(path), Monitor) as server:
        threading.Thread(target=server.serve_forever).start()
        yield
        server.shutdown()


@pytest.mark.parametrize(
    ("refuses", "sentence"),
    [(True, "QEMU refused the reset: no"), (False, "the reset was sent; the monitor closed the connection")],
)
def test_a_reset_that_qemu_does_not_report_has_failed(world: World, refuses: bool, sentence: str) -> None:
    """The monitor passes everything on to QEMU's own, except the RESET or the reset."""
    path = world.root / f"run/qemu-server/{VMID}.qmp"
    qemus = path.rename(path.with_suffix(".real"))

    def serve(asked: BinaryIO, said: BinaryIO) -> None:
        with socket.socket(socket.AF_UNIX) as qemu, qemu.makefile("rb") as answers:
            qemu.connect(str(qemus))
            said.write(answers.readline())
            for line in asked:
                is_reset = b"system_reset" in line
                if is_reset and refuses:
                    said.write(b'{"id": "%s", "error": {"desc": "no"}}\n' % json.loads(line)["id"].encode())
                    continue
                qemu.sendall(line)
                said.write(next(each for each in answers if b'"id"' in each))
                if is_reset:
                    return

    seen_a_moment_ago(world)
    with monitor_at(path, serve):
        answer = execute(world, "reset")
    verdict = answer.trailer["verdict"]
    assert (answer.code, verdict["code"], verdict["advice"]) == (13, "verb-failed", "cycle")
    assert verdict["sentence"] == sentence


def test_a_message_without_an_end_is_given_up(short_dir: Path) -> None:
    """At 4 MiB, so that a broken QEMU does not fill the memory of the host."""

    def serve(asked: BinaryIO, said: BinaryIO) -> None:
        said.write(b"x" * (4 * 2**20 + 1))
        asked.read(1)

    with monitor_at(short_dir / "qmp", serve), pytest.raises(QmpSilent, match="without an end"):
        Qmp(str(short_dir / "qmp"), 20)
