"""Judges an installation from texts: passwd, shadow, logind's settings, owners and modes of files.

Pure: `reading.py` reads the host. The rules are those of shadow(5) and logind.conf(5). An error names something that
would fail or would let others in. A setting that is only unusual gives no finding.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..words import PACKAGED, PASTED

OK, WARNING, ERROR = "ok", "warning", "error"


@dataclass(frozen=True)
class Finding:
    """One line of `check`: its severity, a sentence, and what to do about it."""

    level: str
    sentence: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.level}: {self.sentence}" + (f" / {self.hint}" if self.hint else "")


def ok(sentence: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(OK, sentence)


def warning(sentence: str, hint: str = "") -> Finding:
    """Return a finding for a fault that leaves a rescue possible."""
    return Finding(WARNING, sentence, hint)


def error(sentence: str, hint: str = "") -> Finding:
    """Return a finding that makes `check` end with 1."""
    return Finding(ERROR, sentence, hint)


def vm_and_name(vmid: int, name: str | None) -> str:
    """Return a VM's number with its name on Proxmox, if it has one."""
    return f'VM {vmid} "{name}"' if name else f"VM {vmid}"


def printable(text: str) -> str:
    """Return a text in which each character that a terminal would not show as it is is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def judge_qm(vmid: int, code: int | None, said: str, seconds: float) -> Finding:
    """Judge `qm status`: start and cycle need a `qm` that works. A busy host may be late, so that is a warning."""
    if code == 0:
        return ok(f"qm status {vmid} works")
    if code is None:
        hint = f"on the host: time qm status {vmid}; systemctl status pve-cluster; dmesg | tail"
        return warning(f"qm status {vmid} gave no answer in {seconds:g} s, so start and cycle may fail", hint)
    last = "".join(said.splitlines()[-1:])[-130:] or f"it ended with {code}"
    hint = f"if an upgrade of Proxmox is half done: dpkg --configure -a; apt full-upgrade; then qm status {vmid}"
    return error(f"qm does not work, so start and cycle are refused: {last}", hint)


# --- the account ---


@dataclass(frozen=True)
class Account:
    """A line of passwd(5)."""

    uid: str
    home: str
    shell: str


_PLAIN_SHELLS = ("/bin/sh", "/bin/dash", "/usr/bin/dash")


def find_account(passwd: str, user: str) -> Account | None:
    """Return the first line of passwd(5) for a user, as the C library does."""
    for line in passwd.splitlines():
        fields = line.split(":")
        if fields[0] == user and len(fields) == 7:
            return Account(fields[2], fields[5], fields[6])
    return None


def judge_account(user: str, account: Account | None, own_file: str = "") -> Iterator[Finding]:
    """Require uid 0, as `qm` does, and a shell that reads no start-up file before the host agent runs."""
    if account is None and own_file == PACKAGED:
        hint = "to let a handler in, run breakglass-pve allow VM --key 'ssh-ed25519 …'"
        yield error(f'there is no account "{user}", because no key was allowed yet', hint)
        return
    if account is None:
        yield error(f'there is no account "{user}"', "run the commands that `breakglass host install-commands` prints")
        return
    if account.uid != "0":
        # usermod refuses to change the uid while a process runs as the account
        hint = f"sed -i 's/^{user}:\\([^:]*\\):{account.uid}:/{user}:\\1:0:/' /etc/passwd"
        yield error(f"{user} has uid {account.uid}; qm and QMP need root", hint)
    if account.shell not in _PLAIN_SHELLS:
        # bash reads ~/.bashrc for a forced command too, and that file may print or hang
        yield error(f'the shell of {user} is "{account.shell}"', f"usermod --shell /bin/sh {user}")
    if account.uid == "0" and account.shell in _PLAIN_SHELLS:
        yield ok(f"{user} has uid 0 and the shell {account.shell}")


def judge_shadow(user: str, shadow: str, pam: bool) -> Iterator[Finding]:
    """Require a password that matches nothing, that never expires and that does not lock the account for sshd."""
    fields = next((line.split(":") for line in shadow.splitlines() if line.split(":")[0] == user), [])
    if len(fields) < 9:
        yield error(f"{user} has no line in /etc/shadow", f"usermod --password '*' {user}")
        return
    password, longest, expires = fields[1], fields[4], fields[7]
    if password.startswith("!") and not pam:
        yield error(f"{user} is locked, and sshd without PAM refuses it", f"usermod --password '*' {user}")
    elif password.startswith("!"):
        yield warning(f"{user} is locked, and sshd refuses it once UsePAM is no", f"usermod --password '*' {user}")
    elif password != "*":  # noqa: S105  a word of shadow(5)
        yield error(f"{user} has a password", f"usermod --password '*' {user}")
    else:
        yield ok(f"no password can log in as {user}, but the account's keys can")
    if expires or (longest.isdecimal() and int(longest) < 99999):
        yield error(
            f"{user} expires, and its keys then stop working",
            f"chage -m 0 -M -1 -I -1 -E -1 {user}",
        )


def judge_bashrc(path: str, text: str | None) -> Finding:
    """Judge the file that bash reads before it runs a forced command, because its output comes before the answer."""
    if text is None:
        return warning(
            f"{path} does not answer, and bash reads that file before the host agent",
            "look at the file system of that file",
        )
    commands = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    if commands and not re.search(r"\$\{?PS1|\$-", commands[0]):
        hint = 'begin it with: [ -z "$PS1" ] && return'
        return warning(
            f"bash runs {path} before the host agent, and a command there that hangs blocks every verb", hint
        )
    return ok(f"bash reads {path} before the host agent, and no command in it runs")


def judge_other_accounts(passwd: str) -> Iterator[Finding]:
    """Warn about each account other than root that has uid 0, because an earlier recipe may have made it."""
    lines = [line.split(":") for line in passwd.splitlines()]
    names = [fields[0] for fields in lines if len(fields) == 7 and fields[2] == "0" and fields[0] != "root"]
    for name in names:
        yield warning(f"{name} has uid 0 as well", "if an earlier recipe made it, remove its line: vipw, vipw -s")
    if not names:
        yield ok("no other account has uid 0")


# --- logind ---


def judge_logind(texts: Iterable[str], user: str = "root") -> Finding:
    """Judge whether logind would kill a job when its SSH session ends (logind.conf(5)); a later text wins.

    Without KillExcludeUsers= root is excluded; logind treats every account with uid 0 as root.
    """
    found: dict[str, str] = {}
    for text in texts:
        for line in text.splitlines():
            name, is_setting, value = line.strip().partition("=")
            if is_setting and not name.startswith(("#", ";")):
                found[name.strip()] = value.strip()
    if found.get("KillUserProcesses", "no").lower() not in ("yes", "true", "on", "1", "y", "t"):
        return ok("logind: KillUserProcesses=no, so a job outlives its SSH session")
    excluded, only = found.get("KillExcludeUsers", user).split(), found.get("KillOnlyUsers", "").split()
    hint = "set KillUserProcesses=no in /etc/systemd/logind.conf"
    if user in excluded or (only and user not in only):
        return warning(f"logind: KillUserProcesses=yes; jobs survive only because {user} is excluded", hint)
    return error("logind kills a job when its SSH session ends: KillUserProcesses=yes", hint)


# --- files ---


def judge_file(path: str, stats: Iterable[tuple[str, int, int]]) -> Finding:
    """Require that only root can change a file and the directories above it, given as (path, uid, mode)."""
    for name, uid, mode in stats:
        if uid < 0:
            return error(f"{name} does not exist", "run the commands that `breakglass host install-commands` prints")
        if uid != 0:
            return error(f"{name} belongs to uid {uid}", f"chown root:root {name}")
        if mode & 0o022:
            return error(f"{name} can be written by others than root: {mode & 0o7777:04o}", f"chmod go-w {name}")
    return ok(f"{path} belongs to root, and only root can change it")


def judge_origin(own_file: str, has_other: bool) -> Finding:
    """Say whether the host agent came with the Debian package or the recipe; two agents would share one record."""
    if has_other:
        sentence = f"the host has two host agents, {PACKAGED} of the package and {PASTED} of the recipe"
        return error(sentence, "apt install --reinstall ./breakglass-host_*_all.deb, which takes over the recipe's")
    return ok(f"the host agent is from {'the package breakglass-host' if own_file == PACKAGED else 'the recipe'}")


def judge_room(path: str, least: int, free: tuple[int, int] | None) -> Finding:
    """Warn if fewer than `least` bytes are free; `free` is (free, in all), and 0 in all is no limit."""
    if free is None:
        return warning(f"the room at {path} could not be determined", f"df {path}")
    left, of_all = free
    if left >= least or not of_all:
        return ok(f"{path} has {format_bytes(left)} free room" if of_all else f"{path} has no size limit")
    return warning(f"{path} has {format_bytes(left)} of {format_bytes(of_all)} left", f"df {path}; du -x -d 2 {path}")


def format_bytes(count: float) -> str:
    """Return a number of bytes for a person, such as 12 MiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.0f} GiB"


def judge_inodes(path: str, counted: tuple[int, int, int] | None) -> Finding:
    """Warn if less than a tenth of the inodes is left, because without one no job and no `qm start` can begin."""
    if counted is None:
        return warning(f"the inodes at {path} could not be counted", f"df -i {path}")
    left, of_all, own = counted
    if left >= of_all / 10:  # for a file system without a limit, both numbers are 0
        return ok(f"{path} has {own} files, and its file system has inodes for more")
    sentence = f"{path} has {own} files, and its file system {left} of {of_all} inodes left"
    return warning(sentence, f"df -i {path}; du --inodes -x -d 2 {path}")
