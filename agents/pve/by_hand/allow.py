"""`breakglass-pve allow`: lets the keys of this host reach one more VM, or adds a key.

It edits Breakglass's own key file and sshd's drop-in, and makes the account with its first key. The account has uid 0,
so nothing but what the command names may change, and every other byte of the two files stays. The recipe of
`breakglass host install-commands`, the package's scripts and this command lock the directory of the key file, so that
none overwrites an edit of another.
"""

import argparse
import ipaddress
import os
import re
import subprocess
from collections.abc import Iterator

from ..check.findings import OK, Finding, error, ok
from ..check.key_lines import KeyLine, forbid_last_words, parse_key_lines, replace_vms, served_vms
from ..check.reading import LOCAL, read_in_time, read_sshd_settings
from ..check.sshd_settings import DROP_IN
from ..host.cluster import node_name, parse_vmlist
from ..host.paths import Host
from ..vm_list import LIST_CHARS, VmList, list_of
from .account import make_account
from .key_file import Edit, edit_file, key_file_of, lock_directory, read_key

RELOAD_SECONDS = 30.0

_NO_LINE = "no line of the key file runs breakglass-pve serve --vms; nothing was changed"
_RECIPE = "run the commands that `breakglass host install-commands` prints"
_ADD_KEY = f"name the handler's key with --key, or {_RECIPE}"


def allow(settings: argparse.Namespace, own_file: str) -> Iterator[Finding]:
    """Make the changes that the command line names; yield what was changed. `own_file` is what a new key runs."""
    root, vmid, user = settings.root, settings.vm, settings.user
    path = key_file_of(root, user)
    try:
        edits = list(_edits(settings, own_file.removeprefix(root)))
        source = settings.source and _read_source(settings.source)
    except ValueError as problem:
        yield error(f"{problem}; nothing was changed", "breakglass-pve allow --help")
        return
    if not edits:
        yield error("no VM is named, so nothing was changed", "name one, like breakglass-pve allow 103")
        return
    if "/" in user:
        yield error(
            f'"{user}" is not the name of an account; nothing was changed', "name the account that the keys log in to"
        )
        return
    if os.path.islink(path):
        yield error(f"{path} is a link; nothing was changed", "put a file in its place")
        return
    if vmid is not None and _is_container(root, vmid):
        yield error(f"{vmid} is a container, and a key serves VMs only; nothing was changed", "use pct for it")
        return
    try:
        with lock_directory(os.path.dirname(path)):  # after /etc/pve, where a child can hang and keep the lock
            findings = [finding for edit in edits for finding in edit_file(path, edit)]
            is_added = bool(settings.key) and all(found.level == OK for found in findings)
            if is_added and user != "root" and not root:
                findings += filter(None, [make_account(user)])
    except OSError as failure:
        findings, is_added = [error(f"{path} can't be read: {failure}; nothing was changed", _RECIPE)], False
    yield from findings
    if is_added:
        yield from _exempt(root, source) if source else ()
        yield from () if root else _reload_sshd()  # below another root, sshd's settings belong to another system
        yield from _tell_handler(root)


def _edits(settings: argparse.Namespace, own_file: str) -> Iterator[Edit]:
    """Yield the changes of the key file; raise ValueError for a text that is not a key."""
    if settings.key is not None:
        words = read_key(settings.key)
        if settings.vm is None or not words:
            raise ValueError("--key needs a VM and a public key in one line, like 'ssh-ed25519 AAAA…'")
        yield lambda text: add_key(text, settings.vm, words, own_file)
    elif settings.source is not None:
        raise ValueError("--from needs --key")
    if settings.no_last_words:
        yield add_no_last_words
    if settings.vm is not None and settings.key is None:
        yield lambda text: add_vm(text, settings.vm)


def _read_source(source: str) -> str:
    """Return an address or a network as sshd reads it; raise ValueError for any other text."""
    if "%" in source:  # after %, ipaddress accepts any text as the scope
        raise ValueError(f"--from: {source!r} does not appear to be an address or a network")
    network = ipaddress.ip_network(source, strict=False)
    return str(network) if "/" in source else str(network.network_address)


def add_vm(text: str, vmid: int) -> tuple[str, list[Finding]]:
    """Return the text of a key file with one more VM in each line of Breakglass, and a finding for each such line.

    If the lines have different lists of VMs, the keys belong to different people, so no line is changed.
    """
    raw, findings = text.split("\n"), []
    ours = [(line, served) for line in parse_key_lines(text) if (served := served_vms(line))]
    lists = {str(served.with_vm(vmid)) for _, served in ours if not served.is_every}
    if len(lists) > 1:
        shown = "; ".join(f"line {line.number}: {served}" for line, served in ours)
        return text, [error(f"the lines serve different VMs, so none was changed ({shown})", f"add {vmid} by hand")]
    if any(len(vms) > LIST_CHARS for vms in lists):
        message = f"the list of VMs would be longer than {LIST_CHARS} characters, so nothing was changed"
        return text, [error(message, "write ranges, or --vms all, by hand")]
    for line, served in ours:
        findings += _serve_more(raw, line, served, vmid)[1]
    return "\n".join(raw), findings or [error(_NO_LINE, _ADD_KEY)]


