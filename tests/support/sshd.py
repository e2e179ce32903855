"""A real OpenSSH server on loopback, set up like the documented one, for root.

It runs in its own mount namespace, in which /etc is an overlay whose passwd also knows the uid-0 account
`breakglass`, and /etc/ssh holds its key file. The machine's own files do not change. Mounts over single files would not
last, because `useradd` replaces /etc/passwd, and the kernel then removes the mount over the old file.
"""

import os
import shlex
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import asyncssh

from breakglass.demo.proxmox.world import World

from .ports import reserve_port
from .prefork import Process
from .signals import signal_process

CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host_key
PidFile none
LogLevel VERBOSE
UsePAM no
PasswordAuthentication no
AuthorizedKeysFile none
PermitRootLogin forced-commands-only
MaxStartups 200
Subsystem sftp internal-sftp
{extra}
Match User breakglass
    AuthorizedKeysFile /etc/ssh/authorized_keys.d/%u
    AuthenticationMethods publickey
    DisableForwarding yes
    PermitTTY no
    PermitUserRC no
Match all
"""
ACCOUNT = "breakglass:x:0:0:breakglass:/:/bin/sh\n"
_OVERLAY = """\
mount -t tmpfs -o mode=755 etc {directory}/etc
mkdir {directory}/etc/upper {directory}/etc/work
cp -p {directory}/passwd {directory}/shadow {directory}/etc/upper
mount -t overlay -o lowerdir=/etc,upperdir={directory}/etc/upper,workdir={directory}/etc/work etc /etc
mount --bind {directory}/ssh /etc/ssh
"""


def descendants(pid: int) -> list[int]:
    """Return every process below `pid`, parents first (proc_pid_task(5), children)."""
    found: list[int] = []
    with suppress(OSError):  # the process or its thread has ended
        for task in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError):
                for child in map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split()):
                    found += [child, *descendants(child)]
    return found


class Sshd:
    """The server, its two keys, and the ways to break it."""

    def __init__(
        self,
        world: World,
        extra: str = "PerSourcePenalties no",
        name: str = "sshd",
        path: str | None = None,
        account: str = ACCOUNT,
    ) -> None:
        self.world = world
        self.account = account
        self.path = path or world.environment["PATH"]
        self.directory = world.directory / name
        self.keys = self.directory / "ssh/authorized_keys.d/breakglass"
        self.keys.parent.mkdir(parents=True)
        self.keys.parent.parent.chmod(0o755)
        self.extra = extra
        self.port = reserve_port()
        self.host_key = self._new_host_key()
        self.power_key, self.read_only_key = self._two_keys()
        self.start()

    def _new_host_key(self) -> str:
        key = asyncssh.generate_private_key("ssh-ed25519")
        path = self.directory / "host_key"
        path.write_bytes(key.export_private_key())
        path.chmod(0o600)
        return key.export_public_key().decode().strip()

    def _two_keys(self) -> tuple[str, str]:
        power, read_only = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
        lines = [self.key_line(power), self.key_line(read_only, "--read-only")]
        self.keys.write_text("\n".join(lines) + "\n")
        return power.export_private_key().decode(), read_only.export_private_key().decode()

    @property
    def access(self) -> dict[str, Any]:
        """The arguments of a handler that logs in here with the power key."""
        return {"port": self.port, "key": self.power_key, "host_key": [self.host_key]}

    def key_line(self, key: asyncssh.SSHKey, *options: str) -> str:
        """Return the line that the documentation gives for a key."""
        command = shlex.join(["/usr/bin/env", f"PATH={self.path}", *self.world.forced_command(*options)])
        return f'restrict,command="{command}" {key.export_public_key().decode().strip()}'

    def client(self, key: str, *options: str) -> list[str]:
        """Return the command line of a real `ssh` that logs in with this key. The caller appends the command."""
        return ssh_command(self.directory, key, self.port, self.host_key, *options, "breakglass@127.0.0.1")

    def start(self) -> None:
        """Start the server and return once it listens."""
        Path("/run/sshd").mkdir(exist_ok=True)
        (self.directory / "etc").mkdir(exist_ok=True)
        self._write_accounts()
        config = self.directory / "sshd_config"
        config.write_text(CONFIG.format(port=self.port, directory=self.directory, extra=self.extra))
        script = _OVERLAY.format(directory=self.directory) + f"exec /usr/sbin/sshd -D -e -f {config}"
        argv = ["unshare", "--mount", "--propagation", "slave", "/bin/sh", "-euc", script]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(argv, stderr=log, stdin=subprocess.DEVNULL)
        self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait(self) -> None:
        """Return once the server listens."""
        wait_listening(self.port, self.process, self.directory / "log")

    def _write_accounts(self) -> None:
        for name, line in (("passwd", self.account), ("shadow", "breakglass:*:20000:0:99999:7:::\n")):
            (self.directory / name).write_text(Path(f"/etc/{name}").read_text() + line)

    def stop(self) -> None:
        """End the server and every connection with all descendants, because a session outlives its monitor."""
        end_with_descendants(self.process)

    def drop_connections(self) -> None:
        """Kill everything below the server with SIGKILL: connections and host agents, but no detached job."""
        kill_all(descendants(self.process.pid))

    def logged(self) -> str:
        return (self.directory / "log").read_text()


def ssh_command(directory: Path, key: str, port: int, host_key: str, *options: str) -> list[str]:
    """Return ssh's command line for a port of loopback, up to these options. It uses files in a directory."""
    identity, known = directory / "identity", directory / "known_hosts"
    identity.touch(0o600)
    identity.write_text(key)
    known.write_text(f"[127.0.0.1]:{port} {host_key}\n")
    settings = ["BatchMode=yes", "IdentitiesOnly=yes", f"UserKnownHostsFile={known}", "ConnectTimeout=100"]
    flags = [flag for setting in settings for flag in ("-o", setting)]
    return ["ssh", "-F", "none", *flags, "-i", str(identity), "-p", str(port), *options]


def kill_all(pids: list[int]) -> None:
    for pid in pids:
        try:
            signal_process(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def end_with_descendants(process: Process) -> None:
    """End a process and its descendants. Does nothing if it has ended and was waited for."""
    if process.returncode is None:
        kill_all([process.pid, *descendants(process.pid)])
    process.wait()


def wait_listening(port: int, process: Process, log: Path | None = None, seconds: float = 60) -> None:
    """Return once the process listens on the port. Otherwise, end it and raise with the last lines of its log."""
    until = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until:
        if _takes_connections(port):
            return
        time.sleep(0.01)
    ended = process.returncode
    end_with_descendants(process)
    what = f"did not listen within {seconds} s" if ended is None else f"ended with {ended}"
    output = log.read_text(errors="replace")[-2000:] if log else ""
    raise AssertionError(f"the server for port {port} {what}\n{output}".rstrip())


def _takes_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except (ConnectionRefusedError, TimeoutError):
        return False
    return True
