"""A stand-in for `qmeventd`, for one QEMU. When QEMU ends, it executes `qm cleanup`, which can restart the VM."""

import os
import select
import signal
from typing import NoReturn

from ...base.isolated import isolated_command
from .processes import name_process
from .vm import Vm


def is_dead(vm: Vm) -> bool:
    """Return whether the host's event daemon is dead, which it is if `<root>/qmeventd-is-dead` exists."""
    return os.path.exists(f"{vm.root}/qmeventd-is-dead")


def watch(vm: Vm, pid: int) -> None:
    """Start a background process that waits for the QEMU `pid` to end; return when that process is waiting."""
    if is_dead(vm):
        return
    here, here_end = os.pipe()
    if os.fork() == 0:
        _watch(vm, os.pidfd_open(pid), here_end)
    os.close(here_end)
    os.read(here, 1)
    os.close(here)


def _watch(vm: Vm, pidfd: int, here: int) -> NoReturn:
    """Wait in a new session without the task's open files, because one of them is the flock."""
    try:
        os.setsid()
        name_process(["/usr/sbin/qmeventd", "/var/run/qmeventd.sock"], "qmeventd")
        _close_files(pidfd, here)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        os.write(here, b"1")
        os.close(here)
        select.select([pidfd], [], [])
        os.close(pidfd)
        if os.path.exists(vm.root):
            _become_cleanup(vm)
    finally:
        os._exit(0)


def _close_files(*left_open: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in left_open:
            try:
                os.close(int(name))
            except OSError:  # this descriptor was the one that listed the directory
                pass


def _become_cleanup(vm: Vm) -> None:
    command = [*isolated_command("demo.proxmox.qm"), vm.root, "cleanup", str(vm.vmid), "1", "0"]
    os.execv(command[0], command)
