"""A Proxmox host in a mount namespace, on which the printed recipe is run, and a real sshd on it.

It has its own /etc, /root, /run and /usr/local/sbin, so that the recipe may add an account and change sshd's
configuration; the machine's own files stay as they are.
"""

import json
import shutil
import subprocess
from pathlib import Path

import asyncssh

from breakglass.agents.bundle import bundle
from breakglass.agents.pve.host.cluster import node_name

from .forked import run_command
from .ports import reserve_port
from .service import new_secret
from .sshd import end_with_descendants, ssh_command, wait_listening

ROOT = Path(__file__).parent.parent.parent


def new_key() -> tuple[str, str]:
    """Return a private key and its public half."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    return key.export_private_key().decode(), " ".join(key.export_public_key().decode().split()[:2])


def configuration(directory: Path, power: str, more: str = "") -> Path:
    """Write breakglass.toml with the host pve1, its VM 102, and the private key in its own file.

    In `more`, HOST_KEYS are the address and the key for a host's entry, which are the same for each host.
    """
    host_keys = f'ssh = "breakglass@127.0.0.1"\nkey_file = "{directory}/power"\nhost_key = "any"\n'
    (directory / "power").touch(0o600)
    (directory / "power").write_text(power)
    path = directory / "breakglass.toml"
    path.touch(0o600)
    path.write_text(f"""
        [callers.operator]
        secret = "{new_secret()}"
        allow = ["status"]
        [hosts.pve1]
        {host_keys}
        [vms.devvm]
        hosts = ["pve1"]
        vmid = 102
        {more.replace("HOST_KEYS", host_keys)}
        [sessions]
        secret = "{"s" * 40}"
    """)
    return path


def install_commands(config: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return run_command("host", "install-commands", *words, BREAKGLASS_CONFIG=str(config))


def edit(file: Path, *changes: tuple[str, str]) -> None:
    text = file.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)


def odd(lines: list[str], marks: set[str]) -> list[str]:
    """Return the lines that have no mark, and the marks that no line has."""
    without = [line for line in lines if not any(mark in line for mark in marks)]
    return without + [mark for mark in marks if not any(mark in line for line in lines)]


CHANGED = ("ssh", "pve", "systemd", "passwd", "shadow")  # the paths below /etc that the tests change


class Installed:
    """A separate host in a mount namespace, on which the printed recipe was run.

    `user` is the account of the recipe, and `source` the handler's address.
    """

    def __init__(self, directory: Path, more: str = "", *, user: str = "breakglass", source: str = "127.0.0.1") -> None:
        self.directory, self.user, self.source = directory, user, source
        self.etc, self.root, self.sbin = (directory / name for name in ("etc", "root", "sbin"))
        leave_out = ("ssh_host_*", "*.lock", "alternatives", "ssl", "fonts", "X11")  # sshd needs none
        shutil.copytree("/etc", self.etc, symlinks=True, ignore=shutil.ignore_patterns(*leave_out))
        self._write_host()
        self.space = self._namespace()
        try:
            self._install(more)
        except BaseException:
            Installed.close(self)  # a set-up that fails leaves no process
            raise

    def _install(self, more: str) -> None:
        self.power, self.power_public = new_key()
        self.config = configuration(self.directory, self.power, more)
        self.recipe = self.print_recipe(self.user)
        self.first = self.run("/bin/sh", "-s", stdin=self.recipe)
        kept = self.directory / "etc.kept"
        kept.mkdir()
        subprocess.run(["cp", "-a", *(str(self.etc / name) for name in CHANGED), str(kept)], check=True)

    def print_recipe(self, user: str, *words: str) -> str:
        """Return the recipe for pve1 and this account. The configuration names the account too."""
        config = self.directory / "account.toml"
        config.touch(0o600)
        config.write_text(self.config.read_text().replace('"breakglass@', f'"{user}@'))
        account = ["--account", "root"] if user == "root" else []
        ran = install_commands(config, "--host", "pve1", *(words or ("--from", self.source)), *account)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def _write_host(self) -> None:
        for made in (self.etc / "pve/qemu-server", self.etc / "pve/priv", self.etc / "pve/local", self.sbin):
            made.mkdir(parents=True)
        self.write_guests(qemu=[102, 103, 104, 110], lxc=[105])
        (self.root / ".ssh").mkdir(0o700, parents=True)
        (self.etc / "ssh/sshd_config.d").mkdir(exist_ok=True)
        self.etc.chmod(0o755)
        (self.root / "breakglass-pve").write_text(bundle())
        for name in ("qm", "systemctl"):
            (self.sbin / name).write_text(f'#!/bin/sh\necho "{name} $*" >>/run/said\n')
            (self.sbin / name).chmod(0o755)
        private, self.host_key = new_key()
        (self.etc / "ssh/ssh_host_ed25519_key").touch(0o600)
        (self.etc / "ssh/ssh_host_ed25519_key").write_text(private)
        (self.etc / "ssh/ssh_host_ed25519_key.pub").write_text(f"{self.host_key} host\n")

    def write_guests(self, **guests: list[int]) -> None:
        """Have these guests on this node, by their type."""
        ids = {
            str(vmid): {"node": node_name(), "type": kind, "version": 1}
            for kind, vmids in guests.items()
            for vmid in vmids
        }
        (self.etc / "pve/.vmlist").write_text(json.dumps({"version": len(ids), "ids": ids}))
        for vmid in guests.get("qemu", []):
            (self.etc / f"pve/qemu-server/{vmid}.conf").write_text(f"name: vm{vmid}\n")

    def _namespace(self) -> "subprocess.Popen[str]":
        binds = [f"mount --bind {self.directory}/{name} {at}" for name, at in
                 (("etc", "/etc"), ("root", "/root"), ("sbin", "/usr/local/sbin"))]  # fmt: skip
        empty = [f"mount -t tmpfs -o mode=755 none {at}" for at in ("/run", "/var/lib", "/var/log")]
        script = " && ".join([*binds, *empty, "mkdir /run/sshd", "echo ready", "exec cat"])
        argv = ["unshare", "--mount", "--propagation", "slave", "/bin/sh", "-c", script]
        space = subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
        assert space.stdout is not None
        assert space.stdout.readline() == "ready\n"
        return space

    def inside(self, *argv: str) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self.space.pid}/ns/mnt", *argv]

    def run(self, *argv: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        environment = {"PATH": "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"}
        return subprocess.run(
            self.inside(*argv), input=stdin, env=environment, cwd="/", capture_output=True, text=True, timeout=170
        )

    def check(self) -> "subprocess.CompletedProcess[str]":
        return self.run("/usr/local/sbin/breakglass-pve", "check")

    def restore(self) -> None:
        """Restore the files of CHANGED, root's own and the host agent to their state after the recipe."""
        self.restore_files()
        (self.sbin / "breakglass-pve").write_text(bundle())
        (self.sbin / "breakglass-pve").chmod(0o755)

    def restore_files(self) -> None:
        """Restore the files of CHANGED and root's own."""
        kept = self.directory / "etc.kept"
        subprocess.run(["rm", "-rf", *(str(self.etc / name) for name in CHANGED)], check=True)
        subprocess.run(["cp", "-a", *(str(kept / name) for name in CHANGED), str(self.etc)], check=True)
        for child in (self.root / ".ssh").iterdir():
            child.unlink()
        (self.root / ".bashrc").unlink(missing_ok=True)

    @property
    def keys(self) -> Path:
        return self.etc / "ssh/authorized_keys.d/breakglass"

    @property
    def drop_in(self) -> Path:
        return self.etc / "ssh/sshd_config.d/00-breakglass.conf"

    def close(self) -> None:
        self.space.communicate()


class Door:
    """sshd on a loopback port, with the configuration that the recipe wrote."""

    def __init__(self, host: Installed, *options: str) -> None:
        self.host = host
        self.port = reserve_port()
        own = ["-o", "ListenAddress=127.0.0.1", "-o", "PidFile=none", "-p", str(self.port)]
        argv = host.inside("/usr/sbin/sshd", "-D", "-e", *own, *options)
        self.process = subprocess.Popen(argv, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, cwd="/")
        try:
            wait_listening(self.port, self.process)
        except BaseException:
            self.close()
            raise

    def login(self, key: str, *words: str, **who: str) -> "subprocess.CompletedProcess[str]":
        """Run ssh with this key, as the `user` and from the `source` of the recipe if no others are given."""
        argv = self.client(key, **who)
        return subprocess.run([*argv, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)

    def client(self, key: str, *options: str, user: str = "", source: str = "") -> list[str]:
        """Return ssh's command line up to the host."""
        where = ["-b", source or self.host.source, f"{user or self.host.user}@127.0.0.1"]
        return ssh_command(self.host.directory, key, self.port, self.host.host_key, *options, *where)

    def close(self) -> None:
        end_with_descendants(self.process)
