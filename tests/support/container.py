"""An image built with Debian's buildah, and a container of it: its own processes and a read-only root."""

import contextlib
import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

from .chroot import base
from .documents import ROOT
from .service import Service
from .signals import signal_process
from .sshd import descendants, end_with_descendants, wait_listening

FILE = ROOT / "deploy/container/Containerfile"
ULIMITS = {"nofile": "-Hn", "nproc": "-Hu"}  # without options, buildah asks for more rights than a container may have
_LEFT_OUT = (
    "dev",
    "proc",
    "sys",
    "var/lib/apt/lists",
    *(f"usr/share/{name}" for name in ("doc", "man", "locale", "info")),
)


class Builder:
    """buildah with its own storage, in which a Debian has the name of the Containerfile's base image."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        storage = directory / "storage.conf"
        roots = f'graphroot = "{directory}/images"\nrunroot = "{directory}/run"\n'
        storage.write_text(f'[storage]\ndriver = "overlay"\n{roots}')
        ask = "; ".join(f"echo {name}=$(ulimit {option}):$(ulimit {option})" for name, option in ULIMITS.items())
        limits = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True).stdout.split()
        containers = directory / "containers.conf"
        containers.write_text(f"[containers]\ndefault_ulimits = {json.dumps(limits)}\n")
        self.environment = {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(storage),
            "CONTAINERS_CONF": str(containers),
            "BUILDAH_ISOLATION": "chroot",
        }
        self._make_base()

    def _make_base(self) -> None:
        context = self.directory / "base"
        context.mkdir()
        without = [f"--exclude=./{name}" for name in _LEFT_OUT]
        subprocess.run(["tar", "-C", base(), *without, "-cf", context / "debian.tar", "."], check=True, timeout=300)
        (context / "Containerfile").write_text("FROM scratch\nADD debian.tar /\n")
        [name] = [line.partition("=")[2] for line in FILE.read_text().splitlines() if line.startswith("ARG BASE=")]
        self.run("buildah", "build", "--quiet", "--tag", name, str(context))
        (context / "debian.tar").unlink()

    def run(self, *argv: str, **options: Any) -> str:
        """Run a command with buildah's mounts in their own namespace; return its output."""
        ran: subprocess.CompletedProcess[str] = subprocess.run(
            ["unshare", "--mount", "--propagation=private", *argv],
            **{"env": self.environment, "stdin": subprocess.DEVNULL, "cwd": self.directory, **options},
            capture_output=True, text=True, timeout=1200, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def inspect(self, image: str) -> dict[str, Any]:
        """Return the configuration of an image, as Docker has it."""
        found = json.loads(self.run("buildah", "inspect", "--type", "image", image))
        config: dict[str, Any] = found["Docker"]["config"]
        return config


# As `podman run --read-only --read-only-tmpfs=false` does. It first checks `$root`, because an empty one would be this
# machine's root.
_RUN = """
set -eu
container=$(buildah from --pull=never "$1")
root=$(buildah mount "$container")
test "${#root}" -gt 1
test -d "$root/opt/breakglass"
mkdir -p "$root/dev" "$root/proc" "$root/sys" "$root/etc/breakglass"
mount -t tmpfs -o mode=755 none "$root/dev"
touch "$root/dev/null"
mount --bind /dev/null "$root/dev/null"
mount --bind "$2" "$root/etc/breakglass"
mount --bind "$root" /mnt
mount --rbind "$root/dev" /mnt/dev
mount --bind "$root/etc/breakglass" /mnt/etc/breakglass
mount -o remount,bind,ro /mnt
mount -o "remount,bind,${ACCESS:-ro}" /mnt/etc/breakglass
mount -o remount,bind,ro /mnt/dev
shift 2
exec unshare --pid --fork --kill-child /bin/sh -c '
    set -eu
    mount -t proc none /mnt/proc
    exec "$@"
' sh "$@"
"""


class Container(Service):
    """The handler in a container of the image, as process 1.

    It has the network of this machine. Therefore it listens on loopback, although the image listens everywhere.
    """

    def __init__(self, directory: Path, builder: Builder, image: str, **more: Any) -> None:
        self.builder, self.image = builder, image
        self.settings = builder.inspect(image)
        self.mounted = directory / "mounted"
        self.mounted.mkdir(0o755)
        super().__init__(directory, **more)

    def start(self) -> None:
        """Start the container; return once the handler listens."""
        mounted = self.mounted / Path(self.environment["BREAKGLASS_CONFIG"]).name
        mounted.write_bytes(self.config.read_bytes())
        os.chown(mounted, 0, int(self.settings["User"].partition(":")[2]))
        mounted.chmod(0o440)  # as Kubernetes mounts a secret with `fsGroup`
        argv = self.argv(self.mounted, *self.settings["Cmd"])
        with self.audit_file.open("ab") as audit:
            streams: dict[str, Any] = {"stdout": audit, "stdin": subprocess.DEVNULL}
            self.process = subprocess.Popen(argv, env=self.builder.environment, cwd=self.directory, **streams)
        wait_listening(self.port, self.process)
        self.first = self._first()

    def argv(self, mounted: Path, *command: str) -> list[str]:
        """Return a command line that runs a command of the image, with a directory as /etc/breakglass."""
        argv = ["unshare", "--mount", "--propagation=private", "/bin/sh", "-c", _RUN, "sh", self.image, str(mounted)]
        return [*argv, *self.within(*self.settings["Entrypoint"], *command)]

    @property
    def environment(self) -> dict[str, str]:
        return dict(entry.split("=", 1) for entry in self.settings["Env"])

    def within(self, *argv: str) -> list[str]:
        """Return a command line that runs as the image's user, in its root and with only its environment."""
        own = {"PORT": str(self.port), "HOST": "127.0.0.1"}
        environment = [f"{name}={value}" for name, value in {**self.environment, **own}.items()]
        user, group = self.settings["User"].split(":")
        ids = [f"--reuid={user}", f"--regid={group}", "--clear-groups", "--pdeathsig=KILL"]
        rights = ["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs"]
        return ["chroot", "/mnt", "/usr/bin/setpriv", *ids, *rights, "/usr/bin/env", "-i", *environment, *argv]

    def exec(self, *argv: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run a command in the running container, as its user."""
        enter = ["nsenter", f"--target={self.first}", "--mount", "--pid", "--wdns=/"]
        return subprocess.run(
            [*enter, *self.within(*argv)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            **options,
        )

    def children(self) -> list[int]:
        """Return the children of process 1."""
        return [int(pid) for pid in Path(f"/proc/{self.first}/task/{self.first}/children").read_text().split()]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the container as `podman stop` does: process 1 gets the signal."""
        if self.process.poll() is None:
            signal_process(self.first, how)
        try:
            self.process.wait(60)
        finally:
            end_with_descendants(self.process)

    def _first(self) -> int:
        """Return the pid that process 1 has here."""
        for pid in descendants(self.process.pid):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if re.search(rf"^NSpid:\t{pid}\t1$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE):
                    return pid
        raise AssertionError("there is no process 1")
