"""A separate systemd as PID 1, over a temporary copy of this machine's files or of another Debian's.

It has its own namespaces for processes, mounts, cgroups (version 2, whatever this machine has), names and the network,
which has only loopback. So units start as they do on a machine, with the sandbox that systemd makes.
"""

import contextlib
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .signals import signal_process
from .stages import until

SECONDS, BOOT_SECONDS = 120, 600  # for each command, and for the boot and its preparation; they need far less
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
# $1 is an empty directory. $2 has files that replace those of $3, including /prepare, which runs before the boot.
_BOOT = f"""\
set -eu
mount --make-rprivate /
mkdir $1/cgroup $1/disk
mount -t cgroup2 cgroup2 $1/cgroup
own=$1/cgroup$(sed -n s/^0:://p /proc/self/cgroup)
mkdir $own/booted-$$
trap 'find "$own/booted-$$" -depth -type d -exec rmdir {{}} ";"' EXIT
mount -t tmpfs -o mode=755 booted $1/disk
cd $1/disk
mkdir upper work root
echo $$ >$own/booted-$$/cgroup.procs
unshare --pid --mount --fork --cgroup --uts --ipc --net --kill-child /bin/bash -eu -c '
    mount -t overlay -o lowerdir=$3,upperdir=$PWD/upper,workdir=$PWD/work booted root
    cd root
    mount -t proc proc proc
    mount -t sysfs sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    for name in run tmp dev; do mount -t tmpfs -o mode=755 booted $name; done
    chmod 1777 tmp
    for name in {" ".join(_DEVICES)}; do touch dev/$name; mount --bind /dev/$name dev/$name; done
    mkdir dev/pts dev/shm old
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
    ln -s pts/ptmx dev/ptmx
    echo 0123456789abcdef0123456789abcdef >etc/machine-id
    cp -RT "$2" .
    chroot . /bin/bash -eu /prepare
    pivot_root . old
    umount -l old
    mount --make-rshared /  # as on a machine: systemd makes credentials in their own mount namespace
    exec env -i container=booted PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_LOG_TARGET=console \\
        /usr/lib/systemd/systemd --unit=booted.target --show-status=no
' sh "$@" &
echo $! >$1/unshare
echo $$ >$own/cgroup.procs
wait $! || true
"""


class Booted:
    """A running system."""

    def __init__(self, directory: Path, process: "subprocess.Popen[bytes]") -> None:
        self.directory, self.process = directory, process

    @property
    def pid(self) -> int:
        """Return the process that is PID 1 in there."""
        unshare = self.directory.joinpath("unshare").read_text().strip()
        return int(Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()[0])

    @property
    def root(self) -> Path:
        """Return the directory of its files, for this process."""
        return Path(f"/proc/{self.pid}/root")

    def is_up(self) -> bool:
        """Tell whether the boot is over; fail if it has ended."""
        assert self.process.poll() is None, self.log()
        with contextlib.suppress(OSError, IndexError):
            return self.run("systemctl", "is-active", "booted.target", check=False).strip() == "active"
        return False

    def is_ended(self) -> bool:
        """Kill the namespace's PID 1, and tell whether everything in it has ended."""
        with contextlib.suppress(OSError, IndexError):
            signal_process(self.pid, signal.SIGKILL)
        return self.process.poll() is not None

    def run(self, *command: str, check: bool = True, cwd: str = "/") -> str:
        """Run a command in there, as root; return what it prints."""
        inside = ["nsenter", f"--target={self.pid}", "--all", f"--wdns={cwd}", "--", *command]
        ran = subprocess.run(inside, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert not check or ran.returncode == 0, f"{shlex.join(command)}\n{ran.stdout}{ran.stderr}{self.log()}"
        return ran.stdout + ran.stderr

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def journal(self, unit: str) -> str:
        """Return the log of a unit."""
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}", check=False)

    def log(self) -> str:
        """Return systemd's log since the boot."""
        return self.directory.joinpath("console").read_text(errors="replace")[-8000:]


@contextlib.contextmanager
def booted(directory: Path, files: Path, below: Path = Path("/")) -> Iterator[Booted]:
    """Boot the files of this machine, or of another Debian in `below`, with those in `files` over them.

    Its script /prepare is run as root before the boot. The unit that is started is booted.target, one of `files`.
    """
    command = ["unshare", "--mount", "/bin/bash", "-c", _BOOT, "sh", str(directory), str(files), str(below)]
    with directory.joinpath("console").open("wb") as console:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
    system = Booted(directory, process)
    try:
        until(system.is_up, "the boot", BOOT_SECONDS)
        yield system
    finally:
        until(system.is_ended, "its end")
