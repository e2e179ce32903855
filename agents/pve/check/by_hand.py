"""`check` for a person on the host and as a verb, and `allow`, which adds a VM to the key lines."""

import argparse
import fcntl
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict

from ..host.cluster import parse_vmlist
from ..host.paths import Key
from ..jobs.result import Result
from ..jobs.store import JobStore
from ..vm_list import LIST_CHARS, parse_vm_list
from ..words import DEADLINES, DONE
from .check import check, check_host
from .findings import ERROR, Finding, error, ok, printable
from .heartbeats import list_heartbeats
from .key_lines import forbid_last_words, parse_key_lines, replace_vms, served_vms
from .one_vm import check_vm
from .reading import read_in_time
from .root_login import KEY_FILE

# --- `breakglass-pve allow`: lets the keys of this host reach one more VM. It edits Breakglass's own key file only.
#
# The account has uid 0, so nothing but the VM's number may change. This command therefore keeps every other byte of
# the file. The recipe of `breakglass host install-commands` and this command both lock the directory, so that neither
# overwrites an edit of the other.

_NO_LINE = "no line of the key file runs breakglass-pve serve --vms; nothing was changed"
_RECIPE = "run the commands that `breakglass host install-commands` prints"


def allow(root: str, user: str, vmid: int | None, no_last_words: bool = False) -> Iterator[Finding]:
    """Add a VM or a switch to each line of Breakglass in the account's key file; yield what was changed."""
    path = f"{root}{KEY_FILE}" if user == "root" else f"{root}/etc/ssh/authorized_keys.d/{user}"
    if vmid is None and not no_last_words:
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
        with _lock_directory(os.path.dirname(path)):  # after /etc/pve, because a child that hangs there would keep it
            findings = _edit(path, add_no_last_words) if no_last_words else []
            findings += _edit(path, lambda text: add_vm(text, vmid)) if vmid is not None else []
    except OSError as failure:
        findings = [error(f"{path} can't be read: {failure}; nothing was changed", _RECIPE)]
    yield from findings


@contextmanager
def _lock_directory(path: str) -> Iterator[None]:
    """Lock a directory of key files after any other edit. An edit replaces a file, so the file can't be locked."""
    directory = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _edit(path: str, change: Callable[[str], tuple[str, list[Finding]]]) -> list[Finding]:
    """Change the text of a key file; return what was done. Raises OSError for a file that can't be read."""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        text, status = file.read(), os.fstat(file.fileno())
    more, findings = change(text)
    if more != text:
        try:
            _replace(path, more, status)
        except OSError as failure:
            return [error(f"{path} can't be written, so it was not changed: {failure}", "fix that, and run this again")]
    return findings


def add_vm(text: str, vmid: int) -> tuple[str, list[Finding]]:
    """Return the text of a key file with one more VM in each line of Breakglass, and a finding for each such line.

    If the lines have different lists, they belong to different people, and none of them is changed.
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
        if vmid in served:
            findings.append(ok(f"line {line.number} serves VM {vmid} already: {served}"))
            continue
        more = served.with_vm(vmid)
        raw[line.number - 1] = replace_vms(raw[line.number - 1], line, more)
        findings.append(ok(f"line {line.number} serves VM {more} now"))
    return "\n".join(raw), findings or [error(_NO_LINE, _RECIPE)]


def add_no_last_words(text: str) -> tuple[str, list[Finding]]:
    """Return a key file's text with no line that allows reading kernel logs, and a finding for each Breakglass line."""
    raw, findings = text.split("\n"), []
    for line in filter(served_vms, parse_key_lines(text)):
        before, raw[line.number - 1] = raw[line.number - 1], forbid_last_words(raw[line.number - 1], line)
        now = "already" if raw[line.number - 1] == before else "now"
        findings.append(ok(f"line {line.number} forbids reading any guest's kernel log {now}"))
    return "\n".join(raw), findings or [error(_NO_LINE, _RECIPE)]


def _is_container(root: str, vmid: int) -> bool:
    """Tell whether the cluster has a container of this number; and False if /etc/pve does not answer."""
    entry = parse_vmlist(read_in_time(f"{root}/etc/pve/.vmlist") or "").get(vmid)
    return entry is not None and entry.is_container


