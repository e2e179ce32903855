"""A Proxmox host for doctor's tests, set up by the printed recipe and served by a real sshd. Tests seed faults in it.

All tests of a file share it, so each fault is undone. The host agent runs as the package, because that has cached byte
code.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from breakglass.agents.pve.host.cluster import node_name
from breakglass.agents.pve.words import DEADLINES

from .agent import READS, agent_program
from .doctor import Setup
from .installing import ROOT, Door, Installed

KEY_FILE = "ssh/authorized_keys.d/breakglass"  # below /etc


class DoctorHost(Installed):
    """The host. Its agent pretends to be the bundled file."""

    def __init__(self, directory: Path, *, user: str = "breakglass") -> None:
        super().__init__(directory, user=user)
        self.program = agent_program(SSHD_SECONDS=10.0, DEADLINES=DEADLINES | READS)
        self.set_agent(self.program)
        try:
            self.door = Door(self)
        except BaseException:
            super().close()
            raise

    def set_agent(self, text: str) -> None:
        """Replace the host agent."""
        path = self.sbin / "breakglass-pve"
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def shell(self, script: str) -> None:
        """Run a script as root at the host."""
        ran = self.run("/bin/sh", "-ec", script)
        assert ran.returncode == 0, ran.stderr

    def restore(self) -> None:
        """Put back the files that a fault may have changed."""
        self.restore_files()
        self.set_agent(self.program)

    def close(self) -> None:
        self.door.close()
        super().close()


class HostSetup(Setup):
    """A configuration with that host."""

    def __init__(self, directory: Path, host: DoctorHost) -> None:
        super().__init__(directory, port=host.door.port, key=host.power, host_key=host.host_key)
        self.host = host
        self.pve1 = self.config["hosts"]["pve1"]
        self.pve1["ssh"] = f"{host.user}@127.0.0.1:{host.door.port}"
        self.pve1["node"] = node_name()

    def use_port(self, port: int) -> None:
        """Change the host's port in the configuration."""
        self.pve1["ssh"] = f"{self.host.user}@127.0.0.1:{port}"

    def use_sshd(self, *options: str) -> Door:
        """Let another sshd of the host answer. These options take precedence over its configuration."""
        door = Door(self.host, *options)
        self.stack.callback(door.close)
        self.use_port(door.port)
        return door

    def change_keys(self, change: Callable[[str], str]) -> None:
        """Change the text of the key file."""
        before = self.host.keys.read_text()
        after = change(before)
        assert after != before
        self.host.keys.write_text(after)

    def at_host(self, script: str, undo: str = "") -> None:
        """Run a script at the host, and another one when the block ends."""
        self.host.shell(script)
        if undo:
            self.stack.callback(self.host.shell, undo)

    def hang(self, path: str) -> None:
        """Make a directory of the host hang."""
        self.stack.enter_context(_hung_mount(self.host, path))


_MOUNT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.support.hung import unserved_fuse
with unserved_fuse(Path(sys.argv[2])):
    print("up", flush=True)
    sys.stdin.read()
"""


@contextmanager
def _hung_mount(host: DoctorHost, path: str) -> Iterator[None]:
    command = host.inside(sys.executable, "-c", _MOUNT, str(ROOT), path)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield
        assert process.stdin is not None
        process.stdin.close()


def guests(**nodes: str) -> str:
    """Return the text of /etc/pve/.vmlist with VMs on nodes, as vm102="pve2"."""
    ids = {name[2:]: {"node": node, "type": "qemu", "version": 1} for name, node in nodes.items()}
    return json.dumps({"version": 3, "ids": ids})
