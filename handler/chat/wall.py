"""The sandboxes ("walls") of a turn, created with bubblewrap as an ordinary user. Standard library only.

`turn_wall` is around the whole turn. It shows only the system's directories and the turn's own program, read-only, and
keeps the turn's directory in memory. Inside it, claude runs in `claude_wall`, which has no network except the relay to
the model proxy. The model proxy and the ssh to the guest need the network and run in `network_wall`. Each command that
claude runs has its own sandbox (`render_shell`). When a wall ends, every process in it is killed. Tested with
bubblewrap 0.12.
"""

import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Sequence

from ..base.isolated import isolated_command

PYTHON = "/usr/bin/python3"  # runs the relay and claude's commands, because claude can't see a Python outside /usr
TURN = "/turn"  # a file system in memory; the path never changes, because claude names a transcript after its directory
HOME, SCRAPS, CWD, SSH = f"{TURN}/home", f"{TURN}/scraps", f"{TURN}/cwd", f"{TURN}/ssh"
TRANSCRIPTS = f"{TURN}/transcripts"  # a mount point, so that claude can't replace the directory by a link
BIN, SHELL, RELAY, AGENTS = f"{TURN}/bin", f"{TURN}/shell", f"{TURN}/relay", f"{TURN}/agents.json"
MODEL, COMMANDS = f"{TURN}/model", f"{TURN}/commands"  # sockets
PATH = "/usr/local/bin:/usr/bin:/bin"
TURN_BYTES, TMP_BYTES = 256 << 20, 64 << 20  # sizes of the writable file systems in memory
PROCESSES = 64  # the most processes of a command, threads included
# claude does not wait until the relay has started, because it needs the relay only half a second later
_RELAYED = f'{PYTHON} -IS {RELAY} </dev/null >/dev/null 2>&1 & ulimit -u 512; exec "$@"'

