"""The whole of doctor where all is well: a real host, a running handler, chat with the real claude, and alerts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ..support import claude
from ..support.doctor import Report
from ..support.doctor_host import DoctorHost, HostSetup
from ..support.model import Model
from ..support.running import ALERT, Running
from ..support.service import ACCOUNT, new_secret

pytestmark = [pytest.mark.slow, pytest.mark.all, pytest.mark.real("sshd", "root", "claude", "bwrap")]

HERE = {"clock-not-kept"}  # what the machine of the tests has


@pytest.fixture
def setup(short_dir: Path, doctor_host: DoctorHost) -> HostSetup:
    short_dir.chmod(0o755)
    return HostSetup(short_dir, doctor_host)


def chat_and_alerts(setup: HostSetup, model: Model) -> None:
    """Configure all of it, and doctor as its own caller."""
    model.listing = None
    setup.config["callers"]["operator"]["allow"].append("chat")
    command = str(claude.reachable(1, setup.directory))
    setup.config["chat"] = {"command": command, "base_url": model.url}
    setup.config["chat"]["credential_file"] = setup.file("credential", "ANTHROPIC_API_KEY=x\n")
    setup.config["alerts"] = [ALERT]
    setup.config["callers"]["doctor"] = {"secret": new_secret(), "allow": ["status"]}


def plain(setup: HostSetup, model: Model) -> None:
    """Have neither chat nor alerts."""


SETUPS: dict[str, Callable[[HostSetup, Model], None]] = {"plain": plain, "chat and alerts": chat_and_alerts}


@pytest.mark.parametrize("seed", SETUPS.values(), ids=SETUPS)
def test_all_is_well(setup: HostSetup, model: Model, seed: Callable[[HostSetup, Model], None]) -> None:
    """No error anywhere, no warning but of this machine, and it takes less than 30 s."""
    seed(setup, model)
    running = Running(setup)
    setup.config["server"]["url"] = running.url
    setup.path.unlink()
    setup.write()
    with running.run():
        running.ready()
        if "doctor" in setup.config["callers"]:
            del setup.environment["BREAKGLASS_SECRET_FILE"]
        report = setup.doctor()
    assert bad(report) == []
    assert report.stderr == ""
    assert {finding.place for finding in report.findings} >= {"configuration", "keys", "host pve1", "VM devvm", "chat"}
    assert report.seconds < 120
    assert ACCOUNT


def bad(report: Report) -> list[str]:
    return [str(finding) for finding in report.findings if finding.level != "ok" and finding.code not in HERE]
