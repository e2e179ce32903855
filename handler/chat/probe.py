"""Probes the sandboxes. It runs inside the outer sandbox, like a turn, and creates each inner one once."""

import subprocess
from collections.abc import Mapping, Sequence

from . import wall
from .turn import refuse_wall

SECONDS = 9.0


def look(program: str, kind: str) -> Mapping[str, object]:
    """Return the answer of a probe, in the format of job.py. `claude` also checks claude's program."""
    wall.make_places()
    for path in (wall.MODEL, wall.COMMANDS, wall.AGENTS):
        open(path, "w").close()
    try:
        _run(wall.network_wall(["/usr/bin/true"], []))
        _run(wall.claude_wall(wall.SHELL, [f"{wall.PYTHON} -IS -c ''"]))
    except (OSError, subprocess.SubprocessError) as error:
        return refuse_wall(_last_words(error))
    return {"fault": "", **(_look_at(program) if kind == "claude" else {})}


def _look_at(program: str) -> Mapping[str, object]:
    """Return what claude's program says about itself. It runs in its sandbox, without a network or a turn."""
    try:
        version, options = (_run(wall.claude_wall(program, [word])) for word in ("--version", "--help"))
    except (OSError, subprocess.SubprocessError) as error:
        return {"version": "", "options": "", "failed": _last_words(error)}
    return {"version": version.strip(), "options": options, "failed": ""}


def _run(command: Sequence[str]) -> str:
    env = {"PATH": wall.PATH, "HOME": wall.HOME, "DISABLE_AUTOUPDATER": "1"}
    null = subprocess.DEVNULL
    ran = subprocess.run(command, env=env, stdin=null, capture_output=True, timeout=SECONDS, check=True)
    return ran.stdout.decode("utf-8", "replace")


def _last_words(error: Exception) -> str:
    said = getattr(error, "stderr", b"") or b""
    return " ".join(said.decode("utf-8", "replace").split())[-300:] or str(error)
