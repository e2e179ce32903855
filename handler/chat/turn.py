"""The program of a turn: builds the sandbox of the turn, and then executes start.py in it.

Its standard input and output are one stream socket, which comes from the handler or from systemd. It reads only the
first line, which says where claude's program is, because the sandbox must show that path. start.py reads the rest. It
imports little, because the turn waits for the imports.
"""

import contextlib
import ctypes
import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

from .wall import PYTHON, bwrap, find_h11, own_paths, python_command, turn_wall

SECONDS = 16.0  # for a probe
OPENING_BYTES = 4096
MEMORY_SCORE = 500  # when memory runs out, the kernel ends a turn before the handler
LIMITS = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 64 << 20, resource.RLIMIT_AS: 8 << 30}  # in bytes
_HELP = "see breakglass docs admin, Namespaces for chat"
_KEEP = ">>/etc/sysctl.d/zz-breakglass.conf; sysctl --system"
_REFUSALS = (  # (kernel setting, the value that refuses namespaces, the fix) for Ubuntu, Debian and every kernel
    ("kernel/apparmor_restrict_unprivileged_userns", "1", f"write AppArmor's profile for bwrap: {_HELP}"),
    ("kernel/unprivileged_userns_clone", "0", f"echo kernel.unprivileged_userns_clone=1 {_KEEP}"),
    ("user/max_user_namespaces", "0", f"echo user.max_user_namespaces=15000 {_KEEP}"),
)
_KEYCTL, _JOIN_SESSION_KEYRING = {"x86_64": 250, "aarch64": 219}, 1  # the C library has no function for keyctl(2)


def main() -> int:
    """Run a turn or a probe. The argument is the directory of h11, or none if the interpreter finds it itself."""
    channel = socket.socket(fileno=os.dup(0))
    opening = _read_opening(channel)
    program, probe = str(opening.get("claude", "")), str(opening.get("probe", ""))
    sizes = [str(opening.get(name, 0)) for name in ("job", "transcript")]
    if not program.startswith("/"):
        return 2
    h11 = sys.argv[1] if len(sys.argv) == 2 and "/" in sys.argv[1] else find_h11()
    _limit_and_leave()
    # if the program is missing, the shell in claude's sandbox reports that
    programs = [program] if os.access(program, os.X_OK) else []
    command = turn_wall(python_command("chat.start", h11, program, probe, *sizes), [*own_paths(), h11, *programs])
    if not probe:
        os.execv(command[0], command)  # noqa: S606  # there is no shell in it
    with contextlib.suppress(OSError):  # the handler has closed the socket
        channel.sendall(json.dumps(_try(command)).encode() + b"\n")
    return 0


def _read_opening(channel: socket.socket) -> Mapping[str, object]:
    """Return the first line, empty if there is none. Leave everything after it in the socket."""
    line = b""
    while len(line) < OPENING_BYTES and not line.endswith(b"\n"):
        byte = channel.recv(1)
        if not byte:
            return {}
        line += byte
    return dict(json.loads(line))


def _limit_and_leave() -> None:
    """Set the limits for all processes of the turn, and leave the keyring, whose keys they could all use.

    The inherited limits may be stricter, for example in a pod, and raising a limit would need a privilege.
    """
    for limit, value in LIMITS.items():
        most = resource.getrlimit(limit)[1]
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(limit, (value, value))
    with open("/proc/self/oom_score_adj", "r+") as file:
        if int(file.read()) < MEMORY_SCORE:
            file.write(str(MEMORY_SCORE))
    if number := _KEYCTL.get(os.uname().machine):
        ctypes.CDLL(None).syscall(number, _JOIN_SESSION_KEYRING, None)


def _try(command: Sequence[str]) -> Mapping[str, object]:
    """Return the answer of a probe in the sandbox, or why the sandbox can't be created."""
    if missing := find_missing({bwrap(): "bubblewrap", "/bin/bash": "bash", PYTHON: "python3"}):
        return missing
    try:
        ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False)
        return dict(json.loads(ran.stdout))
    except (OSError, subprocess.SubprocessError) as error:
        return refuse_wall(f"the sandbox could not be tested: {error}")
    except ValueError:
        return refuse_wall(" ".join(ran.stderr.decode("utf-8", "replace").split())[-300:])


def find_missing(packages: Mapping[str, str]) -> Mapping[str, object] | None:
    """Return a probe's answer if a packaged program is missing. Such an image has its Python elsewhere."""
    for program, package in packages.items():
        if not os.access(program, os.X_OK):
            fix = f"apt-get install {package}"
            return {"fault": f"{program} is not installed", "code": "sandbox-missing", "fix": fix}
    return None


def refuse_wall(why: str) -> Mapping[str, object]:
    """Return a probe's answer if bubblewrap or the kernel refused the sandbox. Contains the fix."""
    fix = next((fix for file, value, fix in _REFUSALS if _read(file) == value), f"let users make namespaces: {_HELP}")
    return {"fault": f"bubblewrap can't make a sandbox: {why}", "code": "sandbox-refused", "fix": fix}


def _read(file: str) -> str:
    try:
        with open(f"/proc/sys/{file}") as setting:
            return setting.read().strip()
    except OSError:  # this kernel does not have the setting
        return ""
