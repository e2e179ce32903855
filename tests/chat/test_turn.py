"""A turn by itself, without a handler: the turn's program, its walls, its limits, and a program in claude's place."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from breakglass.base.framer import LINE_BYTES
from breakglass.chat import turn as program
from breakglass.chat.wall import PYTHON, starter_command

from ..support import turns
from ..support.naps import find_processes, nap, wait_for_process, wait_until_gone
from ..support.scripted_claude import RESULT, TEXT, TOOL, line
from ..support.selection import sampled
from ..support.service import let_in
from ..support.signals import signal_process
from ..support.turns import Event, Turn, make_job, run, texts

pytestmark = [pytest.mark.real("bwrap"), pytest.mark.slow]

MARK = nap(83)


@pytest.fixture
def script(directory: Path) -> Callable[[str], Path]:
    """Return a function that writes a shell script in claude's place."""

    def write(text: str) -> Path:
        path = directory / f"claude-{os.urandom(4).hex()}"
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
        let_in(path)
        return path

    return write


Script = Callable[[str], Path]


def last_error(events: list[Event]) -> Event:
    assert [event["type"] for event in events[-2:]] == ["error", "done"], events
    return events[-2]


# --- how it ends ---


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("echo it broke >&2; exit 7", "claude-crashed", "exit 7; stderr ends with: it broke"),
        ('printf "{\\"type\\":\\"resu"', "claude-crashed", "in the middle of its output"),
    ],
)
def test_claude_crashes(script: Script, text: str, code: str, words: str) -> None:
    """The error has its exit and the end of its stderr; the text before that stays."""
    events = run(make_job("hello"), script(TEXT + text)).events
    assert texts(events) == "hello"
    assert (last_error(events)["code"], words in last_error(events)["message"]) == (code, True), events


