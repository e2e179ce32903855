"""Starts a turn's program, through systemd or directly, and builds its job."""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import socket
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..base import audit
from ..config.model import ChatSettings
from .brief import build_agents, list_tool_rules, list_verbs, render_ssh_files
from .job import Job, Line, Opening, encode_opening
from .output import parse_line
from .request import TurnRequest
from .wall import SSH, starter_command

READ_BYTES = 64 * 1024
RESTART = "systemctl restart breakglass-chat.socket"
PROBE_SECONDS = 20.0  # longer than a probe takes
END_SECONDS = 1.0  # from the last event to the end of the program
STDERR_BYTES = 4096
BRIEF = files("breakglass.agents") / "breakglass.md"
_ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
_UNSAVED = "[From breakglass, not from the operator. Nothing that was said in this session before this was saved.]\n\n"


@contextlib.asynccontextmanager
async def open_channel(path: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Start a turn's program through systemd's socket, or directly, and end it on exit. Raises OSError."""
    if path:
        reader, writer = await asyncio.open_unix_connection(path, limit=READ_BYTES)
        program = None
    else:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                channel = theirs.fileno()
                # not the handler's log or terminal, because a process in a sandbox could open those again
                streams: dict[str, Any] = {"stdin": channel, "stdout": channel, "stderr": PIPE}
                program = await asyncio.create_subprocess_exec(
                    *starter_command(), **streams, env=_ENV, cwd="/", start_new_session=True
                )
            except BaseException:
                ours.close()
                raise
        saying = asyncio.create_task(_read_last(program.stderr))
        reader, writer = await asyncio.open_connection(sock=ours, limit=READ_BYTES)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        if program is not None:
            await asyncio.shield(_end(program, saying))


async def _read_last(stream: asyncio.StreamReader | None) -> bytes:
    said = b""
    while stream is not None and (piece := await stream.read(READ_BYTES)):
        said = (said + piece)[-STDERR_BYTES:]
    return said


async def _end(program: Process, saying: asyncio.Task[bytes]) -> None:
    """Wait for a program whose socket was closed; kill it if it does not end. Its sandboxes end with it.

    Its stderr goes to the log, because a turn writes there only if it has a defect.
    """
    try:
        async with asyncio.timeout(END_SECONDS):
            await program.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            program.kill()
        await program.wait()
    with contextlib.suppress(TimeoutError):
        said = await asyncio.wait_for(saying, END_SECONDS)
        if said:
            audit.note("turn-stderr", error=said.decode("utf-8", "replace"))


async def ask_probe(path: str, claude: str, probe: str = "wall") -> Line:
    """Return a probe's answer about the place where turns run. Raises OSError, TimeoutError, ValueError."""
    async with asyncio.timeout(PROBE_SECONDS), open_channel(path) as (reader, writer):
        writer.write(encode_opening(Opening(claude, probe)))
        return parse_line(await reader.readline())


def find_program(settings: ChatSettings) -> str:
    """Return the resolved path of claude's program. If there is none, return a path that does not exist.

    Without `chat.command`, the program can also be that of requirements-claude.txt.
    """
    bundled = find_bundled() if settings.command == ChatSettings.command else None
    found = shutil.which(settings.command) or bundled or os.path.join("/nonexistent", settings.command)
    return os.path.realpath(found)


def find_bundled() -> Path | None:
    """Return the program in the wheel of claude-agent-sdk, if it is installed beside this program."""
    importlib.invalidate_caches()  # because the module may have just been installed
    spec = importlib.util.find_spec("claude_agent_sdk")
    bundled = (Path(place) / "_bundled/claude" for place in (spec.submodule_search_locations or ())) if spec else ()
    return next(filter(Path.is_file, bundled), None)


def build_job(settings: ChatSettings, request: TurnRequest, transcript: int) -> Job:
    """Return the job of a turn. `transcript` is its transcript's size in bytes. Blocks; raises OSError."""
    vm = replace(request.vm, guest=None) if request.tools else request.vm
    is_begun_again = request.resume and not transcript
    return Job(
        vm=vm.name,
        sid=request.sid,
        resume=request.resume and not is_begun_again,
        prompt=(_UNSAVED if is_begun_again else "") + request.outcomes + request.prompt,
        agents=build_agents(BRIEF.read_text(encoding="utf-8"), vm, request.tools),
        rules=list_tool_rules(vm, request.tools),
        verbs=list_verbs(request.tools),
        api=settings.api,
        env=settings.env,
        ssh_files=render_ssh_files(vm, SSH),
        authorities=Path(settings.api.ca_file).read_text(encoding="utf-8") if settings.api.ca_file else "",
        turn_seconds=settings.turn_seconds,
    )
