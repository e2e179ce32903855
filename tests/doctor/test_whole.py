"""The whole of doctor where all is well: a real host, a running handler, chat with the real claude, and alerts."""

from pathlib import Path

import pytest

from ..support import claude
from ..support.doctor_host import DoctorHost, HostSetup
from ..support.model import Model
from ..support.running import ALERT, Running
from ..support.service import new_secret

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


def test_all_is_well(setup: HostSetup, model: Model) -> None:
    """No error anywhere, and no warning but of this machine."""
    chat_and_alerts(setup, model)
    running = Running(setup)
    setup.config["server"]["url"] = running.url
    setup.path.unlink()
    setup.write()
    with running.run():
        running.ready()
        del setup.environment["BREAKGLASS_SECRET_FILE"]
        report = setup.doctor()
    assert [str(each) for each in report.findings if each.level != "ok" and each.code not in HERE] == []
    assert report.stderr == ""
    assert {finding.place for finding in report.findings} >= {"configuration", "keys", "host pve1", "VM devvm", "chat"}
