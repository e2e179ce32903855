"""`breakglass doctor` in a container: the user id that it has may have no account, no name and no home."""

import os
from pathlib import Path

import pytest

from ..support.doctor import DoctorProcess, found
from ..support.running import new_setup
from ..support.sshd import Sshd

pytestmark = [
    pytest.mark.real("sshd"),
    pytest.mark.real("root"),
    pytest.mark.shared("world", "sshd"),
    pytest.mark.slow,
]
NO_ACCOUNT = 2147480000


def test_an_id_without_an_account_logs_in(short_dir: Path, doctor_process: DoctorProcess, shared_sshd: Sshd) -> None:
    """Asyncssh asks for the user's name and home before it connects, although it needs neither."""
    setup = new_setup(short_dir, doctor_process, shared_sshd)
    setup.user = NO_ACCOUNT
    setup.write()
    for path in (short_dir, *short_dir.rglob("*")):
        os.chown(path, NO_ACCOUNT, NO_ACCOUNT)
        path.chmod(0o700 if path.is_dir() else 0o600)
    report = setup.doctor(places=["hosts", "configuration"])
    assert "can't be reached" not in report.stdout, report.stdout
    assert found(report.findings, "node-not-named").level == "ok"
