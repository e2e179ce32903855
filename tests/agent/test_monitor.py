"""A reset that QEMU refuses, or whose end its monitor does not report."""

import json
import socket
import socketserver
import threading

import pytest

from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import execute
from ..support.stages import seen_a_moment_ago


@pytest.mark.all
@pytest.mark.real("qemu")
@pytest.mark.parametrize(
    ("refuses", "sentence"),
    [(True, "QEMU refused the reset: no"), (False, "the reset was sent; the monitor closed the connection")],
)
def test_a_reset_that_qemu_does_not_report_has_failed(world: World, refuses: bool, sentence: str) -> None:
    """This monitor passes everything on to QEMU's own, except the reset or the RESET."""
    path = world.root / f"run/qemu-server/{VMID}.qmp"
    qemus = path.rename(path.with_suffix(".real"))

    class Monitor(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with socket.socket(socket.AF_UNIX) as qemu, qemu.makefile("rb") as answers:
                qemu.connect(str(qemus))
                self.wfile.write(answers.readline())
                for line in self.rfile:
                    is_reset = b"system_reset" in line
                    if is_reset and refuses:
                        self.wfile.write(b'{"id": "%s", "error": {"desc": "no"}}\n' % json.loads(line)["id"].encode())
                        continue
                    qemu.sendall(line)
                    self.wfile.write(next(each for each in answers if b'"id"' in each))
                    if is_reset:
                        return

    seen_a_moment_ago(world)
    with socketserver.UnixStreamServer(str(path), Monitor) as server:
        threading.Thread(target=server.serve_forever).start()
        answer = execute(world, "reset")
        server.shutdown()
    verdict = answer.trailer["verdict"]
    assert (answer.code, verdict["code"], verdict["advice"]) == (13, "verb-failed", "cycle")
    assert verdict["sentence"] == sentence
