"""`breakglass-pve check`: verifies that a rescue works on this host and that its keys open nothing else.

Reads the host; `findings.py` and `key_lines.py` judge. It creates only the two directories that `serve` creates too.
Every place that may hang is read in a forked child with a deadline, because a check must end on a broken host as well.
"""

import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial

from ..host.bounded import ask_or_none, run
from ..host.cluster import node_name, parse_guests
from ..host.paths import Host
from .findings import (
    OK,
    Finding,
    error,
    find_account,
    find_key_files,
    judge_account,
    judge_file,
    judge_logind,
    judge_python,
    judge_shadow,
    judge_sshd,
    ok,
    parse_settings,
    warning,
)
from .key_lines import (
    KeyLine,
    forced_program,
    judge_both_kinds,
    judge_elsewhere,
    judge_key_lines,
    judge_vms,
    parse_key_lines,
)

SSHD_SECONDS = 5.0
FILE_SECONDS = 3.0
_ELSEWHERE = "set AuthorizedKeysFile /etc/ssh/authorized_keys.d/%u"


def check(root: str, user: str, own_file: str) -> Iterator[Finding]:
    """Yield the findings about this host, the account that the keys log in to, and each VM that a key names."""
    host = Host(0, root)
    yield from _check_program(host, own_file)
    yield from _check_directories(host)
    passwd = _read_in_time(host.path("/etc/passwd")) or ""
    yield from judge_account(user, find_account(passwd, user))
    yield judge_logind(_read_logind_configs(host))
    settings = _read_sshd_settings(host, user)
    if settings is None:
        yield error("sshd -T failed, so its settings are not known", "run sshd -t and systemctl status ssh")
        return
    shadow = _read_in_time(host.path("/etc/shadow")) or ""
    yield from judge_shadow(user, shadow, pam=settings.get("usepam") == "yes")
    yield from judge_sshd(settings, user)
    yield from _check_keys(host, user, settings, passwd, own_file)


def _check_program(host: Host, own_file: str) -> Iterator[Finding]:
    yield judge_file(own_file, _stat_path(host, own_file) or [(own_file, -1, 0)])
    yield judge_python(tuple(sys.version_info[:3]))
    if os.geteuid() != 0:
        yield error("this check does not run as root, so it can't see everything", "run it as root")
    if shutil.which("qm") is None:
        yield error("qm is not on PATH", f"run this check on the Proxmox host; PATH is {os.environ.get('PATH')}")
    else:
        yield ok(f"qm is {shutil.which('qm')}")


def _check_directories(host: Host) -> Iterator[Finding]:
    for path, effect, finding in (
        (host.path("/run/breakglass"), "no job can be recorded, so no verb can run", error),
        (host.path("/var/lib/breakglass"), "finished jobs are not archived", warning),
    ):
        answer = ask_or_none(partial(_try_write, path), FILE_SECONDS)
        if answer is True:
            yield ok(f"{path} can be written")
        else:
            yield finding(f"{path} can't be written: {effect}", str(answer or f"no answer in {FILE_SECONDS:g} s"))


def _try_write(directory: str) -> object:
    """Return True when a file can be created there, or the reason why not."""
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"breakglass-pve check\n")
    except OSError as failure:
        return str(failure)
    return True


def _check_vms(root: str, lines: Iterable[KeyLine]) -> Iterator[Finding]:
    """Judge the VMs that the key lines name, by the list of the cluster's guests."""
    guests = _read_in_time(f"{root}/etc/pve/.vmlist")
    if not guests:
        yield warning(
            "/etc/pve does not answer; reset and stop work, start and cycle do not", "systemctl status pve-cluster"
        )
        return
    yield from judge_vms(lines, parse_guests(guests), node_name())


def _read_logind_configs(host: Host) -> Iterator[str]:
    """Yield logind's configuration in the order in which it applies: the main file, then drop-ins by name."""
    places = [host.path(f"{place}/systemd") for place in ("/usr/lib", "/run", "/etc")]
    mains = [path for place in reversed(places) if os.path.exists(path := f"{place}/logind.conf")]
    drop_ins: dict[str, str] = {}
    for place in places:  # of two with the same name, the one in /etc applies
        drop_ins |= {os.path.basename(path): path for path in glob.glob(f"{place}/logind.conf.d/*.conf")}
    for path in (*mains[:1], *(drop_ins[name] for name in sorted(drop_ins))):
        yield _read_in_time(path) or ""


def _read_sshd_settings(host: Host, user: str) -> dict[str, str] | None:
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    config = ["-f", host.path("/etc/ssh/sshd_config")] if host.root else []
    ran = run([sshd, "-T", *config, "-C", f"user={user},host=check,addr=127.0.0.1"], SSHD_SECONDS)
    return parse_settings(ran.stdout) if ran.code == 0 else None


