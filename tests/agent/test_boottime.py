"""The host agent's tests on a machine that started a minute ago, yesterday, and more than a year ago.

The age of ids, captures and locks is counted from the boot. A test that assumes a certain uptime passes on one machine
and fails on another, so all of these files run in time namespaces of their own (time_namespaces(7)).
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FILES = [path for path in sorted(Path(__file__).parent.glob("test_*.py")) if path != Path(__file__)]
UPTIMES = {"a minute": 60, "30 hours": 30 * 3600, "400 days": 400 * 24 * 3600}

pytestmark = [pytest.mark.slow, pytest.mark.all]


def booted(seconds_ago: float) -> list[str]:
    """Return the command that runs another one on a machine which started so long ago."""
    offset = round(seconds_ago - time.clock_gettime(time.CLOCK_BOOTTIME))
    return ["unshare", "--time", "--boottime", str(offset)]


@pytest.mark.parametrize("uptime", UPTIMES)
def test_the_agents_tests_hold_whatever_the_uptime(uptime: str) -> None:
    """All of them pass, however long ago the machine was started."""
    namespace = booted(UPTIMES[uptime])
    if subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("this kernel, or this user, can't make a time namespace")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COVERAGE_"))}
    command = [*namespace, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, FILES)]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-8000:]
