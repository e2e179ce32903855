"""Verifies a VM's chain on one node: /run's file, and the archive's file, which has a copy of it and the older lines.

`verify_chain` is pure. `broken` says at which line a chain is broken. A note is worth knowing, but does not break the
chain.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ..host.bounded import ask_or_none
from ..host.paths import Host
from .archive import is_archive_hung
from .chain_file import (
    ARCHIVE_BYTES,
    NO_HASH,
    RUN_BYTES,
    LinkFields,
    boot_id,
    chain_paths,
    link_hash,
    number_of,
    parse_link,
)
from .mutex import Lock
from .store import JobStore

ARCHIVE_READ_SECONDS = 1.0
MOST_HASHES = 200
HASH_CHARS = 16
MOST_NOTES = 20
_LINK_FIELDS = ("n", "prev", "at", "vm", "node", "event")


@dataclass(frozen=True)
class ChainState:
    """The state of a chain, and where it is broken.

    `hashes` are the beginnings of the newest lines' hashes. `since` is the lowest number whose line is certain to be
    among them; None if the archive did not answer.
    """

    node: str
    n: int
    head: str
    broken: str
    notes: tuple[str, ...]
    since: int | None
    hashes: tuple[str, ...]


def read_chain(host: Host, node: str, is_silent: bool = False) -> ChainState:
    """Return the state of a chain. `is_silent`: the archive is known not to answer, so it is not asked."""
    run, archive = chain_paths(host, node)
    older = None
    if not is_silent and not is_archive_hung(JobStore(host)):  # before /run, because each line comes to /run earlier
        older = ask_or_none(lambda: _read_chain_file(archive, 2 * ARCHIVE_BYTES).hex(), ARCHIVE_READ_SECONDS)
    newer, is_busy = b"", False
    for _ in range(2):  # while a job writes its line, a reader may see half of it
        is_busy = is_busy or Lock(host, "lock").holder() is not None
        try:
            newer = _read_chain_file(run, 2 * RUN_BYTES)
        except OSError as error:
            return ChainState(node, 0, "", f"/run's file can't be read: {error.strerror}", (), None, ())
    if is_busy:
        newer = newer[: newer.rfind(b"\n") + 1]
    return verify_chain(newer, None if older is None else bytes.fromhex(older), host.vmid, node, boot_id())


def _read_chain_file(path: str, most: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(most)
    except FileNotFoundError:
        return b""


def verify_chain(run: bytes, archive: bytes | None, vm: int, node: str, boot: str) -> ChainState:
    """Return the state of a chain from its two files; `archive` is None if it did not answer."""
    newer, torn = _split_links(run)
    older, cut_off = _split_links(archive or b"")
    broken, lines = _join_links(older, newer)
    walk = _ChainWalk(vm, node, is_whole=archive is not None)
    damage = walk.through(lines) or broken
    if torn and not damage:
        damage = f"line {walk.number + 1} of /run's file ends in the middle"
    if not newer and not damage and boot and walk.boots[-1:] == [boot]:
        damage = f"/run's file is gone, although the host has not booted since: lines after {walk.number} are missing"
    for job in walk.unended:
        walk.notes.append(f"job {job} has no line with its outcome, because it was killed, or the host went down")
    if cut_off:
        walk.notes.append("the archive's file ends in the middle of a line")
    if archive is None:
        walk.notes.append("the archive did not answer, so its copy was not compared")
    shown = walk.hashes[-MOST_HASHES:]
    dropped = [*walk.cut, *(number for number, _ in walk.hashes[:-MOST_HASHES])]
    return ChainState(
        node,
        walk.number,
        walk.prev if walk.hashes else "",
        damage,
        tuple(walk.notes[-MOST_NOTES:]),
        None if archive is None else max(dropped, default=0) + 1,
        tuple(hash_[:HASH_CHARS] for _, hash_ in shown),
    )


def _split_links(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the complete lines, and the text after the last newline."""
    whole, newline, torn = data.rpartition(b"\n")
    return (whole.split(b"\n") if newline else []), torn


def _join_links(older: list[bytes], newer: list[bytes]) -> tuple[str, list[bytes]]:
    """Return how the two files contradict each other, if they do, and the lines of both, each once."""
    if not older or not newer:
        return "", older + newer
    if parse_link(newer[0]).get("event") not in ("starts", "boots", "cut"):
        return f"lines before {number_of(parse_link(newer[0]))} are missing from the beginning of /run's file", older
    if older[-1] not in newer:
        if newer[-1] in older:
            first, last = (number_of(parse_link(lines[-1])) for lines in (newer, older))
            return f"/run's file ends with line {first}, and the archive has lines up to {last}", older
        difference = _first_difference(older, newer)
        return difference, older if difference else older + newer
    common = len(newer) - newer[::-1].index(older[-1])
    return _first_difference(older, newer[:common]), older + newer[common:]


