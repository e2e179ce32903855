"""Turns whose claude was taken over: whatever its processes do, each ends when it should, and nothing lives on.

A script stands in for claude, with a user of its own, as the one program that a hostile guest would have it become.
"""

import contextlib
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import pytest

from breakglass.claude.sandbox import PYTHON

from ..support.claude import UID_RANGE
from ..support.model import Model
from ..support.naps import find_processes, nap, wait_for_process, wait_until_gone
from ..support.scripted_claude import RESULT, TEXT, ScriptedClaude
from ..support.selection import sampled
from ..support.talk import Stream, Talker, last_error, started

pytestmark = [pytest.mark.real("root", "bwrap"), pytest.mark.slow]

MARK = nap(83)
# Each begins after a text has come and after a process that can be found by its command line has begun.
DEEDS = {
    "stops itself": "kill -STOP $$",
    "stops all it has": "kill -STOP -1; kill -STOP $$",
    "hears no signal": "trap '' INT TERM HUP QUIT; while :; do :; done",
    # bash itself ends half a minute after the limit of processes: what forks is its child
    "forks for ever": f"(f() {{ f & }}; f; while :; do f; done) 2>/dev/null & exec {MARK}",
    "closes its pipes": f"exec >&- 2>&- <&-; exec {MARK}",
    "fills its pipes": "trap '' INT TERM PIPE; cat /dev/zero; cat /dev/zero >&2",
    "one endless line": "trap '' INT TERM; head -c 300000000 /dev/zero | tr '\\0' x",
    "fills its directories": "trap '' INT TERM; while :; do cat /dev/zero >$HOME/$RANDOM; done 2>/dev/null",
    "digs": "trap '' INT TERM; cd $HOME; while mkdir d && cd d; do :; done 2>/dev/null; while :; do :; done",
    "locks its directories": f"mkdir $HOME/a; touch $HOME/a/b; chmod 0 $HOME/a $HOME $CLAUDE_CODE_TMPDIR; exec {MARK}",
    "starts sessions": f"for n in 1 2 3; do setsid {MARK} & done; trap '' INT TERM; wait",
    "a shell of its own": f"/bin/sh -c 'trap \"\" INT TERM HUP; while :; do {MARK}; done'",
}


def cancel(talker: Talker, stream: Stream) -> str:
    assert talker.ask(cancel=stream.turn).status == 202
    return str(last_error(stream.rest())["code"])


def stop(talker: Talker, stream: Stream) -> str:
    talker.process.terminate()
    code = str(last_error(stream.rest())["code"])
    talker.process.wait(60)
    return code


def kill(talker: Talker, stream: Stream) -> str:
    talker.kill()
    with contextlib.suppress(OSError, ValueError):
        stream.rest()
    return "shutting-down"


ENDS: dict[str, tuple[Callable[[Talker, Stream], str], str]] = {
    "cancel": (cancel, "cancelled"),
    "SIGTERM": (stop, "shutting-down"),
    "SIGKILL": (kill, "shutting-down"),
}
CASES = list(zip(DEEDS, cycle(ENDS)))


@pytest.fixture(scope="module")
def hostile(model: Model, directory: Path) -> Iterator[ScriptedClaude]:
    directory.chmod(0o711)
    program = ScriptedClaude(directory)
    program.directory.chmod(0o755)
    yield program
    assert find_processes(MARK) == []


@pytest.mark.parametrize(("deed", "end"), sampled(CASES, *(case for case in CASES if case[0] == "forks for ever")))
def test_every_turn_ends(hostile: ScriptedClaude, model: Model, directory: Path, deed: str, end: str) -> None:
    """By the way that was asked for; its processes are gone, and the same session's next turn goes on."""
    finish, code = ENDS[end]
    chat = f'uids = "{UID_RANGE}"\n{hostile.chat}'
    begin = f'{MARK} &\nuntil [ "$(cat /proc/$!/comm)" = sleep ]; do :; done'
    hostile.play(f"{begin}\n{TEXT}\n{DEEDS[deed]}")
    with started(Talker(directory, model, chat=chat)) as talker:
        with talker.open(prompt="hello") as stream:
            stream.until("text")
            wait_for_process(MARK)
            assert talker.health()["chat_isolated"] is True
            found = finish(talker, stream)
        assert found in (code, "flood", "claude-crashed") if "line" in deed or "pipes" in deed else found == code
        wait_until_gone(MARK)
        hostile.play("exit 7")
        with started(talker.replica()) if end.startswith("SIG") else contextlib.nullcontext(talker) as then:
            with then.open(attach=stream.turn) as again:
                again.rest()  # a runner without its handler saves what was said before the session is free
            events = then.chat("and?", session=stream.seen[0]["session"])
            assert last_error(events)["code"] == "claude-crashed"  # also after one that locked its directories away


FORKS = f"""\
import os, sys, time
open(sys.argv[1], "w")
until = time.monotonic() + 60
while time.monotonic() < until:
    if os.fork():
        os._exit(0)  # {MARK}
"""


def test_nothing_is_left_of_a_claude_that_shares_the_handlers_user(
    hostile: ScriptedClaude, model: Model, directory: Path
) -> None:
    """It sees no process but its own, the first to go for memory; eight that only fork and exit end with the turn."""
    seen, numbers = hostile.directory / "seen", "1 2 3 4 5 6 7 8"
    forks = f"for n in {numbers}; do {PYTHON} -c '{FORKS}' $HOME/begun-$n & done"
    begun = f"for n in {numbers}; do until [ -e $HOME/begun-$n ]; do :; done; done"
    wait = f"until [ -e {seen} ]; do sleep 0.05; done"
    look = "[ $(ls -d /proc/[0-9]* | wc -l) -lt 30 ] && grep -qx 500 /proc/self/oom_score_adj || exit 9"
    hostile.play(f"{look}\n{{ {forks}; }} >&- 2>&-\n{begun}\n{TEXT}{wait}\n{RESULT}")
    with started(Talker(directory, model, chat=hostile.chat)) as talker:
        with talker.open(prompt="hello") as stream:
            stream.until("text")
            wait_for_process(MARK)
            seen.touch()
            assert stream.rest()[-1]["ok"] is True
        assert find_processes(MARK) == []
        assert talker.health()["chat_isolated"] is False
