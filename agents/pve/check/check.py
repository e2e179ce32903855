"""`breakglass-pve check`: verifies that a rescue works on this host and that its keys allow nothing else.

`reading.py` reads the host, and the other modules judge it. It creates only the two directories that `serve` creates
too. Every place that may hang is read in a forked child with a deadline, because a check must end even on a broken
host.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

from ..host.bounded import ask_or_none
from ..host.cluster import cluster_view, node_name, parse_vmlist
from ..host.paths import Host
from ..host.vm_config import current_options
from ..words import PACKAGED, PASTED
from .findings import (
    OK,
    Finding,
    error,
    find_account,
    judge_account,
    judge_file,
    judge_inodes,
    judge_logind,
    judge_origin,
    judge_python,
    judge_room,
    judge_shadow,
    ok,
    warning,
)
from .key_lines import (
    KeyLine,
    forced_program,
    judge_elsewhere,
    judge_key_lines,
    judge_kinds,
    judge_vms,
    parse_key_lines,
)
from .one_vm import judge_cluster
from .reading import (
    FILE_SECONDS,
    LOCAL,
    check_chains,
    count_inodes,
    count_room,
    read_in_time,
    read_logind_configs,
    read_sshd_configs,
    read_sshd_settings,
    stat_path,
)
from .root_login import (
    KEY_FILE,
    find_handler_addresses,
    find_key_files,
    judge_bashrc,
    judge_exemption,
    judge_other_accounts,
    judge_root_account,
    judge_root_files,
    judge_root_shadow,
    judge_root_sshd,
    judge_sshd,
)

RUN_ROOM = 16 * 1024 * 1024  # free space in /run, because the files of the last 20 jobs may need this much
ARCHIVE_ROOM = 64 * 1024 * 1024  # room for a few captures with their pictures

_ELSEWHERE = "set AuthorizedKeysFile /etc/ssh/authorized_keys.d/%u"
_PVE_KEYS = "/etc/pve/priv/authorized_keys"
_NOWHERE = "0.0.0.0"  # noqa: S104  an address that no Match block of Breakglass has
_SSHD_FAILED = error("sshd -T failed, so sshd's settings are not known", "run sshd -t and systemctl status ssh")


def check(root: str, user: str | None, own_file: str, client: str = "") -> Iterator[Finding]:
    """Yield the findings about this host, the account that the keys log in to, and each VM that a key names.

    The default user is root if sshd's configuration has the block for root, and breakglass otherwise. `client` is the
    handler's address, if the handler asks.
    """
    host = Host(0, root)
    yield judge_file(own_file, stat_path(host, own_file) or [(own_file, -1, 0)])
    if own_file in (PACKAGED, PASTED):
        yield judge_origin(own_file, all(map(os.path.exists, (PACKAGED, PASTED))))
    yield from check_host(host)
    passwd = read_in_time(host.path("/etc/passwd")) or ""
    addresses = find_handler_addresses(*read_sshd_configs(host))
    if user == "root" or (user is None and addresses is not None):
        yield from _check_root(host, passwd, addresses or [], own_file)
    else:
        yield from _check_account(host, user or "breakglass", passwd, own_file)
    if client:
        yield from judge_exemption(read_sshd_settings(host, "root", client) or {}, client)


def check_host(host: Host) -> Iterator[Finding]:
    """Judge what verbs need on the host (Python, root, qm, space for records, the cluster), and the chains."""
    yield from _check_program(host)
    yield from _check_directories(host)
    yield judge_cluster(cluster_view(host))
    yield from check_chains(host)


def _check_account(host: Host, user: str, passwd: str, own_file: str) -> Iterator[Finding]:
    """Judge Breakglass's own account, and the keys that sshd reads for it."""
    account = find_account(passwd, user)
    yield from judge_account(user, account)
    yield judge_logind(read_logind_configs(host))
    settings, of_root = (read_sshd_settings(host, name, LOCAL) for name in (user, "root"))
    if settings is None:
        yield _SSHD_FAILED
        return
    shadow = read_in_time(host.path("/etc/shadow")) or ""
    yield from judge_shadow(user, shadow, pam=settings.get("usepam") == "yes")
    yield from judge_sshd(settings, user)
    files = find_key_files(settings, user, account.home if account else "/")
    if not files:
        yield error(
            f"sshd has no AuthorizedKeysFile for {user}",
            "include /etc/ssh/sshd_config.d/*.conf in /etc/ssh/sshd_config",
        )
    yield from _check_keys(host, files, _find_root_files(of_root or {}, passwd), own_file)