def _first_difference(older: list[bytes], newer: list[bytes]) -> str:
    """Return which line of /run differs from the archive's line of the same number, in the newest chain of each."""
    known: dict[int, bytes] = {}
    for line in older:
        fields = parse_link(line)
        if fields.get("event") == "starts":
            known.clear()
        if fields.get("event") != "cut":
            known[number_of(fields)] = line
    restarts = parse_link(newer[0]).get("event") == "starts" and newer[0] != known.get(1)
    for line in () if restarts else newer:
        fields = parse_link(line)
        number = number_of(fields)
        if fields.get("event") != "cut" and known.get(number, line) != line:
            return f"line {number} is not the same in /run and in the archive"
    return ""


class _ChainWalk:
    """Follows a chain line by line."""

    def __init__(self, vm: int, node: str, is_whole: bool) -> None:
        self.number = 0
        self.prev = NO_HASH
        self.hashes: list[tuple[int, str]] = []
        self.notes: list[str] = []
        self.cut: list[int] = []
        self.boots: list[str] = []
        self.unended: dict[str, None] = {}  # jobs without an outcome, which a standby process may write later
        self._vm = vm
        self._node = node
        self._is_whole = is_whole

    def through(self, lines: Iterable[bytes]) -> str:
        """Take all lines; return the first damage, or an empty text."""
        damage = ""
        for line in lines:
            fields = parse_link(line)
            damage = damage or self._judge(fields)
            self._take(line, fields)
        return damage

    def _judge(self, fields: LinkFields) -> str:
        number = number_of(fields)
        if not number or any(name not in fields for name in _LINK_FIELDS):
            return f"the line after {self.number} is damaged" if self.number else "the first line is damaged"
        if (fields["vm"], fields["node"]) != (self._vm, self._node):
            return f"line {number} is of VM {fields['vm']} on node {fields['node']}"
        event, is_first = fields["event"], not self.hashes and not self.cut
        if event == "cut":
            fits = is_first or (number, fields["prev"]) == (self.number, self.prev)
            return (
                "" if fits else f"lines after {self.number} are missing: /run was cut at line {number} before the copy"
            )
        if event == "starts":
            return self._judge_start(fields, is_first)
        if is_first and event == "boots" and not self._is_whole:
            return ""
        if is_first:
            return f"lines before {number} are missing"
        if number != self.number + 1:
            return f"line {number} follows line {self.number}"
        return "" if fields["prev"] == self.prev else f"line {number} does not have the hash of the line before"

    def _judge_start(self, fields: LinkFields, is_first: bool) -> str:
        if (number_of(fields), fields["prev"]) != (1, NO_HASH):
            return f"line {number_of(fields)} starts a chain, but is not its first line"
        if not is_first and fields.get("why") == "first":
            return f"a chain starts after line {self.number}, although a chain existed already"
        if not is_first or fields.get("why") != "first":
            self.notes.append(f"a new chain starts after line {self.number}: {fields.get('why')}")
        return ""

    def _take(self, line: bytes, fields: LinkFields) -> None:
        self.number = number_of(fields)
        if fields.get("event") == "cut":
            if not self.hashes:
                self.cut.append(self.number)
                self.notes.append(f"the lines up to {self.number} were cut off")
            self.prev = str(fields.get("prev"))
            return
        self.prev = link_hash(line)
        self.hashes.append((self.number, self.prev))
        boot = fields.get("boot")
        if boot:
            if self.boots[-1:] == [boot]:
                self.notes.append(f"/run's file was gone before line {self.number}, although the host had not booted")
            self.boots.append(str(boot))
        if "unended" in fields:
            self.unended[str(fields["unended"])] = None
        if fields.get("event") == "ends":
            self.unended.pop(str(fields.get("job")), None)
        if "torn" in fields:
            self.notes.append(f"an unfinished line was removed before line {self.number}")


def describe_chain(state: ChainState) -> str:
    """Return the state in one line, for a person at a terminal."""
    if state.broken:
        return f"the chain of jobs on node {state.node} is broken: {state.broken}"
    if not state.n:
        return f"no verb that changes power has run on node {state.node} yet, so its chain of jobs is empty"
    return f"the chain of jobs on node {state.node} verifies: line {state.n}, head {state.head}"
