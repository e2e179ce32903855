"""Starts the runner of a turn, in a process of its own."""

import os
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from ..base.isolated import isolated_command
from ..config.model import ChatSettings
from .apart import run_apart
from .command import ClaudeTurn, listen_for_commands, prepare_job
from .runner import SILENCE_SECONDS
from .runner_job import RunnerJob

LOOPBACK = "127.0.0.1"
Account = tuple[int, int]  # user and group


class TurnFds(NamedTuple):
    """The descriptors that a runner inherits from the handler: the turn's log, its session's lock, and its control.

    Then the transcript: the file for the next one, its directory, and the last one, -1 where there is none.
    """

    log: int
    lock: int
    control: int
    target: int
    transcripts: int
    source: int = -1


def start_turn(
    settings: ChatSettings, turn: ClaudeTurn, work: Path, cancel: Path, fds: TurnFds, own: Account | None = None
) -> "subprocess.Popen[bytes]":
    """Write the files of a turn into its new directory, and start its runner. Raises OSError.

    With shared_uid, the runner becomes `own` first, where the handler's user is not this process's.
    """
    own = own if settings.shared_uid else None
    job = prepare_job(settings, turn, work, own and own[0])
    job = job._replace(cancel=str(cancel), silence_seconds=SILENCE_SECONDS, own=own or (), **fds._asdict())
    with listen_for_commands(work) as listener:
        if own:
            give_away(work, own)
        return start_runner(job, listener)


def give_away(directory: Path, own: Account) -> None:
    """Make a directory of ours, with all that is in it, belong to a user.

    What is in a directory goes first: its new owner could put a link to somewhere else in its place.
    """
    for path in sorted((directory, *directory.rglob("*")), reverse=True):
        os.chown(path, *own, follow_symlinks=False)


def listen_for_model(apart: bool) -> tuple[socket.socket, int]:
    """Return the socket on which claude asks the model, and the network namespace that it is in, -1 for our own.

    If `apart`, the namespace is a new one. Raises OSError.
    """
    return run_apart(listen) if apart else (listen(), -1)


def listen() -> socket.socket:
    """Return a socket that listens on loopback."""
    return socket.create_server((LOOPBACK, 0))


def start_runner(job: RunnerJob, listener: socket.socket | None = None) -> "subprocess.Popen[bytes]":
    """Start the runner of a job, which has its descriptors. It serves claude's commands on `listener`.

    The job goes through a file in memory, which can't block and which `ps` does not show. The runner serves the model's
    API to claude on a socket that is made here, because the runner's modules have to load fast.
    """
    api_listener, network = listen_for_model(bool(job.uids))
    with api_listener, ExitStack() as stack:
        if network >= 0:
            stack.callback(os.close, network)
        standard_input = stack.enter_context(os.fdopen(os.memfd_create("job"), "w+b"))
        url = f"http://{LOOPBACK}:{api_listener.getsockname()[1]}"
        env = {**job.env, "ANTHROPIC_BASE_URL": url}
        job = job._replace(api_listener=api_listener.fileno(), network=network, env=env)
        if listener is not None:
            job = job._replace(listener=listener.fileno())
        standard_input.write(job.to_json())
        standard_input.seek(0)
        return subprocess.Popen(
            isolated_command("claude.runner"),
            stdin=standard_input,
            stdout=subprocess.DEVNULL,
            stderr=1,  # the log: see logwriter.py
            env={},
            cwd="/",
            pass_fds=job.descriptors,
            start_new_session=True,
        )
