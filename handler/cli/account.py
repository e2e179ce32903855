"""The account of this process. A command started by root becomes the handler's user; the handler is never root.

Modelled on OpenSSH's `permanently_set_uid`: every id is set, and then the remaining privileges are read back.
"""

import ctypes
import errno
import fcntl
import grp
import os
import pwd
import termios
from pathlib import Path

from ..config.sources import read_file
from .output import CommandError, reason

PR_GET_DUMPABLE, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 3, 4, 24, 38
_CAPABILITY_VERSION_3 = 0x20080522  # capset(2)
_KEYCTL, _JOIN_SESSION_KEYRING = {"x86_64": 250, "aarch64": 219}, 1  # the C library has no function for keyctl(2)
_FIELDS = ("Uid", "Gid", "CapInh", "CapPrm", "CapEff", "CapAmb", "NoNewPrivs")  # proc_pid_status(5)
ACCOUNT = "breakglass"  # the handler's, unless --user names another
MAKE_ONE = "make an account: adduser --system --group --no-create-home breakglass"

_libc = ctypes.CDLL(None, use_errno=True)


def find_account(config: Path, name: str | None) -> pwd.struct_passwd | None:
    """Return the account that this process must change to, or None if root did not start it.

    The account is `name` (the value of --user), otherwise the account with the name of the configuration's group.
    Raises CommandError if there is none, and ConfigError if the file can't be read.
    """
    if os.geteuid() == 0:
        return look_up(name) if name is not None else _find_owner(config)
    if name is not None and look_up(name).pw_uid != os.geteuid():
        raise CommandError(f"--user is {name}, but another user has started this command", f"run it as {name}")
    return None


def _find_owner(config: Path) -> pwd.struct_passwd:
    gid = read_file(config)[1].st_gid
    try:
        return look_up(_name_of(gid))
    except CommandError:
        group = f"{config}'s group is {_name_of(gid)}, but no account for the handler has that name"
        message = f"the handler's user is not known: {group}"
        raise CommandError(message, "name the account: --user breakglass") from None


def _name_of(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:  # for example in a container, where a user can be only a number
        return str(gid)


def look_up(name: str) -> pwd.struct_passwd:
    """Return an account by name, or by a number without an account. Raises CommandError if none, or root's."""
    try:
        account = _make_account(int(name)) if name.isascii() and name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        raise CommandError(f'there is no user "{name}"', MAKE_ONE) from None
    if account.pw_uid == 0:
        raise CommandError(f"{name} is root, and the handler must not be root", MAKE_ONE)
    return account


def _make_account(uid: int) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return pwd.struct_passwd((str(uid), "", uid, uid, "", "/nonexistent", ""))


def become(account: pwd.struct_passwd) -> None:
    """Change from root to an account, with its groups and no capability. Raises CommandError if that is not allowed."""
    try:
        _leave_keyring()
        _leave_terminal()
        _empty_bounding_set()
        os.initgroups(account.pw_name, account.pw_gid)
        os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
        os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    except OSError as error:
        hint = f"run this as {account.pw_name}"
        raise CommandError(f"can't become {account.pw_name}: {reason(error)}", hint) from None
    prctl(PR_SET_DUMPABLE, 0)  # set again before a secret is read, because a change of user can reset the attribute
    name_this_user()


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process. Its manual page is in section 2. Raises OSError."""
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def name_this_user() -> None:
    """Set the name and the home of this process's user id, because asyncssh reads them.

    setpriv keeps the values of root, whose home this user can't enter. An id without an account has neither.
    """
    account = _make_account(os.geteuid())
    os.environ.update(HOME=account.pw_dir, USER=account.pw_name, LOGNAME=account.pw_name)


def _leave_keyring() -> None:
    """Take an empty session keyring, because every process in one can use its keys (session-keyring(7))."""
    if number := _KEYCTL.get(os.uname().machine):
        # if the kernel forbids this call, it also forbids every use of keys
        _libc.syscall(number, _JOIN_SESSION_KEYRING, None)


def _leave_terminal() -> None:
    """Detach from the terminal of the starting shell, because a process can type commands there (TIOCSTI)."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # this process has no terminal
        return
    if os.getsid(0) != os.getpid():
        fcntl.ioctl(terminal, termios.TIOCNOTTY)  # Ctrl-C still arrives, because it goes to the process group
    os.close(terminal)


def _empty_bounding_set() -> None:
    """Make sure that no program started by this process can get a capability."""
    capability = 0
    try:
        while True:
            prctl(PR_CAPBSET_DROP, capability)
            capability += 1
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL means that the kernel has no capability with this number
            raise


def give_up_privileges() -> None:
    """Drop all capabilities for good, and make this process's memory unreadable for its own user.

    Raises CommandError if /proc or the kernel reports a remaining privilege.
    """
    _leave_keyring()
    _leave_terminal()
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    _libc.capset(header, none)  # drop all capabilities, such as that for a port below 1024; the result is checked below
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    left = find_privileges(Path("/proc/self/status").read_text())
    if _libc.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0:
        left.append("its user can read the memory of the handler")
    if left:
        message = f"the handler could not drop its privileges: {', '.join(left)}"
        raise CommandError(message, "start it as an ordinary user")


def find_privileges(status: str) -> list[str]:
    """Return the lines of a process's status that show a privilege, or none if it has no privilege."""
    lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    shown = {name: lines.get(name, "is missing") for name in _FIELDS}
    return [f"{name} {value}" for name, value in shown.items() if not _is_harmless(name, value.split())]


def _is_harmless(name: str, values: list[str]) -> bool:
    if name in ("Uid", "Gid"):  # real, effective, saved and file system id
        return len(values) == 4 and len(set(values)) == 1 and (name, values[0]) != ("Uid", "0")
    return values == ["1"] if name == "NoNewPrivs" else values == ["0" * 16]
