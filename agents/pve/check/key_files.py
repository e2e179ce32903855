"""Reads the key files of an account, and judges their lines: the programs, the VMs, and the same keys elsewhere."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..host.cluster import cluster_view, node_name
from ..host.paths import Host
from ..host.vm_config import current_options
from .findings import OK, Finding, error, find_account, judge_file, ok, warning
from .key_lines import (
    KeyLine,
    forced_program,
    judge_elsewhere,
    judge_key_lines,
    judge_kinds,
    judge_vms,
    parse_key_lines,
)
from .reading import read_in_time, read_vms, stat_path
from .sshd_settings import find_key_files

_ELSEWHERE = "set AuthorizedKeysFile /etc/ssh/authorized_keys.d/%u"
_PVE_KEYS = "/etc/pve/priv/authorized_keys"


def check_keys(host: Host, paths: Sequence[str], roots: Sequence[str], own_file: str) -> Iterator[Finding]:
    """Judge the keys in our files, and look for the same keys in root's own files."""
    lines: list[KeyLine] = []
    for path in paths:
        if path in (*roots, _PVE_KEYS):
            yield error(f"{path} is root's own key file", _ELSEWHERE)
            continue
        found = parse_key_lines(read_in_time(host.path(path)) or "", path)
        yield (place := _judge_place(host, path))
        yield from judge_key_lines(path, found) if found or place.level == OK else ()
        lines += found
    yield from judge_kinds(lines) if lines else ()
    yield from _check_programs(host, lines, own_file)
    yield from _check_vms(host, lines)
    elsewhere = [path for path in (*roots, _PVE_KEYS) if path not in paths]
    yield from _check_elsewhere(host, elsewhere, {line.key for line in lines})


def find_root_files(settings: Mapping[str, str], passwd: str) -> list[str]:
    """Return the paths of root's own key files: those that sshd uses."""
    root = find_account(passwd, "root")
    return find_key_files(settings, "root", root.home if root else "/root")


def _check_vms(host: Host, lines: Iterable[KeyLine]) -> Iterator[Finding]:
    """Judge the VMs that the key lines name, by what the cluster has."""

    def name_of(vmid: int) -> str | None:
        return current_options(read_in_time(host.path(f"/etc/pve/qemu-server/{vmid}.conf")) or "").get("name")

    if entries := read_vms(host):
        yield from judge_vms(lines, entries, node_name(), name_of)
    elif cluster_view(host).answers:  # otherwise, judge_cluster has said why
        yield warning("/etc/pve has no list of VMs, so start and cycle do not work", "systemctl status pve-cluster")


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


def _check_elsewhere(host: Host, paths: Iterable[str], ours: set[str]) -> Iterator[Finding]:
    found: list[Finding] = []
    for path in paths:
        text = read_in_time(host.path(path))
        if text is None:
            found.append(warning(f"{path} does not answer, so this check can't see the keys in it"))
        else:
            found += judge_elsewhere(path, text, ours)
    yield from found or [ok("root's own key files have no breakglass key")]
