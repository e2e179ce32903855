"""Judges authorized_keys files from their text, line by line as sshd(8) reads them. Pure.

The account has uid 0, so a line that forces any other command than the host agent is a root login. This module must see
every line that sshd takes for a key: only a line feed ends a line, only blanks and tabs separate, and a backslash in a
quoted value escapes a quote and nothing else.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from ..host.cluster import VmlistEntry
from ..vm_list import VmList, parse_vm_list
from .findings import Finding, error, ok, vm_and_name, warning


@dataclass(frozen=True)
class KeyLine:
    """One line of an authorized_keys file: its options in order, and the key itself (type and base64).

    Attributes:
        path: the file.
        is_refused: sshd can't read the options, so the key opens nothing.
        command_at: the position in the line where the value of the first command= begins, if there is one.
    """

    number: int
    options: tuple[tuple[str, str], ...]
    key: str
    is_refused: bool = False
    command_at: int = field(default=-1, compare=False)
    path: str = field(default="", compare=False, kw_only=True)

    @property
    def where(self) -> str:
        """The file and the number of the line in it."""
        return f"{self.path}:{self.number}"

    @property
    def names(self) -> set[str]:
        """The names of the options, in lower case."""
        return {name for name, _ in self.options}

    @property
    def command(self) -> str | None:
        """The forced command; None if the line has none."""
        return next((value for name, value in self.options if name == "command"), None)


_KEY_TYPE = re.compile(r"(?:ssh|ecdsa|sk|rsa|webauthn)-[A-Za-z0-9@.-]+")
_IN_QUOTES = r'(?:[^"\\]|\\"|\\(?!"))*'
_OPTIONS = re.compile(rf'(?:[^ \t"\\]|\\"|\\(?!")|"{_IN_QUOTES}")*')
_OPTION = re.compile(rf'([A-Za-z0-9-]+)(?:="({_IN_QUOTES})")?(?:,+|\Z)')


def parse_key_lines(text: str, path: str = "") -> list[KeyLine]:
    """Return the lines of an authorized_keys file that sshd(8) takes for a key."""
    numbered = enumerate(text.split("\n"), 1)
    found = (_parse_key_line(number, raw.partition("\0")[0]) for number, raw in numbered)
    return [replace(line, path=path) for line in found if line]


def _parse_key_line(number: int, raw: str) -> KeyLine | None:
    begin = end = len(raw) - len(raw.lstrip(" \t"))
    if not _KEY_TYPE.fullmatch(re.split("[ \t]", raw[begin:])[0]):
        match = _OPTIONS.match(raw, begin)
        end = match.end() if match else begin
    words = re.split("[ \t]+", raw[end:].strip(" \t\r"))
    if raw.startswith("#", begin) or len(words) < 2 or not _KEY_TYPE.fullmatch(words[0]):
        return None
    found, is_read = _parse_options(raw, begin, end)
    commands = [at for name, _, at in found if name == "command"]
    options = tuple((name, value.replace('\\"', '"')) for name, value, _ in found)
    key = f"{words[0]} {''.join(words[1].split())}"
    return KeyLine(number, options, key, not is_read or len(commands) > 1, *commands[:1])


def _parse_options(raw: str, begin: int, end: int) -> tuple[list[tuple[str, str, int]], bool]:
    """Return each option of a line with its value and where that begins, and whether sshd can read them all."""
    found: list[tuple[str, str, int]] = []
    begin = end - len(raw[begin:end].lstrip(","))
    while begin < end:
        match = _OPTION.match(raw, begin, end)
        if match is None:
            return found, False
        found.append((match[1].lower(), match[2] or "", match.start(2)))
        begin = match.end()
    return found, True


_UNDO_RESTRICT = {"pty", "port-forwarding", "agent-forwarding", "x11-forwarding", "user-rc"}
_SERVE = re.compile(  # a shell runs this command, so nothing may follow the match
    r"(?P<program>/[A-Za-z0-9._/-]*breakglass-pve) serve --vms "
    r"(?P<vms>[0-9,-]+|all)(?P<rest>(?: --read-only| --no-last-words| --as [A-Za-z0-9@._-]{1,64})*)"
)


def judge_key_lines(path: str, lines: list[KeyLine]) -> Iterator[Finding]:
    """Judge the account's key file. A line that is not exactly the host agent's is an error."""
    findings = [found for line in lines for found in _judge_key_line(line.where, line)]
    findings += _judge_repeated(lines)
    if not lines:
        findings = [error(f"{path} has no key in it", "add a line for each key")]
    yield from findings or [ok(f"{path}: every key has restrict and its own command=")]


def judge_kinds(lines: Iterable[KeyLine]) -> Iterator[Finding]:
    """Say of what kind each key is; warn where no power key is installed, and where a key reaches every VM."""
    ours = [line for line in lines if served_vms(line)]
    if all(_is_read_only(line) for line in ours):
        yield warning("there is no power key", "add its line to the key file")
    for line in ours:
        yield ok(f"{line.where}: a {'read-only' if _is_read_only(line) else 'power'} key for VM {served_vms(line)}")
    for line in ours:
        if (served := served_vms(line)) and served.is_every:
            yield warning(
                f"{line.where}: the key reaches every VM of this host, also each later one",
                "name the VMs, like --vms 102,110-119",
            )


RESERVATION = 20  # a range of more numbers reserves them for later VMs; a shorter range is often a merged list of VMs
MOST_NAMED = 5


def judge_vms(
    lines: Iterable[KeyLine], entries: Mapping[int, VmlistEntry], node: str, name_of: Callable[[int], str | None]
) -> Iterator[Finding]:
    """Judge each VM that a line names, by what the cluster has: is there one, and is it a VM?

    `name_of` returns the name of a VM on this node, or None if it has none.

    A single number must belong to a VM. In a range, only existing VMs are judged, and the other numbers are named once.
    """
    lists = [served for line in lines if (served := served_vms(line)) and not served.is_every]
    ranges = sorted({each for served in lists for each in served.ranges})
    named = {first for first, last in ranges if first == last}
    for vmid in sorted(named.union(vmid for vmid in entries if any(vmid in served for served in lists))):
        entry = entries.get(vmid)
        if entry is None:
            yield error(f"no node has VM {vmid}", "correct the number in the key line, or take it out")
        elif entry.is_container:
            sentence = f"{vmid} is a container, and a key serves VMs only"
            yield error(sentence, f"use pct, and take {vmid} out of the key line")
        elif entry.node != node:
            yield ok(
                f"VM {vmid} is on node {entry.node} now, so verbs on this node act on the VM only after it moves here"
            )
        else:
            yield ok(f"{vm_and_name(vmid, name_of(vmid))} is configured on this node")
    for first, last in ranges:
        if first != last:
            yield from _judge_range(first, last, entries)


def _judge_range(first: int, last: int, entries: Mapping[int, VmlistEntry]) -> Iterator[Finding]:
    """Name the numbers of a range that no VM or container has."""
    size, used = last - first + 1, sum(first <= vmid <= last for vmid in entries)
    if size > RESERVATION:
        yield ok(
            f"{first}-{last}: {used} of {size} numbers are in use; the key also reaches VMs that get the other numbers"
        )
    elif used < size:
        free = [str(vmid) for vmid in range(first, last + 1) if vmid not in entries]
        more = f" and {len(free) - MOST_NAMED} more" if len(free) > MOST_NAMED else ""
        yield warning(
            f"{first}-{last}: no node has VM {', '.join(free[:MOST_NAMED])}{more}",
            "take the numbers that you don't plan to use out of the key line",
        )


def _judge_key_line(where: str, line: KeyLine) -> Iterator[Finding]:
    if line.is_refused:
        yield error(f"{where} has options that sshd refuses", "write them without blanks, and only one command=")
    elif line.command is None:
        yield error(f"{where} has no command=", 'prepend restrict,command="/usr/local/sbin/breakglass-pve serve …"')
    elif served_vms(line) is None:
        yield error(
            f"{where} does not run the host agent in the required form: {line.command}",
            "write /usr/local/sbin/breakglass-pve serve --vms N,N; only --read-only, --no-last-words and --as NAME "
            "may follow",
        )
    if "restrict" not in line.names:
        yield error(f"{where} has no restrict", "prepend restrict,")
    for name in sorted(line.names & _UNDO_RESTRICT):
        yield error(f"{where} allows {name} in spite of restrict", f"remove {name}")


def _judge_repeated(lines: Iterable[KeyLine]) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for line in lines:
        if first.setdefault(line.key, line.number) != line.number:
            sentence = f"{line.where} has the key of line {first[line.key]}; sshd uses only the first"
            yield error(sentence, "use its own key pair for each line")


def served_vms(line: KeyLine) -> VmList | None:
    """Return the VMs that a line's forced command serves, None for any command but the host agent's."""
    match = _SERVE.fullmatch(line.command or "")
    try:
        return parse_vm_list(match["vms"]) if match and not line.is_refused else None
    except ValueError:
        return None


def replace_vms(raw: str, line: KeyLine, vms: VmList) -> str:
    """Return a Breakglass line with other VMs in its forced command; every other character stays."""
    match = _SERVE.match(raw, line.command_at)  # this command needs no quotes, so the line's text is the value
    return raw[: match.start("vms")] + str(vms) + raw[match.end("vms") :] if match else raw


def forbid_last_words(raw: str, line: KeyLine) -> str:
    """Return a Breakglass line that forbids reading any guest's kernel log."""
    match = _SERVE.match(raw, line.command_at)
    if match is None or "--no-last-words" in match["rest"].split():
        return raw
    return f"{raw[: match.end('vms')]} --no-last-words{raw[match.end('vms') :]}"


def forced_program(line: KeyLine) -> str | None:
    """Return the path of the program that a Breakglass line runs; None for any other line."""
    match = _SERVE.fullmatch(line.command or "")
    return match["program"] if match and served_vms(line) else None


def _is_read_only(line: KeyLine) -> bool:
    match = _SERVE.fullmatch(line.command or "")
    return match is not None and "--read-only" in match["rest"].split()


def judge_elsewhere(path: str, text: str, keys: set[str]) -> Iterator[Finding]:
    """Judge root's own key file, because a breakglass key in it may open a root shell."""
    for line in parse_key_lines(text, path):
        if line.key in keys and line.command is None:
            yield error(
                f"{line.where} has a breakglass key without a command=, which opens a root shell",
                "remove it there",
            )
        elif line.key in keys:
            yield warning(f"{line.where} has a breakglass key as well", "remove it there")
