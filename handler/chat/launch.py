"""Claims a turn, takes its session's lock and starts its runner.

All of it blocks, so it runs in a thread of `threads.py`. A failure is written to the turn's log, because a claimed turn
needs an end.
"""

import contextlib
import os
import socket
import subprocess
from pathlib import Path

from ..claude import command
from ..claude.command import TurnRequest
from ..claude.eventlog import append_events, build_ending
from ..claude.events import Event
from ..claude.runner import SILENCE_SECONDS
from ..claude.runner_job import RunnerJob
from ..config.model import ChatSettings
from ..isolated import isolated_command
from .store import Store

LOOPBACK = "127.0.0.1"
_BUSY = ("busy", "another turn of this session is running", "wait for it or cancel it, then send with a new id")

Started = tuple[subprocess.Popen[bytes], socket.socket]


def launch(
    settings: ChatSettings,
    store: Store,
    request: TurnRequest,
    turn_dir: Path,
    refusal: tuple[str, str, str] | None,
) -> Started | None:
    """Claim a turn unless it exists, and start its runner or write why not. Raises SessionsUnwritable."""
    first: Event = {"type": "session", "n": 1, "id": request.sid, "turn": request.turn, "resumed": request.resume}
    if refusal is None and request.resume and store.is_locked(request.sid):
        refusal = _BUSY
    if refusal is None or request.resume:  # a session that never began can't be continued
        first["session"] = request.token
    if refusal is not None:
        store.refuse(request.caller, turn_dir, request.metadata, [first, *build_ending(*refusal, 2)])
        return None
    log = store.claim(turn_dir, request.metadata, first)
    return None if log is None else _launch(settings, store, request, turn_dir, log)


def _launch(
    settings: ChatSettings,
    store: Store,
    request: TurnRequest,
    turn_dir: Path,
    log: int,
) -> Started | None:
    """Start the runner of a turn. Closes `log`, which the runner inherits."""
    lock = transcript = None
    try:
        lock = store.lock(request.sid)
        if lock is None:  # another turn of the session began in this moment
            append_events(log, build_ending(*_BUSY, 2))
            return None
        store.save_proposals(lock, turn_dir, request.still_open)
        work = store.make_work_dir(turn_dir)
        job = command.prepare_job(settings, request, work)
        transcript = store.open_transcript(request.sid)
        job = job._replace(**transcript._asdict())
        job = job._replace(cancel=str(turn_dir / "cancel"), silence_seconds=SILENCE_SECONDS)
        with command.listen_for_commands(work) as listener:
            return start_runner(job, log, lock, listener)
    except Exception as error:  # a full disk, a missing user, a defect of ours
        hint = "check [chat] and the handler's log; the power verbs don't need claude"
        with contextlib.suppress(OSError):  # each reader of the log tries to write an ending, too
            append_events(log, build_ending("claude-crashed", f"the turn could not be started: {error!r}", hint, 2))
        return None
    finally:
        if transcript is not None:
            transcript.close()
        for fd in (log, lock):
            if fd is not None:
                os.close(fd)


def start_runner(job: RunnerJob, log: int, lock: int, listener: socket.socket | None = None) -> Started:
    """Start the runner. It serves claude's commands on `listener`.

    The job goes through a file in memory, which can't block and which `ps` does not show. The runner serves the model's
    API to claude on a socket that is made here, because the runner's modules have to load fast.
    """
    control, theirs = socket.socketpair()
    job_file = os.fdopen(os.memfd_create("job"), "w+b")
    with job_file as standard_input, theirs, socket.create_server((LOOPBACK, 0)) as api_listener:
        job = job._replace(log=log, lock=lock, control=theirs.fileno(), api_listener=api_listener.fileno())
        url = f"http://{LOOPBACK}:{api_listener.getsockname()[1]}"
        job = job._replace(env={**job.env, "ANTHROPIC_BASE_URL": url})
        if listener is not None:
            job = job._replace(listener=listener.fileno())
        standard_input.write(job.to_json())
        standard_input.seek(0)
        process = subprocess.Popen(
            isolated_command("claude.runner"),
            stdin=standard_input,
            stdout=subprocess.DEVNULL,
            env={},
            cwd="/",
            pass_fds=job.descriptors,
            start_new_session=True,
        )
    return process, control
