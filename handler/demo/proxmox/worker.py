"""A task of `qm`: a worker does the work in its own session, and `qm` prints the worker's output.

Rules: pve-common 9.2.1, RESTEnvironment.pm, fork_worker and tee_worker. `qm` writes the worker's stdout and stderr to
its own stdout, and only the task's error to stderr. `qm` passes SIGTERM on to the worker's group, where it raises an
exception. If `qm` gets SIGKILL, the worker continues until it prints something.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from . import tasklog
from .processes import Died, name_process, wait_for_end
from .times import seconds
from .vm import Vm

PATIENCE = 3  # signals that are passed on as SIGTERM; later ones are passed on as SIGKILL
_INTERRUPTS = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


def run_task(vm: Vm, kind: str, work: Callable[[], None]) -> int:
    """Run `work` as a task, print its output, and return the exit code, 0 or 255."""
    for number in _INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    (output, output_end), (control, control_end), (ready, ready_end) = os.pipe(), os.pipe(), os.pipe()
    began = int(time.time())
    pid = os.fork()
    if pid == 0:
        for fd in (output, control, ready_end):
            os.close(fd)
        _work(_upid(vm, kind, began, os.getpid()), work, output_end, control_end, ready)
    for fd in (output_end, control_end, ready):
        os.close(fd)
    upid = _upid(vm, kind, began, pid)
    os.read(output, 4096)  # the worker's UPID, which is already its process name
    os.write(ready_end, b"OK")
    tasklog.add_running(vm.root, upid)
    result = _tee(vm, pid, output, control)
    _end_group(vm, pid)
    os.waitpid(pid, 0)
    error = result.removeprefix("TASK ERROR: ") if result != "TASK OK" else ""
    tasklog.add_ended(vm.root, upid, error or "OK")
    if error:
        print(error, file=sys.stderr, flush=True)
    return 255 if error else 0


def _upid(vm: Vm, kind: str, began: int, pid: int) -> str:
    return f"UPID:demo:{pid:08X}:{tasklog.start_ticks(pid):08X}:{began:08X}:{kind}:{vm.vmid}:root@pam:"


# --- the worker ---


def _work(upid: str, work: Callable[[], None], output: int, control: int, ready: int) -> NoReturn:
    """Run the worker; never return."""
    result = b"TASK ERROR: it died\n"
    try:  # a signal can raise an exception in any line of the inner block, even in its error handling
        try:
            name_process([f"task {upid}"], f"task {upid}")
            for number in _INTERRUPTS:
                signal.signal(number, _interrupt)
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.setsid()
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.write(output, upid.encode())
            os.close(output)
            if os.read(ready, 2) == b"OK":
                work()
                result = b"TASK OK\n"
        except Died as error:
            result = f"TASK ERROR: {str(error).replace(chr(10), ' ')}\n".encode()
        except BaseException as error:
            result = f"TASK ERROR: {error!r}\n".encode()
        finally:
            os.write(control, result)
    finally:
        os._exit(0 if result == b"TASK OK\n" else 255)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Died("received interrupt")


# --- qm in front of it ---


def _tee(vm: Vm, pid: int, output: int, control: int) -> str:
    """Print the worker's output until it ends; return its result."""
    passed_on = 0

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal passed_on
        passed_on += 1
        _signal_group(pid, signal.SIGTERM if passed_on <= PATIENCE else signal.SIGKILL)

    for number in _INTERRUPTS:
        signal.signal(number, pass_on)
    try:
        while True:
            if select.select([output], [], [], seconds(vm.root, "look"))[0]:
                chunk = os.read(output, 4096)
                if not chunk:
                    break
                _print(chunk)
            elif wait_for_end(pid, 0):  # a child of the worker holds its output open
                break
    except BrokenPipeError:
        return "TASK ERROR: broken pipe"
    finally:
        os.close(output)
    result = os.read(control, 4096).decode().rstrip("\n")
    return result or "TASK ERROR: got unexpected control message: "


def _print(chunk: bytes) -> None:
    while chunk:
        chunk = chunk[os.write(1, chunk) :]


def _end_group(vm: Vm, pid: int) -> None:
    """End the rest of the worker's group, and the worker itself if its output was cut off."""
    _signal_group(pid, signal.SIGTERM)
    if not wait_for_end(pid, seconds(vm.root, "kill-group")):
        _signal_group(pid, signal.SIGKILL)


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass
