"""Gives up root: the process that parses the network is an ordinary user, without a capability, for good.

After OpenSSH's `permanently_set_uid`: every id is set, then read back, and then root must be out of reach.
"""

import ctypes
import errno
import fcntl
import os
import pwd
import termios
from pathlib import Path

from ..claude.processes import PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, leave_keyring, prctl
from ..config.load import read_server_user
from .output import CommandError, reason

PR_GET_DUMPABLE, PR_SET_KEEPCAPS, PR_CAPBSET_DROP = 3, 8, 24
CAP_NET_BIND_SERVICE = 10
_CAPABILITY_VERSION_3 = 0x20080522  # capset(2)
_FIELDS = ("Uid", "Gid", "CapInh", "CapPrm", "CapEff", "CapAmb", "NoNewPrivs")  # proc_pid_status(5)
MAKE_ONE = "make an account: adduser --system --group --no-create-home breakglass"

_libc = ctypes.CDLL(None, use_errno=True)


def find_account(config: Path) -> pwd.struct_passwd | None:
    """Return the account that this process, started as root, becomes; None if another user started it.

    Raises CommandError if [server] user is missing or can't be used, and ConfigError if the file can't be read.
    """
    name = read_server_user(config)
    if not name:
        if os.geteuid() != 0:
            return None
        raise CommandError(
            "the handler was started as root, and must not stay root",
            f'{MAKE_ONE}; write [server] user = "breakglass" into {config}; see breakglass docs runbook',
        )
    account = look_up(name)
    if os.geteuid() == 0:
        return account
    if os.geteuid() != account.pw_uid:
        message = f'[server] user is "{name}", and the handler was started as another user'
        raise CommandError(message, f"start it as root, or as {name}")
    return None


def look_up(name: str) -> pwd.struct_passwd:
    """Return the account of [server] user. Raises CommandError if there is none, or if it is root's."""
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        raise CommandError(f'[server] user is "{name}", and there is no such user', MAKE_ONE) from None
    if account.pw_uid == 0:
        raise CommandError(f'[server] user is "{name}", which is root', MAKE_ONE)
    return account


def become(account: pwd.struct_passwd) -> None:
    """Change from root to an account, with its groups. Raises CommandError where this process may not.

    Only the right to listen on a port below 1024 is left, until `give_up_privileges`.
    """
    try:
        leave_keyring()
        _leave_terminal()
        _empty_bounding_set()
        prctl(PR_SET_KEEPCAPS, 1)
        os.initgroups(account.pw_name, account.pw_gid)
        os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
        os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    except OSError as error:
        hint = f"start the handler as {account.pw_name}"
        raise CommandError(f"can't become [server] user {account.pw_name}: {reason(error)}", hint) from None
    _set_capabilities(1 << CAP_NET_BIND_SERVICE)  # without this one, a low port is refused, and nothing else
    prctl(PR_SET_DUMPABLE, 0)  # before a secret is in memory; a change of user can set it
    os.environ.update(HOME=account.pw_dir, USER=account.pw_name, LOGNAME=account.pw_name)


def name_this_user() -> None:
    """Give a user id that has no account, as in a container, a name and a home: asyncssh can't do without them."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        os.environ.setdefault("LOGNAME", "breakglass")
        os.environ.setdefault("HOME", "/nonexistent")


def _leave_terminal() -> None:
    """Give up the terminal of the shell that started this process, in which it could type a command (TIOCSTI)."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # there is none
        return
    if os.getsid(0) != os.getpid():
        fcntl.ioctl(terminal, termios.TIOCNOTTY)  # Ctrl-C still comes: it goes to the process group
    os.close(terminal)


def _empty_bounding_set() -> None:
    """Make sure that no program that this process starts can get a capability."""
    capability = 0
    try:
        while True:
            prctl(PR_CAPBSET_DROP, capability)
            capability += 1
    except OSError as error:
        if error.errno != errno.EINVAL:  # the kernel has no further one
            raise


def _set_capabilities(mask: int) -> bool:
    """Set the permitted and the effective capabilities, and no inheritable ones. Return whether the kernel agreed."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(mask, mask)  # effective, permitted, inheritable of the lower 32; then of the others
    return bool(_libc.capset(header, data) == 0) or (bool(mask) and _set_capabilities(0))


def give_up_privileges() -> None:
    """Drop every capability and each way to get one back, and close this process's memory to its own user.

    Raises CommandError if /proc or the kernel says that something is left.
    """
    uid, gid = os.geteuid(), os.getegid()
    os.setresgid(gid, gid, gid)  # a saved id, which a program with the setuid bit has, is a way back
    os.setresuid(uid, uid, uid)
    _set_capabilities(0)  # the result is read back below
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_DUMPABLE, 0)  # a change of user can set it
    left = find_privileges(Path("/proc/self/status").read_text())
    if _libc.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0:
        left.append("its user can read its memory")
    try:
        os.setuid(0)
        left.append("it can become root again")
    except PermissionError:
        pass
    if left:
        message = f"the handler could not give up its privileges: {', '.join(left)}"
        raise CommandError(message, "start it as root, or as its own user")


def find_privileges(status: str) -> list[str]:
    """Return the lines of a process's status that show a privilege; none for a process that has given up all."""
    lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    shown = {name: lines.get(name, "is missing") for name in _FIELDS}
    return [f"{name} {value}" for name, value in shown.items() if not _is_harmless(name, value.split())]


def _is_harmless(name: str, values: list[str]) -> bool:
    if name in ("Uid", "Gid"):  # real, effective, saved, of the file system
        return len(values) == 4 and len(set(values)) == 1 and (name, values[0]) != ("Uid", "0")
    return values == ["1"] if name == "NoNewPrivs" else values == ["0" * 16]