# Files that programs need to start, to find libraries, to print times and to resolve names. None of them is secret.
_ETC = ("alternatives", "ld.so.cache", "localtime", "nsswitch.conf", "terminfo")
_NETWORK_ETC = (
    *("ca-certificates", "crypto-policies", "gai.conf", "host.conf", "hosts", "pki", "resolv.conf", "services", "ssl"),
)
_ACCOUNTS = ("passwd", "group")  # made for the turn with one account, because ssh needs a name for its user id
_TOP = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")  # links into /usr, or directories on an older system
_NEW = ("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
_END = ("--die-with-parent", "--new-session", "--cap-drop", "ALL", "--hostname", "claude")


def bwrap() -> str:
    """Return the path of bubblewrap, or its bare name if it is not installed."""
    return shutil.which("bwrap", path="/usr/bin:/bin:/usr/local/bin") or "bwrap"


def turn_wall(program: Sequence[str], shown: Sequence[str]) -> list[str]:
    """Return the command line that runs a program in the outer sandbox, where `shown` paths are visible too."""
    memory = ["--size", str(TURN_BYTES), "--perms", "0700", "--tmpfs", TURN]
    return [bwrap(), *_NEW, *_END, "--clearenv", *_system(), *_network(), *_show(*shown), *memory, *_in(TURN), *program]


def network_wall(program: Sequence[str], shown: Sequence[str]) -> list[str]:
    """Return the command line for a program that needs the network. Of the turn, it sees only `shown`."""
    system = [*_system(), *_network(), *_accounts(), *_show(*shown)]
    return [bwrap(), *_NEW, *_END, "--disable-userns", "--clearenv", *system, *_in("/"), *program]


def claude_wall(program: str, arguments: Sequence[str]) -> list[str]:
    """Return the command line for claude. It has no network except the relay, and sees only its own processes."""
    own = [*_show(program, AGENTS, SHELL, RELAY, BIN, CWD), *_open(HOME, SCRAPS, MODEL, COMMANDS)]
    # claude stores the transcript of a session in this directory
    own += ["--bind", TRANSCRIPTS, f"{HOME}/projects/{CWD.replace('/', '-')}"]
    relayed = ["/bin/bash", "-c", _RELAYED, "bash", program, *arguments]
    return [bwrap(), *_NEW, "--unshare-net", *_END, *_system(), *_accounts(), *own, *_in(CWD), *relayed]


def render_shell() -> str:
    """Return the script that claude runs its commands through. It gets the whole command as one argument.

    A command has no network, sees only its own processes, and can't create another namespace.
    """
    words = [bwrap(), *_NEW, "--unshare-net", *_END, "--disable-userns", "--clearenv", *_system(), *_etc(_ACCOUNTS)]
    for name, value in {"PATH": f"{BIN}:{PATH}", "HOME": SCRAPS, "TMPDIR": SCRAPS, "LANG": "C.UTF-8"}.items():
        words += ["--setenv", name, value]
    words += [*_show(BIN, CWD), *_open(SCRAPS, COMMANDS), *_in(CWD)]
    # a command can read the environment of its sandbox's process 1, which is bubblewrap, so that one is empty too
    run = f'ulimit -u {PROCESSES}; exec /bin/bash -c "$1"'
    return f'#!/bin/sh\nexec /usr/bin/env -i {shlex.join(words)} /bin/bash -c {shlex.quote(run)} bash "$1"\n'


def make_places() -> None:
    """Create the turn's directories, and the files that are the same in every turn, for the sandboxes."""
    for directory in (BIN, SSH, CWD, HOME, SCRAPS, TRANSCRIPTS):
        os.mkdir(directory, 0o700)
    uid, gid = os.getuid(), os.getgid()
    write_file(f"{TURN}/passwd", f"claude:x:{uid}:{gid}::{SCRAPS}:/bin/bash\n", 0o444)
    write_file(f"{TURN}/group", f"claude:x:{gid}:\n", 0o444)
    write_file(SHELL, render_shell(), 0o555)
    write_file(RELAY, read_program("relay.py"), 0o444)


def read_program(name: str) -> str:
    """Return the text of a program that is copied into the turn."""
    with open(f"{os.path.dirname(__file__)}/{name}", encoding="utf-8") as file:
        return file.read()


def write_file(path: str, text: str, mode: int) -> None:
    """Write a file that does not exist yet."""
    with open(path, "x", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)


def python_command(module: str, *arguments: str, library: str = "") -> list[str]:
    """Return the command line that calls `main()` of a module of this package inside a sandbox.

    `library` is the directory of a further package that the module imports.
    """
    _, flags, option, begin, *rest = isolated_command(module, *arguments)
    if library:
        begin = f"import sys; sys.path.append({os.path.dirname(library)!r}); {begin}"
    # the python of a virtual environment may be a copy, which does not exist in the sandbox
    python = getattr(sys, "_base_executable", sys.executable)
    return [os.path.realpath(python), flags, option, begin, *rest]


def starter_command() -> list[str]:
    """Return the command line of a turn's program, for a handler that starts turns itself."""
    return isolated_command("chat.turn", find_h11())


def find_h11() -> str:
    """Return the directory that contains h11, which the model proxy needs."""
    found = importlib.util.find_spec("h11")
    return os.path.dirname(found.origin) if found and found.origin else ""


def own_paths() -> list[str]:
    """Return the directories of this program: its package, and its Python unless that belongs to the system."""
    root = sys.modules[__name__.partition(".")[0]]
    here, *others = (os.path.realpath(path) for path in root.__path__)
    python = os.path.realpath(sys.base_prefix)
    found = [here, *(f"{path}/agents" for path in others if os.path.isdir(f"{path}/agents"))]
    return [*([] if python == "/usr" or python.startswith("/usr/") else [python]), *found]


def _system() -> list[str]:
    """Return the arguments that show the system's programs and libraries, but no private files."""
    arguments = ["--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    for place in ("/dev/shm", "/tmp"):  # noqa: S108  # of this wall alone, and in memory
        arguments += ["--size", str(TMP_BYTES), "--tmpfs", place]
    for name in _TOP:
        if os.path.islink(f"/{name}"):
            arguments += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
        elif os.path.isdir(f"/{name}"):
            arguments += ["--ro-bind", f"/{name}", f"/{name}"]
    return [*arguments, *_etc(_ETC)]


def _network() -> list[str]:
    return _etc(_NETWORK_ETC)


def _accounts() -> list[str]:
    return [word for name in _ACCOUNTS for word in ("--ro-bind", f"{TURN}/{name}", f"/etc/{name}")]


def _etc(names: Sequence[str]) -> list[str]:
    return [word for name in names for word in ("--ro-bind-try", os.path.realpath(f"/etc/{name}"), f"/etc/{name}")]


def _show(*paths: str) -> list[str]:
    return [word for path in paths for word in ("--ro-bind-try", path, path)]


def _open(*paths: str) -> list[str]:
    return [word for path in paths for word in ("--bind", path, path)]


def _in(directory: str) -> list[str]:
    """Return the last arguments: everything else is read-only, and the program starts in this directory."""
    return ["--remount-ro", "/", "--chdir", directory, "--"]
