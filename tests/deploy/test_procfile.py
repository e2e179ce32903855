"""The Procfile, run by honcho, with the product's locked dependencies and nothing else."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..handler.test_reload import wait_until
from ..support.ports import reserve_port
from ..support.service import ACCOUNT, SSH_KEY, config_text, give_to_handler, new_secret
from ..support.signals import signal_process
from ..support.sshd import descendants, end_with_descendants
from ..support.wheelhouse import wheelhouse

pytestmark = [pytest.mark.all, pytest.mark.real("mounts", "curl")]

ROOT = Path(__file__).parent.parent.parent
PORT = 8080  # in a network of the process's own, where HOST=0.0.0.0 opens nothing of this machine
IN_A_NETWORK = """
import fcntl, os, socket, struct, sys
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def python() -> Iterator[Path]:
    """Python in an environment with the packages of requirements.txt, open to the handler's user."""
    with tempfile.TemporaryDirectory(prefix="procfile-") as directory:
        place = Path(directory)
        place.chmod(0o755)
        make = [sys.executable, "-m", "venv", "--without-pip", directory]
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", directory]
        install = [*pip, "install", "--no-index", "--require-hashes", "--find-links", str(wheelhouse())]
        for command in (make, [*install, "-r", str(ROOT / "requirements.txt")]):
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
            assert ran.returncode == 0, ran.stderr
        yield place / "bin/python"


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    file = tmp_path / "breakglass.toml"
    file.touch(0o600)
    caller = {"operator": {"secret": new_secret(), "allow": ["status"]}}
    file.write_text(config_text(caller, port=reserve_port(), key=SSH_KEY, host_key="any"))
    give_to_handler(file)
    return file


def test_the_procfile_starts_a_handler_for_a_router(python: Path, configuration: Path) -> None:
    """It listens on every address, at PORT. SIGTERM to honcho ends all."""
    missing = subprocess.run([python, "-c", "import pytest"], stderr=subprocess.DEVNULL, check=False)
    assert missing.returncode == 1
    path = f"{python.parent}:{os.environ['PATH']}"
    kept = {name: os.environ[name] for name in ("HOME", "TMPDIR") if name in os.environ}
    environment = {**kept, "PATH": path, "BREAKGLASS_CONFIG": str(configuration), "PORT": str(PORT)}
    apart = ["unshare", "--net", sys.executable, "-c", IN_A_NETWORK]
    if ACCOUNT:
        apart += ["setpriv", "--reuid", ACCOUNT, "--regid", ACCOUNT, "--clear-groups"]
    command = [*apart, sys.executable, "-m", "honcho", "--procfile", str(ROOT / "Procfile"), "start"]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE) as honcho:
        try:
            ask = ["nsenter", f"--net=/proc/{honcho.pid}/ns/net", "curl", "-sS", f"http://127.0.0.9:{PORT}/health"]

            def health() -> str:
                assert honcho.poll() is None
                return subprocess.run(ask, capture_output=True, text=True, check=False).stdout

            assert json.loads(wait_until(health))["ok"] is True
            started = descendants(honcho.pid)
            assert len(started) >= 2  # honcho's shell and the handler
            signal_process(honcho.pid, signal.SIGTERM)
            output = honcho.communicate(timeout=60)[0]
            wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))
        finally:
            end_with_descendants(honcho)
    assert b'"event": "start"' in output
