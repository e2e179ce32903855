"""Starts a turn behind its wall: reads its job, writes its files, starts claude, and then the model proxy.

It imports little, because claude starts meanwhile: what supervises the turn (worker.py) is loaded after that.
"""

import json
import os
import socket
import subprocess
import sys

from . import wall
from .command import Started, build_arguments, build_environment, write_files
from .job import Job, decode_piece, encode_line, parse_job


def main() -> None:
    """Run the turn whose job comes from standard input; or with a third argument that probe, and print its answer."""
    h11, program, probe = sys.argv[1:]
    if probe:
        from .probe import look

        print(json.dumps(look(program, probe)))  # noqa: T201  # to the program of the turn
        return
    channel = socket.socket(fileno=os.dup(0))
    job, transcript, rest = _read_job(channel)
    write_files(job, transcript)
    started = _start(job, program, h11)
    from .worker import supervise

    supervise(job, len(transcript), started, channel, rest)


def _read_job(channel: socket.socket) -> tuple[Job, bytes, bytes]:
    """Return the job, the transcript, and what came after them."""
    data = b""

    def read_line() -> bytes:
        nonlocal data
        while b"\n" not in data:
            piece = channel.recv(1 << 20)
            if not piece:
                sys.exit(1)  # the handler has gone
            data += piece
        line, _, data = data.partition(b"\n")
        return line

    job, transcript = parse_job(read_line()), bytearray()
    while len(transcript) < job.transcript:
        transcript += decode_piece(json.loads(read_line()))[1]
    return job, bytes(transcript), data


def _start(job: Job, program: str, h11: str) -> Started:
    commands, model = _listen(wall.COMMANDS), _listen(wall.MODEL)
    with model:
        if not os.access(program, os.X_OK):
            return Started(None, None, commands, f"{program} can't be run here")
        try:
            claude = _start_claude(job, program)
        except OSError as error:
            return Started(None, None, commands, str(error))
        return Started(claude, _start_proxy(job, model, h11), commands)


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
    """Start the process that alone has the credential."""
    program = wall.python_command("chat.proxy", str(listener.fileno()), library=h11)
    command, fds = wall.network_wall(program, [*wall.own_paths(), h11]), [listener.fileno()]
    proxy = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env={}, pass_fds=fds)
    assert proxy.stdin is not None
    with proxy.stdin:
        proxy.stdin.write(encode_line({"api": job.api._asdict(), "authorities": job.authorities}))
    return proxy
