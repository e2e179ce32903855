"""The host agent's small files, which other processes read."""

import resource
from pathlib import Path

import pytest

from breakglass.agents.pve.host.paths import write_atomic


def test_a_full_disk_keeps_the_file_and_no_half_of_a_new_one(tmp_path: Path) -> None:
    """An incomplete draft would stay for ever, and each try would add one, because its name has a pid."""
    file = tmp_path / "probe"
    write_atomic(str(file), "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_atomic(str(file), "longer than four bytes")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [(each.name, each.read_text("utf-8")) for each in tmp_path.iterdir()] == [("probe", "old")]