def test_a_handler_whose_own_limits_are_stricter(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a pod. They stay, and the turn runs."""
    stricter = 'ulimit -f 9000; echo 800 >/proc/$$/oom_score_adj; exec "$@"'
    monkeypatch.setattr(turns, "starter_command", lambda: ["/bin/sh", "-c", stricter, "sh", *starter_command()])
    events = run(make_job("hello"), script("cat /proc/self/oom_score_adj >&2; ulimit -f >&2; exit 3")).events
    assert re.findall(r"\d+", last_error(events)["message"]) == ["3", "800", "4500"]


@pytest.mark.parametrize(
    ("text", "limits", "code"),
    [
        (f"{TEXT}exec sleep 600", {"silence_seconds": 0.5}, "claude-unreachable"),
        (f"{TOOL}exec sleep 600", {"silence_seconds": 2, "turn_seconds": 4}, "turn-timeout"),
    ],
)
def test_a_turn_has_limits(script: Script, text: str, limits: dict[str, Any], code: str) -> None:
    """Its time and its silence are limited, but a tool may be silent for any time."""
    assert last_error(run(make_job("hello", **limits), script(text)).events)["code"] == code


def is_wall(pid: int) -> bool:
    return os.readlink(f"/proc/{pid}/exe").endswith("/bwrap")


# --- a claude that was taken over ---

# Each begins after a text has come and after a process that can be found by its command line has begun.
DEEDS = {
    "stops all it has": "kill -STOP -1; kill -STOP $$",
    "hears no signal": "trap '' INT TERM HUP QUIT; while :; do :; done",
    # bash itself ends half a minute after the limit of processes: what forks is its child
    "forks for ever": f"(f() {{ f & }}; f; while :; do f; done) 2>/dev/null & exec {MARK}",
    "closes its pipes": f"exec >&- 2>&- <&-; exec {MARK}",
    "one endless line": "trap '' INT TERM; head -c 300000000 /dev/zero | tr '\\0' x",
    "digs": "trap '' INT TERM; cd $HOME; while mkdir d && cd d; do :; done 2>/dev/null; while :; do :; done",
    "locks its directories": f"mkdir $HOME/a; touch $HOME/a/b; chmod 0 $HOME/a $HOME $CLAUDE_CODE_TMPDIR; exec {MARK}",
    "starts sessions": f"for n in 1 2 3; do setsid {MARK} & done; trap '' INT TERM; wait",
}


def end(turn: Turn, how: str) -> str:
    """End a turn in a way; return the code of its error, or the way if no error is sent."""
    if how in ("cancelled", "shutting-down"):
        turn.stop(how)
        return str(last_error(turn.rest())["code"])
    if how == "killed":
        turn.process.kill()
    else:
        turn.socket.shutdown(2)
    turn.process.wait(60)
    return how


CASES = list(zip(DEEDS, cycle(("cancelled", "shutting-down", "left", "killed"))))


@pytest.mark.parametrize(("deed", "how"), sampled(CASES, *(case for case in CASES if case[0] == "forks for ever")))
def test_every_turn_ends(script: Script, deed: str, how: str) -> None:
    """It ends in the way that was asked for, and its processes are gone."""
    begin = f'{MARK} &\nuntil [ "$(cat /proc/$!/comm)" = sleep ]; do :; done'
    with Turn(make_job("hello"), script(f"{begin}\n{TEXT}\n{DEEDS[deed]}")) as turn:
        turn.until("text")
        wait_for_process(MARK)
        found = end(turn, how)
    assert found in (how, "claude-crashed")
    wait_until_gone(MARK, 60)


def test_nothing_outlives_a_worker_that_is_killed(script: Script) -> None:
    """Its end is the end of its namespace."""
    with Turn(make_job("hello"), script(f"setsid {MARK} & setsid -f {MARK}\n{TEXT}exec {MARK}")) as turn:
        turn.until("text")
        wait_for_process(MARK)
        own = [pid for pid in find_processes("chat.start") if below(pid, turn.process.pid)]  # others may end now
        [worker] = [pid for pid in own if not is_wall(pid)]
        signal_process(worker, signal.SIGKILL)
        turn.process.wait(60)
    wait_until_gone(MARK, 60)


def below(pid: int, above: int) -> bool:
    """Tell whether a process is a descendant of another. One that has ended meanwhile is none."""
    try:
        while pid > 1 and pid != above:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return False
    return pid == above


# --- what is in it ---


def test_no_secret_is_in_its_environments_and_command_lines(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of claude and of the processes beside it have none.

    A placeholder is where claude looks for the credential.
    """
    monkeypatch.setenv("BREAKGLASS_SECRET", "whsec_ours")
    name = f"mark-{os.urandom(4).hex()}"
    with Turn(make_job("hello", env={"MARK": name}), script(f"{TEXT}exec sleep 600")) as turn:
        turn.until("text")
        pids = [pid for pid in find_processes("") if below(pid, turn.process.pid)]
        shown = [read(pid, "cmdline") + read(pid, "environ") for pid in pids]
    assert len(pids) > 6
    assert [text for text in shown if "sk-model" in text or "ours" in text] == []
    assert [text for text in shown if "ANTHROPIC_API_KEY=the-model-proxy-has-it" in text and name in text]


def read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


KEEP = "place=$HOME/projects/-turn-cwd; mkdir -p $place; file=$place/${!#}; file=${file/--*=/}.jsonl\n"
LATER = line(type="user", message={"content": [{"type": "tool_result", "tool_use_id": "t", "content": "x"}]})


def test_a_transcript_goes_in_and_comes_out(script: Script) -> None:
    """Whole lines of it at each step, and the rest at the end; the next turn has it, and only what is new comes."""
    program = script(f"{KEEP}printf 'one\\ntw' >>$file\n{TOOL}{LATER}printf 'o\\nthree\\nfo' >>$file\n{RESULT}")
    turn = run(make_job("hello"), program)
    assert turn.transcript == b"one\ntwo\nthree\n"
    job = make_job("again", resume=turn.job.sid)
    program = script(f"{KEEP}cp $file $file.old; echo four >>$file; grep -q three $file.old || exit 9\n{RESULT}")
    then = run(job, program, bytes(turn.transcript))
    assert then.events[-1]["ok"] is True
    assert then.transcript == b"one\ntwo\nthree\nfour\n"


@pytest.mark.parametrize("what", ["ln -s /etc/passwd $file", "mkfifo $file", "rm -r $place; ln -s /etc $place"])
def test_a_transcript_that_is_none_is_reported(script: Script, what: str) -> None:
    """The answer is there, and the error says that the conversation was not saved; nothing came of it."""
    turn = run(make_job("hello"), script(f"{KEEP}{what}\n{TEXT}{RESULT}"))
    expected = "done" if "/etc $place" in what else "error"  # there is no such file behind that link
    assert turn.transcript == b""
    assert expected == "done" or last_error(turn.events)["code"] == "session-lost"


def test_walls_that_can_not_be_made_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe names what failed, a code, and one thing to do, which depends on what the kernel has.

    An image with its own Python may have no /usr/bin/python3, and no setting of the kernel helps there.
    """
    found = program.refuse_wall("bwrap: No permissions to create a new namespace")
    assert (found["code"], "No permissions" in str(found["fault"])) == ("sandbox-refused", True)
    assert "breakglass docs admin" in str(found["fix"])
    (tmp_path / "kernel").write_text("0\n")
    monkeypatch.setattr(
        program, "_REFUSALS", (("none", "1", "no"), (f"../..{tmp_path}/kernel", "0", "sysctl kernel=1"))
    )
    assert program.refuse_wall("")["fix"] == "sysctl kernel=1"
    assert program.find_missing({PYTHON: "python3"}) is None
    missing = program.find_missing({PYTHON: "python3", f"{tmp_path}/python3": "python3-minimal"})
    assert missing is not None
    assert (missing["code"], missing["fix"]) == ("sandbox-missing", "apt-get install python3-minimal")


@pytest.mark.real("root")
def test_the_sandbox_is_tried_before_claude_is_there(script: Script) -> None:
    """`breakglass chat --sandbox` makes it as another user; if the kernel refuses it, exit 1 names what helps."""
    broken = script("echo bwrap: No permissions to create a new namespace >&2; exit 1")
    inside = f"{sys.executable} -m breakglass chat --sandbox --user nobody"
    for mount, code, said in (
        ("true", 0, "claude can be isolated on this machine"),
        (f"mount --bind {broken} /usr/bin/bwrap", 1, "No permissions to create a new namespace\n    let users"),
    ):
        command = ["unshare", "-m", "sh", "-ec", f"{mount}; exec {inside}"]
        ran = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=100, check=False)
        assert (ran.returncode, said in ran.stdout + ran.stderr) == (code, True), ran


def test_a_line_of_more_than_16_mib(script: Script) -> None:
    """Such a line is left out with a note; a slightly shorter one comes through; the turn continues after both."""
    zeros = "head -c {} /dev/zero | tr '\\0' x"
    fits = f"""printf '{{"type":"x","y":"'; {zeros.format(LINE_BYTES - 100)}; echo '"}}'\n"""
    program = script(TOOL + fits + f"{zeros.format(LINE_BYTES + 1)}; echo\n" + TEXT + RESULT)
    events = run(make_job("hello"), program).events
    assert [event["type"] for event in events] == ["tool", "tool_result", "text", "result", "done"]
    assert (events[1]["ok"], events[1]["cut"], events[-1]["ok"]) == (False, True, True)
