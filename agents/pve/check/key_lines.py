"""Judges authorized_keys files from their text, line by line as sshd(8) reads them. Pure.

The account has uid 0, so a line that forces any command but exactly the host agent is a root login.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .findings import Finding, error, ok, warning


@dataclass(frozen=True)
class KeyLine:
    """One line of an authorized_keys file: its options in order, and the key itself (type and base64)."""

    number: int
    options: tuple[tuple[str, str], ...]
    key: str

    @property
    def names(self) -> set[str]:
        """The names of the options, in lower case."""
        return {name for name, _ in self.options}

    @property
    def command(self) -> str | None:
        """The forced command, None without one."""
        return next((value for name, value in self.options if name == "command"), None)


_KEY_TYPE = re.compile(r"(?:ssh|ecdsa|sk)-[A-Za-z0-9@.-]+")
_OPTION = re.compile(r'([A-Za-z0-9-]+)(?:="((?:[^"\\]|\\.)*)")?(,|$)', re.DOTALL)


def parse_key_lines(text: str) -> list[KeyLine]:
    """Return the lines of an authorized_keys file that sshd(8) takes for a key."""
    numbered = enumerate(text.splitlines(), 1)
    return [line for number, raw in numbered if (line := _parse_key_line(number, raw.strip()))]


def _parse_key_line(number: int, raw: str) -> KeyLine | None:
    options, rest = "", raw
    if not _KEY_TYPE.fullmatch(raw.partition(" ")[0]):
        options, rest = _split_options(raw)
    words = rest.split()
    if raw.startswith("#") or len(words) < 2 or not _KEY_TYPE.fullmatch(words[0]):
        return None
    found = [(name.lower(), re.sub(r"\\(.)", r"\1", value or "")) for name, value, _ in _OPTION.findall(options)]
    return KeyLine(number, tuple(found), f"{words[0]} {words[1]}")


def _split_options(raw: str) -> tuple[str, str]:
    """Split at the first blank outside quotes."""
    match = re.match(r'(?:[^\s"]|"(?:[^"\\]|\\.)*")*', raw)
    end = match.end() if match else 0
    return raw[:end], raw[end:]


_UNDO_RESTRICT = {"pty", "port-forwarding", "agent-forwarding", "x11-forwarding", "user-rc"}
_SERVE = re.compile(  # matched as a whole: a shell runs it, so nothing may follow
    r"/[A-Za-z0-9._/-]*breakglass-pve serve --vm ([1-9][0-9]{0,8})((?: --read-only| --as [A-Za-z0-9@._-]{1,64})*)"
)


def judge_key_lines(path: str, lines: list[KeyLine]) -> Iterator[Finding]:
    """Judge the account's key file: a line that is not exactly the host agent's is an error."""
    findings = [found for line in lines for found in _judge_key_line(f"{path}:{line.number}", line)]
    findings += _judge_repeated(path, lines)
    if not lines:
        findings = [error(f"{path} has no key in it", "add a line for each key")]
    yield from findings or [ok(f"{path}: every key has restrict and a command= of its own")]


def judge_both_kinds(lines: Iterable[KeyLine], vmid: int) -> Iterator[Finding]:
    """Warn where the VM has no power key or no read-only key."""
    ours = [_is_read_only(line) for line in lines if _served_vm(line) == vmid]
    for kind, count in (("power", ours.count(False)), ("read-only", ours.count(True))):
        if count:
            yield ok(f"{count} {kind} key{'s' * (count > 1)} for VM {vmid}")
        else:
            yield warning(f"no {kind} key for VM {vmid}", "add its line to the key file")


def _judge_key_line(where: str, line: KeyLine) -> Iterator[Finding]:
    if line.command is None:
        yield error(f"{where} has no command=", 'prepend restrict,command="/usr/local/sbin/breakglass-pve serve …"')
    elif _served_vm(line) is None:
        yield error(
            f"{where} runs something else: {line.command}",
            "it must be /usr/local/sbin/breakglass-pve serve --vm N and no more",
        )
    if "restrict" not in line.names:
        yield error(f"{where} has no restrict", "prepend restrict,")
    for name in sorted(line.names & _UNDO_RESTRICT):
        yield error(f"{where} allows {name} in spite of restrict", f"remove {name}")


def _judge_repeated(path: str, lines: Iterable[KeyLine]) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for line in lines:
        if first.setdefault(line.key, line.number) != line.number:
            sentence = f"{path}:{line.number} has the key of line {first[line.key]}; sshd uses only the first"
            yield error(sentence, "use a key pair of its own for each line")


def _served_vm(line: KeyLine) -> int | None:
    """Return the VM that a line's forced command serves, None for any command but the host agent's."""
    match = _SERVE.fullmatch(line.command or "")
    return int(match[1]) if match else None


def _is_read_only(line: KeyLine) -> bool:
    match = _SERVE.fullmatch(line.command or "")
    return match is not None and "--read-only" in match[2].split()


def judge_elsewhere(path: str, text: str, keys: set[str]) -> Iterator[Finding]:
    """Judge a file of root's own keys: a breakglass key in it may open a root shell."""
    for line in parse_key_lines(text):
        if line.key in keys and line.command is None:
            yield error(
                f"{path}:{line.number} has a breakglass key without a command=, which opens a root shell",
                "remove it there",
            )
        elif line.key in keys:
            yield warning(f"{path}:{line.number} has a breakglass key as well", "remove it there")
