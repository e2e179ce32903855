"""Fixtures of doctor's tests: the process that runs it, and a good configuration."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.doctor import DoctorProcess, Setup


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
