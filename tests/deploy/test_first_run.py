"""`./dev` on a machine where .venv can't be made as usual, and what it says before it downloads."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ..support.locks import ROOT
from ..support.rows import each_row
from ..support.wheelhouse import wheelhouse

FILES = ("dev", "requirements.txt", "requirements-dev.txt", "requirements-claude.txt", "pyproject.toml")
FIRST = "the first run downloads 6 MB of Python packages into"
CLAUDE = (
    "for chat, it downloads claude while the demo runs, if a sandbox works here: 176 MB (382 MB on disk); "
    "--no-chat skips it"
)


def dev(
    *arguments: str, before: str = "", place: Path = ROOT, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run `bash dev` in a mount namespace, after some shell commands there that can use $place."""
    script = f'{before}\nexec bash "$place/dev" "$@"'
    return subprocess.run(
        ["unshare", "--mount", "bash", "-ec", script, "bash", *arguments],
        env={**os.environ, "BREAKGLASS_VENV": "", "place": str(place), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def fill(place: Path, options: str) -> str:
    """Return commands that put a checkout on its own file system, which is mounted with these options."""
    files = " ".join(str(ROOT / name) for name in FILES)
    return f'mount -t tmpfs place "{place}"; cp {files} "{place}"; mount -o remount,{options} "{place}"'


@pytest.mark.real("mounts")
@each_row(
    ("options", "words"),
    [("ro", "can't write to {place}, where {place}/.venv would be"), ("noexec", "{place} is mounted noexec")],
)
def test_a_home_that_takes_no_venv(tmp_path: Path, options: str, words: str) -> None:
    """The message names the reason and the variable, before anything is downloaded."""
    ran = dev("demo", before=fill(tmp_path, options), place=tmp_path)
    assert ran.returncode == 1
    assert words.format(place=tmp_path) in ran.stderr
    assert "BREAKGLASS_VENV=/var/tmp/breakglass-venv bash dev demo" in ran.stderr
    assert FIRST not in ran.stderr


@pytest.mark.real("mounts")
@pytest.mark.all
def test_a_venv_elsewhere(tmp_path: Path) -> None:
    """From a read-only checkout the demo's program is installed there; it says what it downloads before it does."""
    place, venv = tmp_path / "checkout", tmp_path / "venv"
    place.mkdir()
    ready = fill(place, "rw") + f'; cp -R {ROOT}/handler {ROOT}/agents {ROOT}/static_site {ROOT}/docs "$place"'
    ready += '; mount -o remount,ro "$place"'
    packages = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheelhouse()), "BREAKGLASS_VENV": str(venv)}
    ran = dev("demo", "--help", before=ready, place=place, **packages)
    assert (ran.returncode, "usage: breakglass demo" in ran.stdout) == (0, True), ran.stderr
    lines = ran.stderr.splitlines()
    assert lines[:3] == [
        f"dev: {FIRST} {venv}",
        f"dev: {CLAUDE}",
        f"dev: setting up {venv} from requirements.txt; this takes a moment once",
    ]
    again = dev("demo", "--help", "--no-chat", before=ready, place=place, **packages)
    assert (again.returncode, again.stderr) == (0, "")


@pytest.mark.real("mounts")
@pytest.mark.all
def test_a_temporary_directory_that_runs_no_program(tmp_path: Path) -> None:
    """The demo makes programs there, so it names the variable for another directory."""
    program = shutil.which("breakglass")
    assert program
    script = 'mount -t tmpfs -o noexec temporary "$TMPDIR"; exec "$0" demo --no-chat'
    ran = subprocess.run(
        ["unshare", "--mount", "bash", "-ec", script, program],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ran.returncode, "it is mounted noexec" in ran.stderr, "set TMPDIR" in ran.stderr) == (2, True, True)
