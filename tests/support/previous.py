"""The previous version of Breakglass, taken from git: its handler, and its host agent as its own code bundles it."""

import json
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PLACE = "agents/pve/words.py"  # the only line with the version
_TAKEN = ("agents", "handler", "static_site")
_PROGRAM = """\
import json, sys
sys.path.insert(0, sys.argv[1])
from agents.bundle import bundle
from agents.pve import words
print(json.dumps({"version": words.VERSION, "verbs": list(words.VERBS), "bundle": bundle()}))
"""


@dataclass(frozen=True)
class Previous:
    """A version before this one: its program files in a directory, and its host agent."""

    directory: Path
    version: str
    verbs: tuple[str, ...]  # those of its host agent
    bundle: str

    @property
    def digest(self) -> str:
        return sha256(self.bundle.encode()).hexdigest()


def find_previous(root: Path = ROOT) -> str:
    """Return the newest tag before this commit, or this commit if no version was released before it.

    Skips the test if there is no history.
    """
    if not _is_checkout(root):
        pytest.skip("this is no git checkout, so no older version can be taken from its history")
    if _git(root, "rev-parse", "--is-shallow-repository") != "false":
        pytest.skip("this clone is shallow, so it lacks the older versions: git fetch --unshallow --tags")
    # a tag of HEAD itself is this version
    return _git(root, "describe", "--tags", "--match", "v*", "--abbrev=0", "HEAD^") or "HEAD"


def take_previous(directory: Path) -> Previous:
    """Unpack the previous version into an empty directory, and bundle its host agent with its own code."""
    commit, packed = find_previous(), directory / "previous.tar"
    subprocess.run(["git", "-C", str(ROOT), "archive", f"--output={packed}", commit, *_TAKEN], check=True)
    with tarfile.open(packed) as archive:
        archive.extractall(directory, filter="data")
    command = [sys.executable, "-IS", "-c", _PROGRAM, str(directory)]
    made = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return Previous(directory, made["version"], tuple(made["verbs"]), made["bundle"])


def _is_checkout(root: Path) -> bool:
    """Tell whether git's history belongs to this directory, and not to one above it."""
    return _git(root, "rev-parse", "--show-toplevel") == str(root.resolve())


def _git(root: Path, *words: str) -> str:
    """Return what git answers, or an empty text if it fails or is not installed."""
    try:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