def add_key(text: str, vmid: int, key: str, own_file: str) -> tuple[str, list[Finding]]:
    """Return the text of a key file in which this key serves the VM, by its own line or by a new one."""
    raw = text.split("\n")
    for line in parse_key_lines(text):
        served = served_vms(line)
        if line.key == key and served is None:
            sentence = f"line {line.number} has this key for something else, so nothing was changed"
            return text, [error(sentence, "make a key pair for Breakglass alone")]
        if line.key == key and served is not None:
            return _serve_more(raw, line, served, vmid)
    new = f'restrict,command="{own_file} serve --vms {list_of([vmid])}" {key} breakglass power\n'
    if not [line for line in parse_key_lines(new) if served_vms(line)]:
        return text, [error(f"a key line can't run {own_file}; nothing was changed", "install the host agent first")]
    whole = text if text.endswith("\n") or not text else f"{text}\n"
    return whole + new, [ok(f"the new line {whole.count(chr(10)) + 1} serves VM {vmid}")]


def _serve_more(raw: list[str], line: KeyLine, served: VmList, vmid: int) -> tuple[str, list[Finding]]:
    """Return the text in which one line of Breakglass serves one more VM."""
    if vmid in served:
        return "\n".join(raw), [ok(f"line {line.number} serves VM {vmid} already: {served}")]
    more = served.with_vm(vmid)
    raw[line.number - 1] = replace_vms(raw[line.number - 1], line, more)
    return "\n".join(raw), [ok(f"line {line.number} serves VM {more} now")]


def add_no_last_words(text: str) -> tuple[str, list[Finding]]:
    """Return a key file's text with no line that allows reading kernel logs, and a finding for each Breakglass line."""
    raw, findings = text.split("\n"), []
    for line in filter(served_vms, parse_key_lines(text)):
        before, raw[line.number - 1] = raw[line.number - 1], forbid_last_words(raw[line.number - 1], line)
        now = "already" if raw[line.number - 1] == before else "now"
        findings.append(ok(f"line {line.number} forbids reading any guest's kernel log {now}"))
    return "\n".join(raw), findings or [error(_NO_LINE, _ADD_KEY)]


def _is_container(root: str, vmid: int) -> bool:
    """Tell whether the cluster has a container with this number; return False if /etc/pve does not answer."""
    entry = parse_vmlist(read_in_time(f"{root}/etc/pve/.vmlist") or "").get(vmid)
    return entry is not None and entry.is_container


# --- sshd's drop-in: the handler's address ---


def _exempt(root: str, source: str) -> Iterator[Finding]:
    """Write the handler's address into sshd's drop-in as the recipe does."""
    settings = read_sshd_settings(Host(0, root), "root", LOCAL) or {}
    try:
        with lock_directory(f"{root}{os.path.dirname(DROP_IN)}"):
            findings = edit_file(
                f"{root}{DROP_IN}", lambda text: add_source(text, source, "persourcepenalties" in settings)
            )
    except OSError as failure:
        yield error(f"{DROP_IN} can't be read: {failure}; the key was added", "install the package, or run the recipe")
        return
    yield from findings


def _reload_sshd() -> Iterator[Finding]:
    """Let sshd read its settings for the address and the account."""
    try:
        subprocess.run(["systemctl", "try-reload-or-restart", "ssh"], check=True, timeout=RELOAD_SECONDS)
    except (OSError, subprocess.SubprocessError) as failure:
        yield error(f"sshd was not reloaded: {failure}", "sshd -t; systemctl reload ssh")


def add_source(text: str, source: str, has_penalties: bool) -> tuple[str, list[Finding]]:
    """Return the drop-in with one more address that sshd never penalises, and from which root's account is reached.

    OpenSSH before 9.8 has no penalties, so the line stays a comment there. A line that is in force stays in force.
    """

    def add(found: re.Match[str]) -> str:
        known = [word for word in found[2].split(",") if word not in ("ADDRESS", source)]
        sign = "# " if found[1].startswith("# Per") and not has_penalties else ""
        return f"{sign}{found[1].lstrip('# ')}{','.join([*known, source])}"

    lines = re.compile(r"^((?:# )?PerSourcePenaltyExemptList |Match User root Address )(\S+)$", re.MULTILINE)
    if not lines.search(text):
        return text, [
            error(f"{DROP_IN} has no line for the handler's address", "install the package, or run the recipe")
        ]
    return lines.sub(add, text), [ok(f"sshd's drop-in names the handler's address {source}")]


def _tell_handler(root: str) -> Iterator[Finding]:
    """Yield what breakglass.toml needs from this host."""
    key = " ".join((read_in_time(f"{root}/etc/ssh/ssh_host_ed25519_key.pub") or "").split()[:2])
    yield ok(f'for the handler\'s breakglass.toml: node = "{node_name()}", host_key = "{key}"')
