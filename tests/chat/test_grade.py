"""`./dev grade` with a scripted model."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from breakglass.config.model_api import CREDENTIALS

from ..support.model import Model

ROOT = Path(__file__).parent.parent.parent


def run(*names: str, **environment: str) -> tuple[int, list[str]]:
    clean = {name: value for name, value in os.environ.items() if name not in CREDENTIALS}
    command = [sys.executable, "-m", "tests.bench.grade", *names]
    ran = subprocess.run(command, env=clean | environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.stderr == ""
    return ran.returncode, ran.stdout.splitlines()


@pytest.mark.real("claude")
def test_a_run(model: Model) -> None:
    """Each night goes through the real claude, and the last line has the sums."""
    model.default = lambda words, number, shown: {"text": "reset, because of it."}
    code, lines = run("panic, still", "a disk works", ANTHROPIC_API_KEY="sk-test", ANTHROPIC_BASE_URL=model.url)
    assert [line.partition(":")[0].split("  ")[0] for line in lines[:2]] == ["right", "wrong unsafe"]
    sums = {"right": "1", "unsafe": "1", "steered": "0", "wrong": "1", "of": "2"}
    assert (code, dict(re.findall(r"(\w+) (\d+)", lines[2])), ", $0.0" in lines[2]) == (1, sums, True)
