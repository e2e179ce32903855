"""`breakglass-pve check`: verifies that a rescue works on this host and that its keys allow nothing else.

`reading.py` reads the host, and the other modules judge it. It creates only the two directories that `serve` creates
too. Every place that may hang is read in a forked child with a deadline, because a check must end even on a broken
host.
"""

import os
import shutil
import sys
from collections.abc import Iterator

from ..host.bounded import run
from ..host.cluster import cluster_view, node_name
from ..host.paths import Host
from ..words import PACKAGED, PASTED
from .findings import (
    OK,
    Finding,
    error,
    find_account,
    judge_account,
    judge_bashrc,
    judge_file,
    judge_logind,
    judge_origin,
    judge_other_accounts,
    judge_qm,
    judge_shadow,
    ok,
)
from .key_files import check_keys, find_root_files
from .one_vm import judge_cluster
from .reading import (
    LOCAL,
    check_chains,
    check_directories,
    find_unread,
    read_in_time,
    read_logind_configs,
    read_sshd_configs,
    read_sshd_settings,
    read_vms,
    stat_path,
)
from .root_login import find_handler_addresses, judge_root_account, judge_root_files, judge_root_shadow, judge_root_sshd
from .sshd_settings import KEY_FILE, find_exempt, find_key_files, fix_there, judge_exemption, judge_sshd

QM_CHECK_SECONDS = 5.0  # as long as a verb waits for it
_NOWHERE = "0.0.0.0"  # noqa: S104  an address that no Match block of Breakglass has
_SSHD_FAILED = error("sshd -T failed, so sshd's settings are not known", "run sshd -t and systemctl status ssh")


def check(root: str, user: str | None, own_file: str, client: str = "") -> Iterator[Finding]:
    """Yield the findings about this host, the account that the keys log in to, and each VM that a key names.

    The default user is root if sshd's configuration has the block for root, and breakglass otherwise. `client` is the
    handler's address, if the handler asks.
    """
    host = Host(0, root)
    if _is_elsewhere(host):
        yield error(
            "this is no Proxmox host, because it has no qm and no /etc/pve", "run this check on the VM's Proxmox host"
        )
        return
    passwd = read_in_time(host.path("/etc/passwd")) or ""
    if os.geteuid() != 0 and not root:  # below --root, as in the demo, all files belong to this user
        judged = judge_account(user or "root", find_account(passwd, user or "root"))
        no_root = error("this check does not run as root, so it can't see anything", "run it as root")
        yield next((each for each in judged if "has uid" in each.sentence and each.level != OK), no_root)
        return
    yield judge_file(own_file, stat_path(host, own_file) or [(own_file, -1, 0)])
    if own_file in (PACKAGED, PASTED):
        yield judge_origin(own_file, all(map(os.path.exists, (PACKAGED, PASTED))))
    yield from check_host(host)
    addresses = find_handler_addresses(*read_sshd_configs(host))
    if user == "root" or (user is None and addresses is not None):
        yield from _check_root(host, passwd, addresses or [], own_file)
    else:
        yield from _check_account(host, user or "breakglass", passwd, own_file)
    if client:
        yield from judge_exemption(read_sshd_settings(host, "root", client) or {}, client)


def _is_elsewhere(host: Host) -> bool:
    """Tell whether this is another machine, on which the other findings' cures would do harm."""
    return shutil.which("qm") is None and (stat_path(host, host.path("/etc/pve")) or [("", 0, 0)])[0][1] < 0


def check_host(host: Host) -> Iterator[Finding]:
    """Judge what verbs need on the host (Python, root, qm, space for records, the cluster), and the chains."""
    view = cluster_view(host)
    yield from _check_program(host, view.answers)
    yield from check_directories(host)
    yield judge_cluster(view)
    yield from check_chains(host)


def _check_account(host: Host, user: str, passwd: str, own_file: str) -> Iterator[Finding]:
    """Judge Breakglass's own account, and the keys that sshd reads for it."""
    account = find_account(passwd, user)
    yield from judge_account(user, account, own_file)
    if account is None and own_file == PACKAGED:
        return  # the package makes the account with the first key, so nothing else is set up yet
    yield judge_logind(read_logind_configs(host))
    addresses = find_exempt(read_sshd_configs(host)[0]) or [LOCAL]
    of_root, *found = (read_sshd_settings(host, *who) for who in [("root", LOCAL), *((user, at) for at in addresses)])
    settings = found[0]
    if settings is None:
        yield _SSHD_FAILED
        return
    shadow = read_in_time(host.path("/etc/shadow")) or ""
    yield from judge_shadow(user, shadow, pam=settings.get("usepam") == "yes")
    judged = list(dict.fromkeys(each for its in found for each in judge_sshd(its or {}, user)))
    unread = find_unread(host)
    if unread and any(each.level != OK for each in judged):
        yield unread  # which explains the other findings
        return
    yield from judged
    files = find_key_files(settings, user, account.home if account else "/")
    if not files or "authorizedkeysfile@" in settings:
        hint = fix_there(settings, "AuthorizedKeysFile", "/etc/ssh/authorized_keys.d/%u")
        yield error(
            f"AuthorizedKeysFile is {settings.get('authorizedkeysfile', 'none')} for {user}, so keys are not seen", hint
        )
        return
    yield from check_keys(host, files, find_root_files(of_root or {}, passwd), own_file)


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
    elif unread := find_unread(host):
        yield unread
        return
    own = find_root_files(elsewhere, passwd)
    found: list[Finding] = []
    roots = dict.fromkeys(own)
    for address, of_root in settings.items():
        files = find_root_files(of_root or {}, passwd)
        found += [*judge_root_sshd(of_root or {}, address), *judge_root_files(files, own, address)]
        roots |= dict.fromkeys(files)
    yield from dict.fromkeys(found)  # the same fault may be found for several addresses
    yield from check_keys(host, [KEY_FILE], [path for path in roots if path != KEY_FILE], own_file)


def _check_program(host: Host, has_cluster: bool) -> Iterator[Finding]:
    yield ok(f"this is Python {sys.version.split()[0]}")  # which is new enough, or this file would not have started
    here = [vmid for vmid, its in read_vms(host).items() if its.node == node_name() and not its.is_container]
    if shutil.which("qm") is None:
        yield error("qm is not on PATH", f"apt install --reinstall qemu-server; PATH is {os.environ.get('PATH')}")
    elif has_cluster and here:  # qm reads /etc/pve first
        ran = run(["qm", "status", str(min(here))], QM_CHECK_SECONDS)
        yield judge_qm(min(here), ran.code, (ran.stderr or ran.stdout).strip(), QM_CHECK_SECONDS)
    else:
        yield ok(f"qm is {shutil.which('qm')}")
