"""Fixtures of doctor's tests: a good configuration, and a host."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.doctor import Setup
from ..support.doctor_host import DoctorHost


@pytest.fixture
def setup(short_dir: Path) -> Setup:
    """A good configuration with one host, on which nothing listens, and one VM."""
    return Setup(short_dir)


@pytest.fixture(scope="module")
def doctor_host() -> Iterator[DoctorHost]:
    """A Proxmox host for the tests of a file, which put back what they change there."""
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
        host = DoctorHost(Path(directory))
        yield host
        host.close()
