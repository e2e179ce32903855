"""The log never stops a verb."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from breakglass import audit

from ..support.ports import reserve_port
from ..support.service import Service
from ..support.sshd import Sshd, wait_listening

pytestmark = pytest.mark.real("sshd")


@pytest.mark.all
@pytest.mark.slow
def test_an_unread_log_delays_no_request(service: Service, sshd: Sshd, tmp_path: Path) -> None:
    """Stdout is a pipe that is full: requests are answered, and the handler still ends when it is told to."""
    port = reserve_port()
    environment = os.environ | {"BREAKGLASS_CONFIG": str(service.config), "PORT": str(port)}
    command = [sys.executable, "-m", "breakglass", "serve"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, cwd=tmp_path) as process:
        wait_listening(port, process)
        service.port = port
        for _ in range(1000):  # some 130 bytes each: more than the pipe's 64 KiB
            assert service.send("POST", "/pve", b"{}").status == 401
        assert service.pve("status").json["state"] == "running"
        process.terminate()
        process.wait(10)


def test_a_full_disk_tears_no_later_line(tmp_path: Path) -> None:
    """A line that a full disk cuts is lost; the lines that come once there is space are whole."""
    path = tmp_path / "log"
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    writer = audit.Writer(log)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        for number in (1, 2, 3):
            audit.note("test", number=number, text="x" * 100)
        writer.start()
        while audit._waiting.qsize() or path.stat().st_size < 200:
            os.sched_yield()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    audit.note("test", number=4)
    writer.stop()
    os.close(log)
    assert json.loads(path.read_text().splitlines()[-1])["number"] == 4
