"""The host agent's tests that read an age, on a machine that booted a minute ago, and with longer uptimes.

The age of ids, captures and locks is counted from the boot. A test that assumes a certain uptime passes on one machine
and fails on another, so these run in their own time namespaces (time_namespaces(7)). Nothing is older than the boot, so
the shortest uptime is the hardest.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
UPTIMES = {"a minute": 60, "30 hours": 30 * 3600, "400 days": 400 * 24 * 3600}
SECONDS = 900  # the first run takes about a minute on two cores
# They read the age of ids, captures, records, processes or lines.
AGES = ("test_agent", "test_aliases", "test_archive", "test_proven", "test_too_late")

pytestmark = [pytest.mark.real("timens"), pytest.mark.slow, pytest.mark.all, pytest.mark.first]


def in_namespace(uptime: float) -> list[str]:
    """Return a command that runs another one on a machine with this uptime in seconds."""
    offset = round(uptime - time.clock_gettime(time.CLOCK_BOOTTIME))
    return ["unshare", "--time", "--fork", "--kill-child", "--boottime", str(offset)]


@pytest.mark.parametrize("uptime", UPTIMES)
def test_the_agents_tests_hold_whatever_the_uptime(uptime: str) -> None:
    """All of them pass with every uptime."""
    namespace = in_namespace(UPTIMES[uptime])
    others = ("PYTEST_", "BREAKGLASS_COVERAGE", "BREAKGLASS_TEST")  # with few generated examples and without coverage
    environment = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile"]
    files = [str(Path(__file__).with_name(f"{name}.py")) for name in AGES]
    command = [*namespace, *pytest_command, "-m", "not all", *files]
    ran = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert ran.returncode == 0, ran.stdout[-8000:]
