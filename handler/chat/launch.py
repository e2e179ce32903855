"""From a claimed turn to its runner: the session's lock, claude's command, one process. It blocks, in a thread of
`threads.py`; whatever goes wrong here is written into the turn's log, for the turn was claimed and needs an end."""

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..claude import command
from ..claude.eventlog import append, ending
from ..claude.runner import SILENCE_SECONDS
from ..config.model import ChatSettings, Vm
from ..isolated import isolated
from .store import Store

_TAKEN = ("busy", "another turn of this session is under way", "wait for it or cancel it, then send with a new id")

Started = tuple[subprocess.Popen[bytes], socket.socket]


@dataclass(frozen=True)
class Ask:
    """What a person asked for, judged already: `sid` is new, or that of the session that `resume` continues."""

    turn: str
    caller: str
    vm: Vm
    prompt: str
    sid: str
    resume: bool
    token: str
    digest: str
    still_open: Sequence[Mapping[str, str]] = ()  # proposals of earlier turns


def launch(
    settings: ChatSettings, store: Store, ask: Ask, place: Path, refusal: tuple[str, str, str] | None
) -> Started | None:
    """Claim a turn, unless it is there already, and start its runner, or write why not. Raises SessionsUnwritable."""
    about = {"vm": ask.vm.name, "sid": ask.sid, "digest": ask.digest}
    first = {"session": ask.token, "id": ask.sid, "turn": ask.turn, "resumed": ask.resume}
    log = store.claim(place, about, {"type": "session", "n": 1, **first})
    return None if log is None else _launch(settings, store, ask, place, log, refusal)


def _launch(
    settings: ChatSettings, store: Store, ask: Ask, place: Path, log: int, refusal: tuple[str, str, str] | None
) -> Started | None:
    """Start the runner of a turn. Closes `log`, which the runner then holds."""
    lock = None
    try:
        lock = None if refusal else store.lock(ask.sid)
        if lock is None:
            append(log, ending(*(refusal or _TAKEN), 2))
            return None
        store.note(lock, place, ask.still_open)
        turn = command.Turn(ask.sid, ask.resume, ask.vm, ask.caller, ask.prompt, store.work(place))
        return _runner(_job(settings, ask, command.command(settings, turn), place), log, lock)
    except Exception as error:  # a full disk, a user that is gone, a defect of ours
        hint = "see [chat] and the handler's log; the power verbs don't need claude"
        with contextlib.suppress(OSError):  # whoever reads the log tries again
            append(log, ending("claude-crashed", f"the turn could not be begun: {error!r}", hint, 2))
        return None
    finally:
        for fd in (log, lock):
            if fd is not None:
                os.close(fd)


def _job(settings: ChatSettings, ask: Ask, how: command.Launch, place: Path) -> dict[str, object]:
    return {
        "argv": how.argv,
        "env": dict(how.env),
        "cwd": str(how.cwd),
        "uid": how.uid,
        "gid": how.gid,
        "agent_key": how.agent_key,
        "agent_socket": how.agent_socket,
        "prompt": ask.prompt,
        "vm": ask.vm.name,
        "cancel": str(place / "cancel"),
        "turn_seconds": settings.turn_seconds,
        "silence_seconds": SILENCE_SECONDS,
    }


def _runner(job: dict[str, object], log: int, lock: int) -> Started:
    """Start the runner. The job goes through a file in memory: it can't block, and no `ps` shows it."""
    ours, theirs = socket.socketpair()
    with os.fdopen(os.memfd_create("job"), "w+b") as standard_input, theirs:
        fds = {"log": log, "lock": lock, "control": theirs.fileno()}
        standard_input.write(json.dumps({**job, **fds}).encode())
        standard_input.seek(0)
        process = subprocess.Popen(
            isolated("claude.runner"),
            stdin=standard_input,
            stdout=subprocess.DEVNULL,
            env={},
            cwd="/",
            pass_fds=tuple(fds.values()),
            start_new_session=True,
        )
    return process, ours
