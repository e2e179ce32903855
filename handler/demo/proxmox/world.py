"""A Proxmox host in a directory: the files that the host agent reads with `--root`, a `qm` on PATH, and VM 102.

The demo and the tests use it. Everything is below one directory and ends with `close()`.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from ...agents.bundle import bundle
from ...agents.pve.host.paths import Host
from ...agents.pve.host.process import read_process
from ...agents.pve.jobs.store import JobStore
from ...base.isolated import isolated_command
from .guest import Guest
from .kernel import HALTS, Kernel
from .processes import ROOT, end_processes
from .vm_conf import make_disk

VMID = 102
STORAGES = "dir: local\n\tpath /var/lib/vz\n\tcontent iso,images,snippets\n"
CONF = "boot: order=virtio0\ncores: 1\nmemory: 32\nname: devvm\nvirtio0: local:102/vm-102-disk-0.raw,size=1M\n"

SCENARIOS = {
    "guest-panicked": "its kernel panicked",
    "guest-hung": "its kernel stopped, and QEMU runs on",
    "idle": "at its login prompt",
    "healthy": "a guest that reads its disk",
    "paused": "the VM is paused",
    "io-error": "a disk request failed once: no space left",
    "disk-frozen": "a disk request is in flight and never completes",
    "qemu-wedged": "QEMU does not answer (SIGSTOP); a cycle then takes more than a minute, as Proxmox does",
    "stopped": "no QEMU runs",
    "stopped-locked": "no QEMU runs, and a backup has left its lock",
}
LINUX_GUEST = "apt-get install qemu-system-x86 linux-image-amd64"
WITH_KERNEL = ("guest-panicked", "guest-hung", "idle")  # the others' guest is a boot sector
WITHOUT_QEMU = ("guest-panicked", "idle", "paused", "qemu-wedged", "stopped", "stopped-locked")


class World:
    """One host with one stopped VM; `begin` puts the VM into the state that SCENARIOS names.

    `directory` must be short, because QEMU's socket paths have at most 108 bytes. Proxmox's own times are divided by
    `scale`.
    """

    def __init__(
        self,
        directory: Path,
        qemu: str | None = None,
        scenario: str = "idle",
        scale: float = 1,
        kernel: Kernel | None = None,
    ) -> None:
        self.directory = directory
        self.scale = scale
        self.scenario = scenario
        self.root = directory / "root"
        self.bin = directory / "bin"
        self.agent = directory / "breakglass-pve"
        self.second_monitor = self.root / "qmp2"  # for the demo itself, because a monitor serves one client at a time
        self.qemu = qemu if qemu is not None else shutil.which("qemu-system-x86_64")
        self.kernel = kernel if self.qemu and scenario in WITH_KERNEL else None
        self.guest = Guest(self.second_monitor if self.qemu else self.root / f"run/qemu-server/{VMID}.qmp")
        self._build()

    def _build(self) -> None:
        node = self.root / "etc/pve/nodes/demo"
        for made in (node / "qemu-server", self.root / "run/qemu-server", self.root / "dev", self.bin):
            made.mkdir(parents=True)
        for name in ("var/lib", "var/log", "var/lock/qemu-server", "sys/class/net/vmbr0"):
            (self.root / name).mkdir(parents=True)
        (self.root / "var/log/dpkg.log").touch()
        if self.scale != 1:
            (self.root / "scale").write_text(str(self.scale))
        (self.root / "etc/pve/local").symlink_to("nodes/demo")
        (self.root / "etc/pve/qemu-server").symlink_to("local/qemu-server")
        (self.root / "proc").symlink_to("/proc")
        (node / f"qemu-server/{VMID}.conf").write_text(CONF.replace("32", "192") if self.kernel else CONF)
        (self.root / "etc/pve/storage.cfg").write_text(STORAGES)
        (self.root / "disk.raw").write_bytes(make_disk(self.scenario))
        self.agent.write_text(bundle())
        self.agent.chmod(0o755)
        self._write_commands()
        (self.root / "vm.json").write_text(json.dumps(self._vm_command()))

    def _write_commands(self) -> None:
        root = str(self.root)
        environment = f'{ROOT}={shlex.quote(root)} PATH={shlex.quote(str(self.bin))}:"$PATH"'
        commands = {
            name: [*isolated_command("demo.proxmox.pve_tools"), root, name]
            for name in ("pvesh", "pvecm", "pvesm", "pveversion")
        }
        commands["qm"] = [*isolated_command("demo.proxmox.qm"), root]
        for name, command in commands.items():
            (self.bin / name).write_text(f'#!/bin/sh\n{environment} exec {shlex.join(command)} "$@"\n')
            (self.bin / name).chmod(0o755)

    def _vm_command(self) -> list[str]:
        run = self.root / "run/qemu-server"
        pidfile, qmp = str(run / f"{VMID}.pid"), str(run / f"{VMID}.qmp")
        if not self.qemu:
            kvm = self.bin / "kvm"
            kvm.symlink_to(sys.executable)
            program = str(Path(__file__).with_name("kvm.py"))
            return [str(kvm), "-IS", program, "-pidfile", pidfile, "-qmp", qmp, "-daemonize"]
        machine = "-name devvm -accel tcg -nodefaults -vga std -display none -daemonize"
        monitors = [f"unix:{path},server=on,wait=off" for path in (qmp, self.second_monitor)]
        options = [*machine.split(), "-drive", self._drive(), "-pidfile", pidfile]
        if self.kernel:
            options += self.kernel.write_archive(self.root / "initrd", HALTS if self.scenario == "guest-hung" else "")
        else:
            options += ["-m", "32"]
        if self.scenario == "guest-panicked":
            options += ["-device", "pvpanic", "-action", "panic=pause"]
        return [self.qemu, *options, "-qmp", monitors[0], "-qmp", monitors[1]]

    def _drive(self) -> str:
        image = f"{self.root}/disk.raw"
        if self.scenario != "io-error":
            return f"file={image},if=virtio,format=raw,cache=unsafe"
        error = {"event": "read_aio", "sector": "1", "errno": "28", "once": "on"}  # 28 is ENOSPC
        rule = ",".join(f"file.inject-error.0.{name}={value}" for name, value in error.items())
        source = f"file.driver=blkdebug,file.image.driver=file,file.image.filename={image}"
        return f"driver=raw,{source},{rule},if=virtio,rerror=stop"

    # --- the scenario ---

    def find_missing(self) -> str:
        """Return what the scenario needs and this machine lacks, or an empty text."""
        if self.scenario == "guest-hung" and not self.kernel:
            needs = "qemu-system-x86_64, and a Linux kernel with its modules that this user can read in /boot"
            return f"{self.scenario} needs {needs}; as root on Debian: {LINUX_GUEST}"
        if not self.qemu and self.scenario not in WITHOUT_QEMU:
            return f"{self.scenario} needs a real QEMU, and qemu-system-x86_64 is not installed"
        return ""

    def begin(self) -> None:
        """Start the VM and put it into the scenario's state. Raises RuntimeError, with the reason, if that fails."""
        if missing := self.find_missing():
            raise RuntimeError(missing)
        started = self.qm("start", str(VMID))
        if started.returncode:
            raise RuntimeError(f"the VM did not start: {started.stderr}")
        match self.scenario:
            case "paused":
                self.monitor("stop")
            case "guest-hung":
                self.guest.hang()
            case "idle" if self.kernel:
                self.guest.wait_for_heartbeat()
            case "guest-panicked":
                if self.kernel:
                    self.guest.press_enter()
                self.guest.wait_for_panic()
            case "io-error":
                self.guest.wait_for_io_error()
            case "healthy" | "disk-frozen":
                self.guest.wait_for_reads()
                if self.scenario == "disk-frozen":
                    self.guest.freeze_disk()
            case "qemu-wedged":
                _signal(self.pid, signal.SIGSTOP)
            case "stopped" | "stopped-locked":
                self.qm("stop", str(VMID))
        if self.scenario == "stopped-locked":
            conf = self.root / f"etc/pve/qemu-server/{VMID}.conf"
            conf.write_text(f"lock: backup\n{conf.read_text()}")

    def monitor(self, command: str, **arguments: object) -> object:
        """Send one QMP command to the VM and return its answer."""
        return self.guest.monitor(command, **arguments)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a forced command on this host: `qm` is found on PATH."""
        return {"PATH": f"{self.bin}:/usr/sbin:/usr/bin:/sbin:/bin"}

    def forced_command(self, *options: str) -> list[str]:
        """Return the agent's command line for one key."""
        serve = ["serve", "--vms", str(VMID), "--root", str(self.root), *options]
        return [sys.executable, "-IS", str(self.agent), *serve]

    def qm(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the stand-in `qm`, as an administrator on the host does."""
        return subprocess.run([str(self.bin / "qm"), *words], capture_output=True, text=True, timeout=60)

    @property
    def pid(self) -> int | None:
        """The VM's process, if any. It counts while any of its threads lives, even after the first has ended."""
        pidfile = self.root / f"run/qemu-server/{VMID}.pid"
        try:
            pid = int(pidfile.read_text())
            state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            command = Path(f"/proc/{pid}/cmdline").read_bytes()  # empty once the first thread has ended
        except (OSError, ValueError):
            return None
        if command and str(pidfile).encode() not in command.split(b"\0"):
            return None  # Proxmox leaves the file of a VM that it can't clean up, and the number is used again
        return None if state in "ZX" and int(fields[16]) <= 1 else pid

    def close(self) -> None:
        """End the running jobs, then the VM, then Proxmox's processes for it.

        The jobs are found by their records, and the processes by the root in their environment.
        """
        store = JobStore(Host(VMID, str(self.root)))
        for record in store.records():
            for pid in (*store.processes(record), read_process(store.path(record.id, "command"))):
                _signal(pid, signal.SIGKILL)
        _signal(self.pid, signal.SIGKILL)
        end_processes(str(self.root))


def _signal(pid: int | None, number: signal.Signals) -> None:
    if not pid:  # kill(2) would take 0 as the process group of the caller
        return
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)
