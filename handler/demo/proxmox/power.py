"""The work of `qm`'s tasks, under the VM's flock: qemu-server 9.2.6, QemuServer.pm and CLI/qm.pm."""

import errno
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from .command_line import activate_volumes, make_command
from .hooks import run_hook
from .processes import Died, run_command
from .qmeventd import is_dead, watch
from .times import LEAST_FOR_CLEANUP, LEAST_FOR_KILL, LEAST_FOR_QEMU
from .vm import Vm, remove, say

BALLOON, BALLOON_SECONDS = "/machine/peripheral/balloon0", 2


@contextmanager
def take_flock(vm: Vm, patience: str = "flock", tell: Callable[[str], None] = say) -> Iterator[None]:
    """Take the VM's flock for the block; waiting processes get it in the order of flock(2)."""
    name = f"/var/lock/qemu-server/lock-{vm.vmid}.conf"
    fd = os.open(vm.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("trying to acquire lock...")
            try:
                _wait_for_flock(fd, vm.seconds(patience))
            except Died as error:
                raise Died(f"can't lock file '{name}' - {error}", errno.EINTR) from None
            tell(" OK")
        yield
    finally:
        os.close(fd)


def _wait_for_flock(fd: int, limit: float) -> None:
    signal.signal(signal.SIGALRM, _too_late)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _too_late(number: int, frame: FrameType | None) -> None:
    raise Died("got timeout")


# --- stop, shutdown, reboot ---


def stop(vm: Vm, limit: float, shutdown: bool = False, force: bool = True) -> None:
    """End the VM's process, by `quit` or (for a shutdown) ACPI. With `force`, then by SIGTERM and SIGKILL."""
    vm.require_config()
    pid = vm.pid
    if pid is None:
        return
    vm.check_lock()
    run_hook(vm, "pre-stop")
    words = _ask_to_end(vm, limit, shutdown)
    if words and vm.pid is None:
        say("Unexpected: VM shutdown command failed, but VM not running anymore..")
        return
    if words and not force:
        raise Died("VM quit/powerdown failed" if "failed" in words else "VM quit/powerdown failed - got timeout")
    if words:
        _kill(vm, pid, words)
    _let_cleanup_queue(vm)
    clean_up(vm)
    vm.apply_pending()


def _ask_to_end(vm: Vm, limit: float, shutdown: bool) -> str:
    """Ask the process to end. Return an empty text, or the error if the process does not end.

    A signal to this task counts as an error of the monitor while the monitor is asked; after that, it ends the task.
    """
    try:
        vm.monitor("system_powerdown") if shutdown else vm.monitor("quit", vm.seconds("qmp-quit"))
    except Died:
        return "VM quit/powerdown failed"
    return "" if vm.wait_until_gone(limit if shutdown else vm.needs(limit)) else "VM still running"


def _kill(vm: Vm, pid: int, words: str) -> None:
    say(f"{words} - terminating now with SIGTERM")
    _signal(pid, signal.SIGTERM)
    if not vm.wait_until_gone(vm.needs(vm.seconds("sigterm"))):
        say("VM still running - terminating now with SIGKILL")
        _signal(pid, signal.SIGKILL)
        time.sleep(vm.seconds("sigkill"))  # like the original, the task does not check again whether QEMU has ended


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _let_cleanup_queue(vm: Vm) -> None:
    """Wait until qmeventd's cleanup waits for the flock, so that it runs before a later start.

    The original looks once a second, so it always comes after the cleanup. There is no cleanup while a thread of
    QEMU still hangs in the kernel, or if the host's event daemon is dead.
    """
    if is_dead(vm):
        return
    inode = f":{os.stat(vm.lock).st_ino} "
    began = time.monotonic()
    while (passed := time.monotonic() - began) < LEAST_FOR_CLEANUP:
        if passed > LEAST_FOR_KILL and vm.left_in_scope():
            return
        with open("/proc/locks", encoding="ascii", errors="replace") as file:
            if any("->" in line and inode in line for line in file):
                return
        time.sleep(0.005)


def clean_up(vm: Vm) -> None:
    """Remove the files of a VM that has ended, once (vm_stop_cleanup)."""
    if not os.path.exists(vm.cleanup):
        return
    for name in ("mon", "qmp", "pid", "vnc", "qga"):
        remove(f"{vm.run}.{name}")
    vm.forget_scope()
    run_hook(vm, "post-stop")
    remove(vm.cleanup)


def reboot(vm: Vm, limit: float) -> None:
    """Shut the VM down; a file tells qmeventd's cleanup to start it again."""
    if vm.pid is None:
        return
    with open(vm.reboot, "w", encoding="ascii"):
        pass
    try:
        stop(vm, limit, shutdown=True, force=False)
    except Died:
        remove(vm.reboot)
        raise


# --- start, reset ---


def reset(vm: Vm) -> None:
    """Reset the machine through QEMU's monitor."""
    vm.check_lock()
    vm.monitor("system_reset")


def start(vm: Vm) -> None:
    """Start QEMU, or continue one that a backup has paused."""
    if vm.config().get("template", "0") != "0":
        raise Died("you can't start a vm if it's a template")
    vm.check_lock("suspended", *(("backup",) if vm.pid else ()))
    if vm.pid is not None and vm.config().get("lock") == "backup":
        vm.monitor("cont")
        return
    if vm.pid is not None:
        raise Died(f"VM {vm.vmid} already running")
    remove(vm.reboot)
    run_hook(vm, "pre-start", must_succeed=True)
    vm.apply_pending()
    activate_volumes(vm)
    command = make_command(vm)
    _wait_for_scope(vm)
    _run_qemu(vm, command)
    _watch(vm)
    if any(word.startswith("virtio-balloon") for word in command):
        vm.monitor("qom-set", path=BALLOON, property="guest-stats-polling-interval", value=BALLOON_SECONDS)
    run_hook(vm, "post-start")


def _wait_for_scope(vm: Vm) -> None:
    """Wait until systemd has removed the old scope."""
    until = time.monotonic() + vm.seconds("systemd")
    while vm.left_in_scope():
        if time.monotonic() > until:
            raise Died("timeout waiting on systemd")
        time.sleep(0.02)


def _run_qemu(vm: Vm, argv: list[str]) -> None:
    """Run the command that puts QEMU into the background; its output is part of the task's output."""
    limit = vm.start_seconds()
    if "-daemonize" in argv:
        limit = max(limit, LEAST_FOR_QEMU)
    try:
        code = run_command(argv, limit)
    except Died as error:
        raise Died(f"start failed: command '{' '.join(['/usr/bin/kvm', *argv[1:]])}' failed: {error}") from None
    if code:
        raise Died(f"start failed: QEMU exited with code {code}")


def _watch(vm: Vm) -> None:
    """Write the scope and the cleanup file of the running QEMU, and have qmeventd watch it."""
    os.makedirs(os.path.dirname(vm.cgroup), exist_ok=True)
    pid = vm.pid
    for path, text in ((vm.cgroup, f"{pid}\n" if pid else ""), (vm.cleanup, "")):
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
    if pid:
        watch(vm, pid)


# --- cleanup ---


def cleanup(vm: Vm, clean: bool, tell: Callable[[str], None]) -> bool:
    """Clean up after a QEMU that has ended (`qm cleanup`). Return whether the VM must start again."""
    if not os.path.exists(vm.conf):
        return False
    tell(f"Starting cleanup for {vm.vmid}")
    with take_flock(vm, "cleanup-flock", tell):
        if vm.pid is not None:
            _await_end(vm, clean, tell)
        if vm.config().get("lock") == "rollback":
            raise Died("skipping cleanup - 'rollback' lock is present", errno.ENOENT)
        clean_up(vm)
        again = remove(vm.reboot)
    tell(f"Finished cleanup for {vm.vmid}")
    if again:
        tell(f"Restarting VM {vm.vmid}")
    return again


def _await_end(vm: Vm, clean: bool, tell: Callable[[str], None]) -> None:
    """Wait until the running QEMU ends, which may be a new one."""
    if clean and vm.config().get("lock") == "backup":
        raise Died("skipping cleanup - 'backup' lock is present and vm is running again", errno.ENOTTY)
    first = vm.seconds("cleanup-warns")
    if vm.wait_until_gone(first):
        return
    tell(f"VM cleanup: QEMU process {vm.pid} for VM {vm.vmid} still running (or newly started)")
    if not vm.wait_until_gone(vm.seconds("cleanup") - first):
        raise Died("aborting cleanup, VM is still running after 30 seconds", errno.ENOTTY)
