"""Fixtures of doctor's tests: the process that runs it, and a good configuration."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.doctor import DoctorProcess, Setup
from ..support.doctor_host import DoctorHost


@pytest.fixture(scope="session")
def doctor_process() -> Iterator[DoctorProcess]:
    """A process that has loaded the command, and forks for each run."""
    process = DoctorProcess()
    try:
        yield process
    finally:
        process.close()


@pytest.fixture
def setup(short_dir: Path, doctor_process: DoctorProcess) -> Setup:
    """A good configuration with one host, on which nothing listens, and one VM."""
    return Setup(short_dir, doctor_process)


@pytest.fixture(scope="module")
def doctor_host() -> Iterator[DoctorHost]:
    """A Proxmox host for the tests of a file, which put back what they change there."""
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
        host = DoctorHost(Path(directory))
        yield host
        host.close()
