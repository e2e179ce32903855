"""The log never stops a verb."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.ports import reserve_port
from ..support.service import Service
from ..support.sshd import Sshd, wait_listening

pytestmark = pytest.mark.real("sshd")


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
