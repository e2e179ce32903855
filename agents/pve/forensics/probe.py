"""The probes of a capture and their replies, with the two common kinds: files, and a command.

A probe runs in a forked child and yields each reply as soon as the reply is complete. A timeout is a reply too.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ..host.bounded import run
from ..host.paths import Host

PROBE_BYTES = 64 * 1024
ABSENT = "not installed"


@dataclass(frozen=True)
class Reply:
    """One answer of a probe, as text for people and as facts of Evidence."""

    probe: str
    command: str
    outcome: str
    seconds: float
    text: str
    facts: dict[str, object] = field(default_factory=dict)


AskFunction = Callable[[float], Iterator[Reply]]


@dataclass(frozen=True)
class Probe:
    """One question of a capture.

    Attributes:
        tier: 0 to 4, see plan.py.
        name: its name in the manifest.
        seconds: its deadline.
        ask: the function to call in a child, with the seconds that it may take.
        is_perl: it starts a Perl interpreter, so that few such probes run at a time.
    """

    tier: int
    name: str
    seconds: float
    ask: AskFunction
    is_perl: bool = False


def ok_reply(name: str, began: float, text: str, facts: dict[str, object] | None = None, command: str = "") -> Reply:
    """Return a reply that took from `began` until now."""
    return Reply(name, command, "ok", round(time.monotonic() - began, 3), text, facts or {})


def read_files(host: Host, name: str, *paths: str, lines: int = 100) -> AskFunction:
    """Return the question that reads these files."""

    def answer(_: float) -> Iterator[Reply]:
        began = time.monotonic()
        yield ok_reply(name, began, "\n".join(f"{path}: {read_text(host, path, lines)}" for path in paths))

    return answer


def read_text(host: Host, path: str, lines: int = 100) -> str:
    """Return a file's first lines, or the reason why it can't be read."""
    try:
        with open(host.path(path), encoding="utf-8", errors="replace") as file:
            return "\n".join(file.read(16384).strip().splitlines()[:lines])
    except OSError as error:
        return str(error.strerror)


def read_last(path: str, size: int) -> str:
    """Return the last bytes of a file as text."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - size))
        return file.read().decode("utf-8", "replace")


def learn_nothing(_: str) -> dict[str, object]:
    """Return no facts."""
    return {}


def command_probe(
    tier: int,
    name: str,
    seconds: float,
    *argv: str,
    learn: Callable[[str], dict[str, object]] = learn_nothing,
    is_perl: bool = False,
) -> Probe:
    """Return a probe that runs `argv`; `learn` turns its output into facts if its exit code is 0."""

    def answer(allowed: float) -> Iterator[Reply]:
        yield run_command(name, allowed, *argv, learn=learn)

    return Probe(tier, name, seconds, answer, is_perl)


def run_command(
    name: str, seconds: float, *argv: str, learn: Callable[[str], dict[str, object]] = learn_nothing
) -> Reply:
    """Run a command; return its output, or how it failed."""
    began = time.monotonic()
    ran = run(list(argv), seconds)
    text, facts = keep_end(ran.stdout + ran.stderr), {}
    if ran.code is None:
        outcome, text = "timed out", f"{text}\nno answer in {seconds:.1f} s, which is a finding"
    elif ran.code == 127 and not ran.stdout:
        outcome, text = "absent", ABSENT
    elif ran.code:
        outcome, text = "failed", f"{text}[exit {ran.code}]"
    else:
        outcome, facts = "ok", learn(ran.stdout)
    return Reply(name, " ".join(argv), outcome, round(time.monotonic() - began, 3), text, facts)


def keep_end(text: str) -> str:
    """Return a text, cut to its end where it is longer than PROBE_BYTES."""
    return text if len(text) <= PROBE_BYTES else f"[cut to the last {PROBE_BYTES} characters]\n{text[-PROBE_BYTES:]}"