def _replace(path: str, text: str, status: os.stat_result) -> None:
    """Replace a file by one with the same owner and mode, and write it through to the disk before it gets the name."""
    draft = f"{path}.{os.getpid()}"
    try:
        with open(draft, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            os.fchown(file.fileno(), status.st_uid, status.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode))
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError:
        with suppress(OSError):
            os.unlink(draft)
        raise


# --- The commands for a person at the host: `check` verifies the installation, `allow` adds a VM to the key lines.


def add_by_hand(add_parser: Callable[..., argparse.ArgumentParser], serve: argparse.ArgumentParser) -> None:
    """Add these commands to the command line's parser, and the options that `serve` shares with them."""
    checking = add_parser("check", help="verify the installation; run as root on the host")
    allowing = add_parser("allow", help="let this host's keys reach one more VM, or no kernel logs; run as root")
    beating = add_parser("heartbeat", help="tell which guests on this host answer, and which don't")
    which = beating.add_mutually_exclusive_group()
    which.add_argument("--vm", type=_vm_number, metavar="VM", help="one VM's number")
    which.add_argument("--all", action="store_true", help="every VM that runs here (the default)")
    allowing.add_argument("vm", type=_vm_number, metavar="VM", nargs="?", help="the VM's number")
    checking.add_argument("--user", help="the account that the keys log in to (default: the one of sshd's settings)")
    allowing.add_argument("--user", default="breakglass", help="the account that the keys log in to")
    for parser in (serve, allowing):
        parser.add_argument("--no-last-words", action="store_true", help="never read a guest's kernel log")
    for parser in (serve, checking, allowing, beating):
        parser.add_argument(
            "--root", default="", type=lambda text: text.rstrip("/"), help="a prefix for every host path, for tests"
        )


def run_by_hand(settings: argparse.Namespace, root: str, own_file: str) -> int:
    """Run one of them and print a line for each finding, or each VM; return 1 for an error, or a lost heartbeat."""
    errors = 0
    if settings.command == "heartbeat":
        for line, is_lost in list_heartbeats(root, settings.vm):
            print(line, flush=True)
            errors += is_lost
        return 1 if errors else 0
    if settings.command == "check":
        findings = check(root, settings.user, own_file)
    else:
        findings = allow(root, settings.user, settings.vm, settings.no_last_words)
    for finding in findings:
        print(printable(str(finding)), flush=True)
        errors += finding.level == ERROR
    return 1 if errors else 0


def _vm_number(text: str) -> int:
    try:
        number = parse_vm_list(text).only
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if number is None:
        raise argparse.ArgumentTypeError("name one VM, like 103")
    return number


# --- The answer to the verb `check`: the findings about the host, or about one VM on it ---

SPARE_SECONDS = 6.0  # kept free before the deadline, because the last check may take this long


def answer_check(key: Key, vm: int | None) -> tuple[str, Result]:
    """Return the findings as lines, as `breakglass-pve check` prints them, and as a field of the result."""
    findings = map(asdict, _findings_in_time(key, vm))
    found = [{name: printable(text) for name, text in finding.items()} for finding in findings]
    last = JobStore(key.host(vm)).last if vm else None
    result = Result(DONE, last=last, stage="check", extra={"findings": found})
    return "\n".join(str(Finding(**finding)) for finding in found), result


def _findings_in_time(key: Key, vm: int | None) -> Iterator[Finding]:
    """Yield the findings until the time is nearly over, so that a host with many hanging parts still gets an answer."""
    until = time.monotonic() + DEADLINES["check"] - SPARE_SECONDS
    for finding in check_vm(key.host(vm)) if vm else _check_host(key):
        yield finding
        if time.monotonic() > until:
            sentence = "not everything was checked, because the host answers too slowly"
            yield error(sentence, "fix what does not answer, then run breakglass-pve check on the host")
            return


def _check_host(key: Key) -> Iterator[Finding]:
    """Check the host and the account that the key logged in to, which sshd names.

    Below --root, as in the demo, there are no accounts, and sshd's settings belong to another system.
    """
    if key.root:
        return check_host(key.host(0))
    return check("", os.environ.get("LOGNAME"), os.path.abspath(sys.argv[0]))
