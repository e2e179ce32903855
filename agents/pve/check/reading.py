"""Reads for a check: the files of this installation, each with a deadline, and the chain of jobs of each VM."""

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial

from ..host.bounded import ask_or_none, run
from ..host.cluster import VmlistEntry, parse_vmlist
from ..host.paths import Host
from ..jobs.verify import describe_chain, read_chain
from .findings import Finding, error, judge_inodes, judge_room, ok, warning
from .sshd_settings import DROP_IN, parse_settings

# --- Reads what `check` judges: files, owners and modes, and the settings that sshd prints ---
#
# Every place that may hang is read in a forked child with a deadline.

SSHD_SECONDS = 5.0
FILE_SECONDS = 3.0
LOCAL = "127.0.0.1"
_ANYWHERE = ("forcecommand", "allowusers", "denyusers", "allowgroups")
RUN_ROOM = 16 * 1024 * 1024  # free space in /run, because the files of the last 20 jobs may need this much
ARCHIVE_ROOM = 64 * 1024 * 1024  # room for a few captures with their pictures


def read_in_time(path: str) -> str | None:
    """Return a file's text, empty if there is no such file, None if it can't be read or does not answer."""

    def read() -> str | None:
        try:
            with open(path, encoding="utf-8", errors="replace", newline="") as file:  # sshd ends a line only at \\n
                return file.read()
        except FileNotFoundError:
            return ""
        except OSError:
            return None

    answer = ask_or_none(read, FILE_SECONDS)
    return answer if isinstance(answer, str) else None


def read_vms(host: Host) -> dict[int, VmlistEntry]:
    """Return the VMs and containers of the cluster by number; empty if /etc/pve does not answer."""
    return parse_vmlist(read_in_time(host.path("/etc/pve/.vmlist")) or "")


def stat_path(host: Host, path: str) -> list[tuple[str, int, int]] | None:
    """Return (path, uid, mode) of a file and of each directory above it, up to the root; None without an answer."""
    answer = ask_or_none(partial(_stat_upwards, path, host.root or "/"), FILE_SECONDS)
    return [(name, uid, mode) for name, uid, mode in answer] if isinstance(answer, list) else None


def count_inodes(path: str) -> tuple[int, int, int] | None:
    """Return the free and all inodes of a directory's file system (0: no limit), and those that the directory uses."""
    answer = ask_or_none(partial(_count_inodes, path), FILE_SECONDS)
    return (answer[0], answer[1], answer[2]) if isinstance(answer, list) else None


def count_room(path: str) -> tuple[int, int] | None:
    """Return the bytes that a directory's file system has free, and has in all (0: no limit)."""
    answer = ask_or_none(partial(_count_room, path), FILE_SECONDS)
    return (answer[0], answer[1]) if isinstance(answer, list) else None


def _count_room(path: str) -> list[int]:
    status = os.statvfs(path)
    return [status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize]


def _count_inodes(path: str) -> list[int]:
    status = os.statvfs(path)
    return [status.f_favail, status.f_files, sum(len(dirs) + len(files) for _, dirs, files in os.walk(path))]


def _stat_upwards(path: str, root: str) -> object:
    """Stat what a path leads to, and each link and directory on the way.

    A user who can change one of them can replace the target.
    """
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


def read_logind_configs(host: Host) -> Iterator[str]:
    """Yield logind's configuration in the order in which it applies: the main file, then drop-ins by name."""
    places = [host.path(f"{place}/systemd") for place in ("/usr/lib", "/run", "/etc")]
    mains = [path for place in reversed(places) if os.path.exists(path := f"{place}/logind.conf")]
    drop_ins: dict[str, str] = {}
    for place in places:  # if two files have the same name, the one in /etc applies
        drop_ins |= {os.path.basename(path): path for path in glob.glob(f"{place}/logind.conf.d/*.conf")}
    for path in (*mains[:1], *(drop_ins[name] for name in sorted(drop_ins))):
        yield read_in_time(path) or ""


def read_sshd_configs(host: Host) -> tuple[str, list[str]]:
    """Return the text of our drop-in, and those of sshd's other configuration files in the usual places."""
    drop_in = host.path(DROP_IN)
    paths = [host.path("/etc/ssh/sshd_config"), *glob.glob(host.path("/etc/ssh/sshd_config.d/*.conf"))]
    return read_in_time(drop_in) or "", [read_in_time(path) or "" for path in paths if path != drop_in]


