"""Makes a running handler reload its configuration, for the options `--unit` and `--pid`."""

import argparse
import http.client
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from ..base.manager import is_handler, manager
from ..doctor.http import exchange
from .environment import handler_url
from .output import FAILED, CommandError, complain, reason, remark

_SECONDS = 60.0
_SEE_SECONDS = 10.0  # in which a reload ends
_LIST = "pgrep -af '(breakglass|handler) serve' lists them"
_SEE = 'look at "config" in GET /health: "rejected" means that the old configuration is still in force'
_FILES = "after a change of a file that LoadCredential= gives to the unit, restart it"


def add_reload_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments `--unit` and `--pid`."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--unit", metavar="NAME", help="after the change, reload this systemd unit, such as breakglass")
    which.add_argument("--pid", type=int, metavar="N", help="after the change, send SIGHUP to this handler process")


def check_reload(arguments: argparse.Namespace) -> None:
    """Raise CommandError if `reload_handler` could not work. Call it before the file is changed."""
    if arguments.unit is not None and shutil.which("systemctl") is None:
        raise CommandError("--unit: there is no systemctl on this machine", "name the handler's process with --pid")
    if arguments.pid is not None:
        os.close(_open_handler(arguments.pid))


def reload_handler(arguments: argparse.Namespace) -> bool:
    """Make the handler that the arguments name reload its configuration, and say on stderr whether it did.

    If the arguments name no handler, print the command to run and return False. Raises CommandError with exit code 1 if
    the reload failed. The file is already changed then, and the message says so.
    """
    before = _read_reloads()
    if arguments.unit is not None:
        _reload_unit(arguments.unit)
    elif arguments.pid is not None:
        _hang_up(arguments.pid)
    else:
        remark("the running handler does not use this change yet", manager().reload)
        return False
    state = _await_reload(before)
    if state.startswith("rejected"):
        why = "the configuration is changed, but the handler rejects it, so the old one is still in force"
        raise CommandError(why, "run breakglass check", FAILED)
    if state:
        remark(f"the handler has reloaded its configuration, which is {state}", _FILES)
    else:
        remark("the handler was told to reload its configuration", f"{_SEE}; {_FILES}")
    return True


def _read_reloads() -> tuple[object, str] | None:
    """Return how many reloads have ended, and the state of the configuration; None if no handler says that."""
    try:
        answer = exchange(handler_url(os.environ), "GET", "/health").json
    except (OSError, http.client.HTTPException, CommandError):
        return None
    return (answer["reloads"], str(answer.get("config"))) if "reloads" in answer else None


def _await_reload(before: tuple[object, str] | None) -> str:
    """Return the state of the configuration after the reload, or an empty text if it can't be seen."""
    until = time.monotonic() + _SEE_SECONDS
    while before is not None and time.monotonic() < until:
        now = _read_reloads()
        if now is not None and now[0] != before[0]:
            return now[1]
        time.sleep(0.1)
    return ""


def _not_reloaded(why: str, hint: str) -> CommandError:
    return CommandError(
        f"the configuration is changed, but the handler could not be told to reload: {why}", hint, FAILED
    )


def _reload_unit(unit: str) -> None:
    command = ["systemctl", "reload", "--", unit]
    try:
        ran = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        why = reason(error) if isinstance(error, OSError) else f"systemctl did not end within {_SECONDS:g} s"
        raise _not_reloaded(why, f"run {' '.join(command)}") from None
    stderr = ran.stderr.decode("utf-8", "replace").strip()
    if ran.returncode:
        why = stderr.splitlines()[0] if stderr else f"systemctl ended with {ran.returncode}"
        raise _not_reloaded(why, f"systemctl status {unit}; without systemd, kill -HUP its process")
    complain(f"warning: {stderr}" if stderr else "")


def _hang_up(pid: int) -> None:
    try:
        pidfd = _open_handler(pid)
    except CommandError as error:
        raise _not_reloaded(error.message, error.hint) from None
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGHUP)
    except OSError as error:
        raise _not_reloaded(f"process {pid}: {reason(error)}", "run kill -HUP as root, or as its user") from None
    finally:
        os.close(pidfd)


def _open_handler(pid: int) -> int:
    """Return a pidfd of a handler. Raises CommandError for other processes, because SIGHUP ends most of them.

    The descriptor is opened before the check, because a pidfd can't refer to another process later.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except (OSError, OverflowError, ValueError):
        raise CommandError(f"--pid: there is no process {pid}", _LIST) from None
    why = _why_no_handler(pid)
    if not why:
        return pidfd
    os.close(pidfd)
    raise CommandError(f"--pid: process {pid} {why}", _LIST)


def _why_no_handler(pid: int) -> str:
    """Return why a process is not a handler that accepts SIGHUP, or an empty text if it is one."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return f"can't be looked at: {reason(error)}"
    if not is_handler(words):
        return "is not breakglass serve"
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    takes = int(fields.get("SigCgt", "0"), 16) | int(fields.get("SigBlk", "0"), 16)
    bit = 1 << (signal.SIGHUP - 1)
    if int(fields.get("SigIgn", "0"), 16) & bit or not takes & bit:
        return "ignores SIGHUP, because it is ending"
    return ""
