"""The wall around claude and the sandbox around each of its commands, both made by bubblewrap.

A command has no network, sees no process but its own, and of the disk /usr, a few files of /etc and the turn's own
directories. So what the permission rules let through has nothing to read and nowhere to send it. claude itself needs
its proxy to the model, so its wall is made in a network namespace with that (apart.py). Tried with bubblewrap 0.12.
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from .processes import MEMORY_SCORE

SECONDS = 8.0
PYTHON = "/usr/bin/python3"  # runs `pve` and the guest's command; a Python elsewhere is not visible in the sandbox
PROCESSES = 64  # of one command, with threads: it can't take all that its user may have from other turns
MEMORY_BYTES = 64 << 20  # of each file system in memory that can be written
HOME, SCRAPS = "home", "scraps"  # the directories of a turn that claude can write
CWD = "cwd"
SOCKET = "commands"
_PATH = "/usr/local/bin:/usr/bin:/bin"
# What programs need to start, find libraries, and print names and times. None of it is secret.
_ETC = ("alternatives", "group", "ld.so.cache", "localtime", "nsswitch.conf", "passwd", "terminfo")
_TOP = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")  # links into /usr, or directories on an older system


def bwrap() -> str:
    """Return the path of bubblewrap, or its name where there is none."""
    return shutil.which("bwrap", path="/usr/bin:/bin:/usr/local/bin") or "bwrap"


def _system() -> list[str]:
    """Return the arguments that show the system's programs and libraries, and nothing that is private."""
    arguments = ["--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    arguments += ["--size", str(MEMORY_BYTES), "--tmpfs", "/dev/shm", "--size", str(MEMORY_BYTES), "--tmpfs", "/tmp"]  # noqa: S108
    for name in _TOP:
        if os.path.islink(f"/{name}"):
            arguments += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
        elif os.path.isdir(f"/{name}"):
            arguments += ["--ro-bind", f"/{name}", f"/{name}"]
    return arguments


def sandbox_arguments() -> list[str]:
    """Return the bubblewrap command line for a command, without what belongs to one turn.

    All namespaces are new. No user namespace can be made inside, which keeps most of the kernel out of reach.
    """
    arguments = [bwrap(), "--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"]
    arguments += ["--die-with-parent", "--new-session", "--clearenv", "--hostname", "claude", *_system()]
    for name in _ETC:
        arguments += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    return arguments


def _wall(program: str) -> list[str]:
    """Return the part of claude's wall that doesn't belong to one turn."""
    arguments = [bwrap(), "--unshare-user", "--unshare-pid", "--unshare-ipc", "--die-with-parent", *_system()]
    return [*arguments, "--ro-bind", "/etc", "/etc", "--ro-bind-try", program, program]


def wall_arguments(program: str, directory: str) -> list[str]:
    """Return the bubblewrap command line for a claude that has a user of its own, in the network of its process.

    It sees no process but its own, and of the disk what a command sees, /etc, its program and its home. Its end,
    or that of the runner, ends everything in its namespace. (Root can't make sandboxes inside: bubblewrap covers
    parts of /proc for it, and then the kernel allows no further one.)
    """
    arguments = _wall(program)
    for name in ("agents.json", "shell", "bin", CWD):
        arguments += ["--ro-bind", f"{directory}/{name}", f"{directory}/{name}"]
    for name in (HOME, SCRAPS):
        arguments += ["--bind", f"{directory}/{name}", f"{directory}/{name}"]
    arguments += ["--ro-bind-try", f"{directory}/{SOCKET}", f"{directory}/{SOCKET}"]
    return [*arguments, "--remount-ro", "/", "--chdir", f"{directory}/{CWD}", "--"]


def look_arguments(program: str) -> list[str]:
    """Return the bubblewrap command line for a look at claude's program: it has no network, and writes nothing."""
    own = ["--unshare-net", "--clearenv", "--setenv", "HOME", "/tmp", "--chdir", "/tmp"]  # noqa: S108  # the wall's own
    return [*_wall(program), *own, "--"]


def low_wall_arguments() -> list[str]:
    """Return the bubblewrap command line for a claude under the handler's own user, which can't be root.

    It sees no process but its own, so it can end no other, and the end of its namespace ends all of its own. Nothing
    of the disk and of the network is kept from it. When memory runs out, all of it ends before the handler.
    """
    score = f'echo {MEMORY_SCORE} >/proc/self/oom_score_adj; exec "$@"'
    arguments = ["/bin/sh", "-c", score, "sh", bwrap(), "--unshare-user", "--unshare-pid", "--unshare-ipc"]
    return [*arguments, "--die-with-parent", "--dev-bind", "/", "/", "--proc", "/proc", "--"]


def render_shell(directory: str, sandboxed: bool) -> str:
    """Return the script that claude runs its commands through: it gets the whole command as one argument.

    Without the sandbox the command gets an environment of its own, and nothing else is kept from it.
    """
    variables = {
        "PATH": f"{directory}/bin:{_PATH}",
        "HOME": f"{directory}/{SCRAPS}",
        "TMPDIR": f"{directory}/{SCRAPS}",
        "LANG": "C.UTF-8",
    }
    if not sandboxed:
        words = [f"{name}={value}" for name, value in variables.items()]
    else:
        words = sandbox_arguments()
        for name, value in variables.items():
            words += ["--setenv", name, value]
        for name in ("bin", CWD):
            words += ["--ro-bind", f"{directory}/{name}", f"{directory}/{name}"]
        words += ["--bind", f"{directory}/{SCRAPS}", f"{directory}/{SCRAPS}"]
        words += ["--ro-bind-try", f"{directory}/{SOCKET}", f"{directory}/{SOCKET}", "--remount-ro", "/"]
        words += ["--chdir", f"{directory}/{CWD}"]
    # bubblewrap is process 1 of its sandbox, where a command can read its environment: so that is empty, too
    run = f'ulimit -u {PROCESSES}; exec /bin/bash -c "$1"'
    return f'#!/bin/sh\nexec /usr/bin/env -i {shlex.join(words)} /bin/bash -c {shlex.quote(run)} bash "$1"\n'


def sandbox_fault(uid: int | None, seconds: float = SECONDS) -> str:
    """Return why no command can run in the sandbox, or "": the command that was tried, and what it said.

    `uid` is the user to try it as, None for our own.
    """
    return _find_fault([*sandbox_arguments(), PYTHON, "-IS", "-c", ""], uid, seconds)


def wall_fault(program: str, turns: str, uid: int, seconds: float = SECONDS) -> str:
    """Return why claude's program can't be run behind its wall, or "". It is not run, only looked at.

    `turns` is the directory that those of the turns are made in.
    """
    tried = [*_wall(program), "--ro-bind-try", turns, turns, "--", "/usr/bin/test", "-x", program]
    return _find_fault(tried, uid, seconds)


def _find_fault(tried: Sequence[str], uid: int | None, seconds: float) -> str:
    try:
        ran = subprocess.run(
            tried,
            env={},
            cwd="/",
            user=uid,
            group=uid,
            extra_groups=None if uid is None else (),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=max(seconds, 0),
            check=False,
        )
    except FileNotFoundError:
        return "bwrap is not installed (on Debian: apt-get install bubblewrap)"
    except (OSError, subprocess.SubprocessError) as error:
        return f"{tried[0]} could not be tried: {error}"
    if ran.returncode == 0:
        return ""
    stderr = " ".join(ran.stderr.decode("utf-8", "replace").split())[-300:]
    return f"{tried[0]} {tried[1]} … {tried[-1] or PYTHON} ended with exit {ran.returncode}: {stderr}"


@cache
def own_sandbox_works(own: int | None = None) -> bool:
    """Tell, once for this process, whether commands can be sandboxed under our own user, or the handler's."""
    return not sandbox_fault(own)


@cache
def own_wall_works(own: int | None = None) -> bool:
    """Tell, once for this process, whether claude can have the low wall, with the sandbox of its commands behind it."""
    is_root = (os.geteuid() if own is None else own) == 0  # see wall_arguments
    tried = [*low_wall_arguments(), *sandbox_arguments(), PYTHON, "-IS", "-c", ""]
    return own_sandbox_works(own) and not is_root and not _find_fault(tried, own, SECONDS)


def client_text() -> str:
    """Return the program that is `pve`, and the guest's command, in the sandbox."""
    return f"#!{PYTHON} -IS\n{Path(__file__).with_name('client.py').read_text(encoding='utf-8')}"