def read_sshd_settings(host: Host, user: str, address: str) -> dict[str, str] | None:
    """Return the settings for a login of this user from this address; None if sshd does not print them.

    The key `NAME@` has the place of a line before our drop-in that gives the setting its value. A setting that the
    drop-in does not have may be after it.
    """
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    config = ["-f", host.path("/etc/ssh/sshd_config")] if host.root else []
    login = f"user={user},host=check,addr={address},laddr={LOCAL},lport=22,rdomain="  # all that a Match line may test
    ran = run([sshd, "-T", *config, "-C", login], SSHD_SECONDS)
    if ran.code != 0:
        return None
    found, is_before = parse_settings(ran.stdout), True
    for path, number, name, value in _read_sshd_lines(host, "/etc/ssh/sshd_config", set()):
        is_before = is_before and path != DROP_IN
        is_its = found.get(name, "").lower().partition(":")[0] == value.lower().partition(":")[0]
        if is_its and path != DROP_IN and (is_before or name in _ANYWHERE):
            found.setdefault(f"{name}@", f"{path}, line {number}")
    return found


def _read_sshd_lines(host: Host, path: str, seen: set[str]) -> Iterator[tuple[str, int, str, str]]:
    """Yield (file, number, keyword, value) of each line, in sshd's order. Adds the files to `seen`."""
    seen.add(path)
    for number, line in enumerate((read_in_time(host.path(path)) or "").splitlines(), 1):
        name, _, value = line.strip().replace("=", " ", 1).partition(" ")
        if name.lower() != "include":
            yield path, number, name.lower(), value.strip().strip('"')
            continue
        for pattern in value.split():
            whole = os.path.join("/etc/ssh", pattern.strip('"'))
            files = [f"/{os.path.relpath(file, host.root or '/')}" for file in sorted(glob.glob(host.path(whole)))]
            for file in files:
                if file not in seen:
                    yield from _read_sshd_lines(host, file, seen)


def find_unread(host: Host) -> Finding | None:
    """Return a finding if sshd does not read our drop-in, because sshd_config does not include it."""
    seen: set[str] = set()
    list(_read_sshd_lines(host, "/etc/ssh/sshd_config", seen))
    if DROP_IN in seen or read_in_time(host.path(DROP_IN)) == "":
        return None
    sentence = f"sshd does not read {DROP_IN}, because /etc/ssh/sshd_config does not include it"
    hint = "write Include /etc/ssh/sshd_config.d/*.conf as its first line; sshd -t; systemctl reload ssh"
    return error(sentence, hint)


# --- Judges the directories of the record of jobs ---


def check_directories(host: Host) -> Iterator[Finding]:
    """Judge whether jobs can be recorded in /run, and archived."""
    for path, effect, finding, least in (
        (host.path("/run/breakglass"), "no job can be recorded, so no verb can run", error, RUN_ROOM),
        (host.path("/var/lib/breakglass"), "finished jobs are not archived", warning, ARCHIVE_ROOM),
    ):
        answer = ask_or_none(partial(_try_write, path), FILE_SECONDS)
        if answer is True:
            yield ok(f"{path} can be written")
            yield judge_room(path, least, count_room(path))
            yield judge_inodes(path, count_inodes(path))
        else:
            why = answer or f"no answer in {FILE_SECONDS:g} s"
            yield finding(f"{path} can't be written: {effect} ({why})", f"findmnt -T {path}; df {path}; df -i {path}")


def _try_write(directory: str) -> object:
    """Return True when a file can be created there, or the reason why not."""
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"breakglass-pve check\n")
    except OSError as failure:
        return str(failure)
    return True


# --- Verifies the chain of jobs of each VM that this host has a record of, in /run and in the archive ---

_CHAIN_HINT = (
    "someone may have edited the record of jobs; run breakglass docs admin on the handler's machine, "
    "and read The chain of jobs there"
)
_CHAIN_NAME = "chain-"


def check_chains(host: Host) -> Iterator[Finding]:
    """Judge each chain in /run and in the archive. A broken one stops no rescue, so it is a warning."""
    places = [host.path("/run/breakglass"), host.path("/var/lib/breakglass")]
    answers = [ask_or_none(partial(_find_chains, place), FILE_SECONDS) for place in places]
    for vmid, node in sorted({(int(vmid), str(node)) for found in answers for vmid, node in found or ()}):
        state = read_chain(Host(vmid, host.root), node, is_silent=answers[1] is None)
        what = f"VM {vmid}: {describe_chain(state)}"
        yield warning(what, _CHAIN_HINT) if state.broken else ok("; ".join([what, *state.notes]))


def _find_chains(place: str) -> list[tuple[str, str]]:
    """Return the VM and the node of each chain below a directory."""
    if not os.path.isdir(place):
        return []
    vms = [name for name in os.listdir(place) if name.isdigit()]
    files = [(vmid, name) for vmid in vms for name in os.listdir(f"{place}/{vmid}")]
    return [
        (vmid, name.removeprefix(_CHAIN_NAME))
        for vmid, name in files
        if name.startswith(_CHAIN_NAME) and "." not in name
    ]
