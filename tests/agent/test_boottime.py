"""The host agent's tests on a machine that booted a minute ago. Tests that read an age also run with longer uptimes.

The age of ids, captures and locks is counted from the boot. A test that assumes a certain uptime passes on one machine
and fails on another, so these run in their own time namespaces (time_namespaces(7)). Nothing is older than the boot, so
the shortest uptime is the hardest. The tests without a host run with that one too.
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

# They read only ages that another file reads too, and would take several minutes for each uptime.
LEFT_OUT = {
    "test_boottime": "it is this file",
    "test_allow": "who may log in with which key",
    "test_check": "how the host is set up",
    "test_picture": "the picture and its bound",
    "test_unfriendly_account": "what the account's files do to the agent",
    "test_kill_sweep": "processes that are killed, stage by stage",
    "test_nights": "the order in which tasks of Proxmox end",
    "test_qm_modes": "the ways in which `qm` fails",
    "test_changed_meanwhile": "the order in which things change",
    "test_standin": "the stand-in for Proxmox, not the agent",
    "test_hung_host_over_ssh": "a hung host in real seconds, by a clock that no namespace shifts here",
}
# They read the age of ids, captures, records, processes or lines.
AGES = {"test_agent", "test_aliases", "test_archive", "test_proven", "test_too_late"}

pytestmark = [pytest.mark.real("timens"), pytest.mark.slow, pytest.mark.all, pytest.mark.first]


def in_namespace(uptime: float) -> list[str]:
    """Return a command that runs another one on a machine with this uptime in seconds."""
    offset = round(uptime - time.clock_gettime(time.CLOCK_BOOTTIME))
    return ["unshare", "--time", "--fork", "--kill-child", "--boottime", str(offset)]


def chosen(is_youngest: bool) -> list[str]:
    """Return the files to run. Each file that LEFT_OUT or AGES names must exist."""
    files = {path.stem: path for each in ("agent", "unit") for path in (TESTS / each).glob("test_*.py")}
    assert LEFT_OUT.keys() | AGES <= files.keys()
    names = files.keys() - LEFT_OUT.keys() if is_youngest else AGES
    return [str(files[name]) for name in sorted(names)]


@pytest.mark.parametrize("uptime", UPTIMES)
def test_the_agents_tests_hold_whatever_the_uptime(uptime: str) -> None:
    """All of them pass with every uptime."""
    namespace = in_namespace(UPTIMES[uptime])
    others = ("PYTEST_", "BREAKGLASS_COVERAGE", "BREAKGLASS_TEST")  # with few generated examples and without coverage
    environment = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile"]
    command = [*namespace, *pytest_command, "-m", "not all", *chosen(uptime == next(iter(UPTIMES)))]
    ran = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert ran.returncode == 0, ran.stdout[-8000:]
