"""A separate Debian in a directory, which has only Debian's packages, as a new machine has.

The first test of a run that needs it makes it, from the source of this machine's apt. Each test gets its own copy.
"""

import fcntl
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PYTHON = ("python3", "python3-venv")
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}

# The copy is an overlay in memory. It ends with its process 1, which ends with the test's process.
_HOLD = """
set -e
mount -t tmpfs -o mode=755 none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
chmod 755 "$1/upper"
mount -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" none "$1/root"
cd "$1/root"
mount -t proc none proc
mount -t sysfs -o ro none sys
mount -t devpts -o newinstance,ptmxmode=0666 none dev/pts
mount -t tmpfs -o mode=1777 none dev/shm
mount -t tmpfs -o mode=755 none run
mkdir -m 1777 run/lock
cat /etc/resolv.conf >etc/resolv.conf
mount --move . / # what has another root than its mount namespace may make no user namespace, as bubblewrap does
# only in there is the root the copy's; the kernel reaps the orphans of a process that ignores SIGCHLD
exec chroot . /bin/sh -c 'echo ready && exec env --ignore-signal=CHLD cat'
"""


class Chroot:
    """A copy of the base with its own processes and mounts, and the network of this machine.

    `root` is its directory, as seen from outside. From there, a link that begins with a slash leads out of the copy.
    """

    def __init__(self, holder: int) -> None:
        self.holder = holder
        self.root = Path(f"/proc/{holder}/root")

    def inside(self, *argv: str, user: str = "root", cwd: str = "/") -> list[str]:
        """Return the command line that runs a command inside."""
        change = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"] if user != "root" else []
        enter = ["nsenter", f"--target={self.holder}", "--mount", "--pid", "--root", f"--wdns={cwd}", "--"]
        return [*enter, *change, *argv]

    def run(
        self, *argv: str, user: str = "root", cwd: str = "/", env: Mapping[str, str] = {}, **options: Any
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command inside, as this user; `env` is added to ENVIRONMENT, and `options` are subprocess.run's."""
        options = {"capture_output": True, "text": True, "timeout": 600, **options}
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(self.inside(*argv, user=user, cwd=cwd), env={**ENVIRONMENT, **env}, **options)


@contextmanager
def debian(*packages: str) -> Iterator[Chroot]:
    """A temporary copy of a Debian that has apt and these packages, or PYTHON. Its processes end with it."""
    lower = base(*packages)
    with tempfile.TemporaryDirectory(prefix="debian-") as directory:
        argv = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]
        hold = subprocess.Popen(
            [*argv, "/bin/sh", "-c", _HOLD, "sh", directory, str(lower)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert hold.stdin is not None
        assert hold.stdout is not None
        try:
            assert hold.stdout.readline() == "ready\n", "the copy could not be mounted; the reason is above"
            [holder] = Path(f"/proc/{hold.pid}/task/{hold.pid}/children").read_text().split()
            yield Chroot(int(holder))
        finally:
            hold.stdin.close()  # this ends process 1, and the kernel ends all others before `unshare` returns
            hold.wait()
            hold.stdout.close()


def base(*packages: str) -> Path:
    """Return a directory with Debian's essential packages, apt, and these packages, or PYTHON. It may only be read.

    The first caller of a run makes the directory, and the others wait. The run removes it at its end.
    """
    packages = packages or PYTHON
    made = Path(tempfile.gettempdir()) / f"debian-{hashlib.sha256(' '.join(packages).encode()).hexdigest()[:8]}"
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            new = Path(tempfile.mkdtemp(prefix=f"{made.name}."))
            _bootstrap(new, packages)
            new.chmod(0o755)
            new.rename(made)
    return made


def _bootstrap(directory: Path, packages: tuple[str, ...]) -> None:
    """Install Debian's packages into a directory. Its mounts are in their own namespace, and end with it."""
    suite, sources = _sources()
    command = ["apt-config", "dump", "--format", '%f "%v";%n', "Acquire"]
    settings = subprocess.run(command, capture_output=True, text=True, check=True)
    options = [
        f"--aptopt={line.removesuffix(';')}"
        for line in settings.stdout.splitlines()
        if line.startswith(("Acquire::Check-", "Acquire::http")) and '""' not in line
    ]
    argv = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc"]
    argv += ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={','.join(packages)}"]
    argv += ["--skip=cleanup/apt/lists"]  # so that each copy's `apt-get update` finds that it has them
    argv += ["--dpkgopt=force-unsafe-io", *options, suite, str(directory), *sources]
    ran = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1200)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def _sources() -> tuple[str, list[str]]:
    """Return this machine's Debian release, and the lines for apt with the address of this machine's mirror."""
    lines = Path("/etc/os-release").read_text().splitlines()
    [suite] = [line.partition("=")[2].strip('"') for line in lines if line.startswith("VERSION_CODENAME=")]
    command = ["apt-get", "indextargets", "--format", "$(RELEASE)|$(SIGNED_BY)|$(REPO_URI)|$(COMPONENT)"]
    targets = subprocess.run([*command, "Identifier: Packages"], capture_output=True, text=True, check=True).stdout
    sources = []
    for release, signed, address, component in (line.split("|") for line in targets.splitlines()):
        if component == "main" and release in {suite, f"{suite}-updates", f"{suite}-security"}:
            option = f"[signed-by={signed}] " if os.path.isabs(signed) else ""
            sources.append(f"deb {option}{address} {release} {component}")
    assert sources, f"apt has no source for {suite} main"
    return suite, sources
