"""Runs `breakglass chat` as its own process against a test's handler."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from breakglass.cli.main import main

from .talk import Talker


def environment(talker: Talker, url: str = "") -> dict[str, str]:
    """Return the variables of an operator's shell."""
    return {
        "BREAKGLASS_URL": url or f"http://127.0.0.1:{talker.port}",
        "BREAKGLASS_SECRET": talker.secrets["operator"],
        "XDG_STATE_HOME": str(talker.directory / "state"),
    }


@contextlib.contextmanager
def terminal(talker: Talker) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "breakglass", "chat"],
        env={**os.environ, **environment(talker)},
        cwd=talker.directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def seen_until(process: "subprocess.Popen[bytes]", words: str) -> str:
    assert process.stdout is not None
    seen = b""
    while words.encode() not in seen:
        piece = os.read(process.stdout.fileno(), 4096)
        assert piece, seen
        seen += piece
    return seen.decode()


def typed(talker: Talker, *lines: str, options: tuple[str, ...] = (), url: str = "") -> tuple[int, str]:
    """Type lines into a terminal of this process, and leave. Return the exit code and the terminal's text."""
    seen = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(seen), contextlib.redirect_stderr(seen):
        for name, value in environment(talker, url).items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["breakglass", "chat", *options])
        patch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return main(), seen.getvalue()
