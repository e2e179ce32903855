"""The pinned real `claude`, and a path at which a user can run it."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path


def find() -> Path | None:
    """Return the binary that the claude-agent-sdk wheel brings, without importing that package."""
    spec = importlib.util.find_spec("claude_agent_sdk")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(place) / "_bundled/claude"
        if binary.is_file():
            return binary
    return None


def reachable(uid: int, directory: Path) -> Path:
    """Return a path at which a user can run the binary: its own path, or a link or copy in `directory`."""
    binary = find()
    assert binary is not None
    if subprocess.run(["test", "-x", binary], user=uid, group=uid, extra_groups=(), check=False).returncode == 0:
        return binary
    place = directory / "claude"
    try:
        os.link(binary, place)
    except OSError:
        shutil.copy(binary, place)
    return place