def _check_keys(host: Host, user: str, settings: dict[str, str], passwd: str, own_file: str) -> Iterator[Finding]:
    account = find_account(passwd, user)
    paths = find_key_files(settings, user, account.home if account else "/")
    roots = _find_root_files(host, passwd)
    if not paths:
        yield error(
            f"sshd has no AuthorizedKeysFile for {user}",
            "include /etc/ssh/sshd_config.d/*.conf in /etc/ssh/sshd_config",
        )
    lines: list[KeyLine] = []
    for path in paths:
        if path in roots:
            yield error(f"{path} is root's own key file", _ELSEWHERE)
            continue
        found = parse_key_lines(_read_in_time(host.path(path)) or "", path)
        yield _judge_place(host, path)
        yield from judge_key_lines(path, found)
        lines += found
    yield from judge_both_kinds(lines)
    yield from _check_programs(host, lines, own_file)
    yield from _check_vms(host.root, lines)
    yield from _check_elsewhere(host, [path for path in roots if path not in paths], {line.key for line in lines})


def _check_programs(host: Host, lines: Iterable[KeyLine], own_file: str) -> Iterator[Finding]:
    """Judge the programs that the key lines run as root; the file of this check itself is judged already."""
    first: dict[str, KeyLine] = {}
    for line in lines:
        first.setdefault(forced_program(line) or "", line)
    for program, line in first.items():
        path = host.path(program)
        if not program or path == own_file:
            continue
        stats = _stat_path(host, path) or [(program, -1, 0)]
        found = judge_file(program, stats)
        yield found
        if found.level == OK and stats[0][0] != os.path.realpath(own_file):
            yield warning(f"{line.where} runs {program}, and this check is of {own_file}", f"run {program} check")


def _judge_place(host: Host, path: str) -> Finding:
    """Judge where a key file really is and who may change it there; a link may lead to a place that hangs."""
    stats = _stat_path(host, host.path(path))
    if stats is None or stats[0][0].startswith(host.path("/etc/pve/")):
        return error(f"{path} is below /etc/pve, which is gone when the cluster file system is down", _ELSEWHERE)
    return judge_file(path, stats)


def _find_root_files(host: Host, passwd: str) -> list[str]:
    """Return the paths of root's own key files: those that sshd uses, and the one that Proxmox keeps."""
    root = find_account(passwd, "root")
    settings = _read_sshd_settings(host, "root") or {}
    return [*find_key_files(settings, "root", root.home if root else "/root"), "/etc/pve/priv/authorized_keys"]


def _check_elsewhere(host: Host, paths: Iterable[str], ours: set[str]) -> Iterator[Finding]:
    found: list[Finding] = []
    for path in paths:
        text = _read_in_time(host.path(path))
        if text is None:
            found.append(warning(f"{path} does not answer, so this check can't see the keys in it"))
        else:
            found += judge_elsewhere(path, text, ours)
    yield from found or [ok("root's own key files have no breakglass key")]


def _read_in_time(path: str) -> str | None:
    """Return a file's text, empty without such a file, None when it can't be read or does not answer."""

    def read() -> str | None:
        try:
            with open(path, encoding="utf-8", errors="replace", newline="") as file:  # sshd knows no end but \\n
                return file.read()
        except FileNotFoundError:
            return ""
        except OSError:
            return None

    answer = ask_or_none(read, FILE_SECONDS)
    return answer if isinstance(answer, str) else None


def _stat_path(host: Host, path: str) -> list[tuple[str, int, int]] | None:
    """Return (path, uid, mode) of a file and of each directory above it, up to the root; None without an answer."""
    answer = ask_or_none(partial(_stat_upwards, path, host.root or "/"), FILE_SECONDS)
    return [(name, uid, mode) for name, uid, mode in answer] if isinstance(answer, list) else None


def _stat_upwards(path: str, root: str) -> object:
    """Stat what a path leads to, and each link and directory on the way: a user who can change one can replace it."""
    found: dict[str, tuple[str, int, int]] = {}
    places = [os.path.realpath(path), path]
    while places:
        name = places.pop(0)
        while name not in found:
            found[name] = _stat_one(name)
            if found[name][1] >= 0 and os.path.islink(name):
                places.append(os.path.join(os.path.dirname(name), os.readlink(name)))
            if name in ("/", root, os.path.realpath(root)):
                break
            name = os.path.dirname(name)
    return list(found.values())


def _stat_one(name: str) -> tuple[str, int, int]:
    try:
        status = os.stat(name)
    except OSError:
        return name, -1, 0
    return name, status.st_uid, status.st_mode