def _check_root(host: Host, passwd: str, addresses: list[str], own_file: str) -> Iterator[Finding]:
    """Judge root's own account, and the keys that sshd reads for it from the handler's addresses."""
    account = find_account(passwd, "root")
    yield judge_root_account(account)
    if account and account.shell.endswith("/bash"):
        path = f"{account.home.rstrip('/')}/.bashrc"
        yield judge_bashrc(path, read_in_time(host.path(path)))
    yield from judge_other_accounts(passwd)
    yield judge_logind(read_logind_configs(host))
    elsewhere = read_sshd_settings(host, "root", _NOWHERE)
    settings = {address: read_sshd_settings(host, "root", address) for address in addresses}
    if elsewhere is None or None in settings.values():
        yield _SSHD_FAILED
        return
    shadow = read_in_time(host.path("/etc/shadow")) or ""
    yield judge_root_shadow(shadow, pam=elsewhere.get("usepam") == "yes")
    if not addresses:
        yield error(
            "sshd's configuration has no Match block for root and the handler's address",
            "run the commands that `breakglass host install-commands --account root` prints",
        )
    own = _find_root_files(elsewhere, passwd)
    found: list[Finding] = []
    roots = dict.fromkeys(own)
    for address, of_root in settings.items():
        files = _find_root_files(of_root or {}, passwd)
        found += [*judge_root_sshd(of_root or {}, address), *judge_root_files(files, own, address)]
        roots |= dict.fromkeys(files)
    yield from dict.fromkeys(found)  # the same fault may be found for several addresses
    yield from _check_keys(host, [KEY_FILE], [path for path in roots if path != KEY_FILE], own_file)


def _check_program(host: Host) -> Iterator[Finding]:
    yield judge_python(tuple(sys.version_info[:3]))
    if os.geteuid() != 0 and not host.root:  # below --root, as in the demo, all files belong to this user
        yield error("this check does not run as root, so it can't see everything", "run it as root")
    if shutil.which("qm") is None:
        hint = "run this check on the Proxmox host; if this is the host: apt install --reinstall qemu-server; PATH is"
        yield error("qm is not on PATH", f"{hint} {os.environ.get('PATH')}")
    else:
        yield ok(f"qm is {shutil.which('qm')}")


def _check_directories(host: Host) -> Iterator[Finding]:
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


def _check_vms(root: str, lines: Iterable[KeyLine]) -> Iterator[Finding]:
    """Judge the VMs that the key lines name, by what the cluster has."""
    entries = read_in_time(f"{root}/etc/pve/.vmlist")
    if not entries:
        yield warning(
            "/etc/pve does not answer, so reset and stop work, but start and cycle do not",
            "systemctl status pve-cluster",
        )
        return

    def name_of(vmid: int) -> str | None:
        return current_options(read_in_time(f"{root}/etc/pve/qemu-server/{vmid}.conf") or "").get("name")

    yield from judge_vms(lines, parse_vmlist(entries), node_name(), name_of)


def _check_keys(host: Host, paths: Sequence[str], roots: Sequence[str], own_file: str) -> Iterator[Finding]:
    """Judge the keys in our files, and look for the same keys in root's own files."""
    lines: list[KeyLine] = []
    for path in paths:
        if path in (*roots, _PVE_KEYS):
            yield error(f"{path} is root's own key file", _ELSEWHERE)
            continue
        found = parse_key_lines(read_in_time(host.path(path)) or "", path)
        yield _judge_place(host, path)
        yield from judge_key_lines(path, found)
        lines += found
    yield from judge_kinds(lines)
    yield from _check_programs(host, lines, own_file)
    yield from _check_vms(host.root, lines)
    elsewhere = [path for path in (*roots, _PVE_KEYS) if path not in paths]
    yield from _check_elsewhere(host, elsewhere, {line.key for line in lines})


def _check_programs(host: Host, lines: Iterable[KeyLine], own_file: str) -> Iterator[Finding]:
    """Judge the programs that the key lines run as root, except this check's own file, which is judged already."""
    first: dict[str, KeyLine] = {}
    for line in lines:
        first.setdefault(forced_program(line) or "", line)
    for program, line in first.items():
        path = host.path(program)
        if not program or path == own_file:
            continue
        stats = stat_path(host, path) or [(program, -1, 0)]
        found = judge_file(program, stats)
        yield found
        if found.level == OK and stats[0][0] != os.path.realpath(own_file):
            yield warning(f"{line.where} runs {program}, and this check belongs to {own_file}", f"run {program} check")


def _judge_place(host: Host, path: str) -> Finding:
    """Judge the real place of a key file and who may change it there. A link may lead to a file system that hangs."""
    stats = stat_path(host, host.path(path))
    if stats is None or stats[0][0].startswith(host.path("/etc/pve/")):
        return error(f"{path} is below /etc/pve, which is gone when the cluster file system is down", _ELSEWHERE)
    return judge_file(path, stats)


def _find_root_files(settings: Mapping[str, str], passwd: str) -> list[str]:
    """Return the paths of root's own key files: those that sshd uses."""
    root = find_account(passwd, "root")
    return find_key_files(settings, "root", root.home if root else "/root")


def _check_elsewhere(host: Host, paths: Iterable[str], ours: set[str]) -> Iterator[Finding]:
    found: list[Finding] = []
    for path in paths:
        text = read_in_time(host.path(path))
        if text is None:
            found.append(warning(f"{path} does not answer, so this check can't see the keys in it"))
        else:
            found += judge_elsewhere(path, text, ours)
    yield from found or [ok("root's own key files have no breakglass key")]
