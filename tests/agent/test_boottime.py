"""The host agent's tests on a machine that started a minute ago, yesterday, and more than a year ago.

Ids, captures and locks are as old as the clock of the boot says. A test that takes that clock for granted passes on
one machine and fails on another, so all of them run in time namespaces of their own (time_namespaces(7)).
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent.parent
FILES = (
    *("test_agent", "test_archive", "test_before_acting", "test_changed_meanwhile", "test_forensics", "test_given_up"),
    *("test_kill_sweep", "test_mended", "test_nights", "test_preflight", "test_qm_modes", "test_second_sources"),
    *("test_signals", "test_standin", "test_together", "test_unfriendly_host", "test_unfriendly_account"),
    *("test_verdict", "test_vmconfig"),
)
UPTIMES = {"a minute": 60, "30 hours": 30 * 3600, "400 days": 400 * 24 * 3600}

pytestmark = [pytest.mark.slow, pytest.mark.all]


def booted(seconds_ago: float) -> list[str]:
    """Return the command that runs another one on a machine which started so long ago."""
    offset = round(seconds_ago - time.clock_gettime(time.CLOCK_BOOTTIME))
    return ["unshare", "--time", "--boottime", str(offset)]


@pytest.mark.parametrize("uptime", UPTIMES)
def test_the_agents_tests_hold_whatever_the_uptime(uptime: str) -> None:
    """None of them depends on how long ago the machine that runs them was started."""
    namespace = booted(UPTIMES[uptime])
    if subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("this kernel, or this user, can't make a time namespace")
    chosen = [name for name in (HERE / f"{name}.py" for name in FILES) if name.exists()]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COVERAGE_"))}
    command = [*namespace, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, chosen)]
    ran = subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-8000:]
