"""Starts a turn in its sandbox: reads its job, writes its files, starts claude, then the model proxy.

It imports little, so that claude starts early. The module that supervises the turn (worker.py) is loaded while claude
starts.
"""

import json
import os
import socket
import subprocess
import sys

from . import wall
from .command import Started, build_arguments, build_environment, write_files
from .job import Job, encode_line, parse_job


def main() -> None:
    """Read a job from standard input and run its turn. For a probe, print its answer."""
    h11, program, probe, job_bytes, transcript_bytes = sys.argv[1:]
    if probe:
        from .probe import look

        print(json.dumps(look(program, probe)))  # noqa: T201  # to the program of the turn
        return
    channel = socket.socket(fileno=os.dup(0))
    job, transcript = parse_job(_receive(channel, int(job_bytes))), _receive(channel, int(transcript_bytes))
    write_files(job, transcript)
    started = _start(job, program, h11)
    import asyncio

    from .worker import supervise

    asyncio.run(supervise(job, len(transcript), started, channel))


def _receive(channel: socket.socket, size: int) -> bytes:
    data = channel.recv(size, socket.MSG_WAITALL) if size else b""
    if len(data) < size:
        sys.exit(1)  # the handler has closed the socket
    return data


def _start(job: Job, program: str, h11: str) -> Started:
    commands, model = _listen(wall.COMMANDS), _listen(wall.MODEL)
    with model:
        return Started(_start_claude(job, program), _start_proxy(job, model, h11), commands)


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    return listener


def _start_claude(job: Job, program: str) -> "subprocess.Popen[bytes]":
    command, pipe = wall.claude_wall(program, build_arguments(job)), subprocess.PIPE
    with os.fdopen(os.memfd_create("prompt"), "w+b") as prompt:
        prompt.write(job.prompt.encode("utf-8", "surrogatepass"))
        prompt.seek(0)
        return subprocess.Popen(command, stdin=prompt, stdout=pipe, stderr=pipe, env=build_environment(job))


def _start_proxy(job: Job, listener: socket.socket, h11: str) -> "subprocess.Popen[bytes]":
    """Start the model proxy, the only process that has the credential."""
    program = wall.python_command("chat.proxy", str(listener.fileno()), library=h11)
    command, fds = wall.network_wall(program, [*wall.own_paths(), h11]), [listener.fileno()]
    proxy = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env={}, pass_fds=fds)
    assert proxy.stdin is not None
    with proxy.stdin:
        proxy.stdin.write(encode_line({"api": job.api._asdict(), "authorities": job.authorities}))
    return proxy
