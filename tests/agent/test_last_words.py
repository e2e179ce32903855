"""The guest's kernel log, read from a real QEMU's memory, of a living guest, a dead one and one that can't answer.

Each guest has logged 20,000 lines, so that its ring has been written over more than once, as after months.
"""

import re
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from breakglass.demo.proxmox.world import World

from ..support.agent import execute, write_agent
from ..support.guests import Guest
from ..support.signals import signal_process
from ..support.stages import until

pytestmark = [pytest.mark.slow, pytest.mark.real("guest")]

CAUSE = "Kernel panic - not syncing: sysrq triggered crash"
# In unshared memory, reading an absent page maps the common page of zeros, which is not counted.
SHARED = ["-object", "memory-backend-memfd,id=ram,size=256M,share=on", "-machine", "memory-backend=ram"]
PATIENT = {"EVIDENCE_SECONDS": 60.0, "LAST_WORDS_SECONDS": 40.0, "SHORT_LAST_WORDS_SECONDS": 40.0}


@pytest.fixture
def guest_that(short_dir: Path) -> Iterator[Callable[..., Guest]]:
    world = World(short_dir)
    write_agent(world, REUSE_SECONDS=0.0, **PATIENT)

    def boot(does: str, options: Sequence[str] = ()) -> Guest:
        guest = Guest(world, does, options=options)
        guest.boot()
        return guest

    try:
        yield boot
    finally:
        world.close()


def run(world: World, line: str, *options: str) -> tuple[dict[str, Any], list[str], str]:
    """Run a verb. Return its verdict, the last words in its record, and its output."""
    answer = execute(world, line, *options)
    job = execute(world, f"job id={answer.trailer['job']}").trailer["whole_job"]
    return answer.trailer["verdict"] or {}, job["last_words"], answer.stdout


def memory_of(world: World) -> int:
    """Return the size of QEMU's memory in KiB. If it is shared, reading an absent page makes it larger."""
    [size] = re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{world.pid}/status").read_text())
    return int(size)


def is_said(world: World, words: str) -> bool:
    return words in "".join(run(world, "forensics")[1])


@pytest.mark.all
def test_the_last_words_of_a_guest(guest_that: Callable[..., Guest]) -> None:
    """While the guest lives, its log is read, with its text escaped, but is not its last words.

    Of a dead guest they are read while QEMU answers, before a verb, and while QEMU is stopped. No absent page is
    touched.
    """
    guest = guest_that("logs, then panics", options=SHARED)
    world = guest.world
    guest.until_says("logs")
    verdict, words, shown = run(world, "forensics")
    assert [line.partition("] ")[2] for line in words[-2:]] == ["line 20000", r"red \x1b[31m"]
    assert (len(words), verdict["code"], "\x1b" in shown) == (40, "guest-alive", False)
    assert "last words" not in "".join([verdict["sentence"], *verdict["evidence"]])

    guest.tell("panic\n")
    until(lambda: is_said(world, "end Kernel panic"), "a panic", 180)
    _, words, shown = run(world, "forensics")
    assert len(words) == 40  # the call trace may fill them, so the cause need not be among them
    assert "\n".join(words) in shown
    assert run(world, "forensics", "--no-last-words")[1] == []

    signal_process(world.pid, signal.SIGSTOP)
    before = memory_of(world)
    verdict, stopped, _ = run(world, "forensics")
    assert (verdict["code"], stopped) == ("qemu-wedged", words)
    assert memory_of(world) - before < 4096  # the kernel adds up a process's pages late; a guest has 100 times as much
    assert verdict["sentence"].endswith(f"its last words: {CAUSE}")
    assert any(line.endswith(CAUSE) for line in verdict["evidence"])
    signal_process(world.pid, signal.SIGCONT)

    assert run(world, "reset")[1] == words


@pytest.mark.all
def test_the_text_on_the_console(guest_that: Callable[..., Guest]) -> None:
    """For a guest in VGA's text mode, the record has the picture's text, for readers who can't see the picture.

    Each row has a mark before it, so a row can't pose as a line of the host.
    """
    world = guest_that("a boot sector").world
    answer = execute(world, "forensics")
    job = execute(world, f"job id={answer.trailer['job']}").trailer["whole_job"]
    assert job["screen_png"]
    assert job["screen_text"][-1].startswith("devvm login:"), job["screen_text"]
    shown = answer.stdout.partition("== screen (")[2].partition("\nverdict: ")[0].splitlines()
    assert shown[2:] == [f"| {row}" for row in job["screen_text"]]
