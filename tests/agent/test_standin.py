"""The stand-in for Proxmox exits, prints and fails as Proxmox itself did when tests/data/qm.yaml was recorded."""

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from breakglass.demo.proxmox.world import VMID, World

from ..support import failing_tools
from ..support.pve_host import is_settled, restore
from ..support.qemu import leave_out_guest
from ..support.record_qm import said
from ..support.rows import each_row, read_rows
from ..support.stages import until

pytestmark = [pytest.mark.slow, pytest.mark.all, pytest.mark.usefixtures("own_tasks")]

SCALE = 50


@pytest.fixture(scope="module")
def world(directory: Path) -> Iterator[World]:
    """One host whose times are fifty times as short, and which has its hook script where the rows write it."""
    with closing(World(directory, scale=SCALE)) as world:
        leave_out_guest(world)
        snippets = world.root / "var/lib/vz/snippets"
        snippets.mkdir(parents=True)
        (snippets / "hook.sh").symlink_to(world.root / "hookscript")
        yield world


@each_row("row", read_rows("qm.yaml"))
def test_the_stand_in_says_what_proxmox_said(world: World, row: dict[str, Any]) -> None:
    """In each recorded situation, a command has the recorded exit code, stdout and stderr."""
    restore(world)
    environment = {
        "R": str(world.root),
        "FAILING_TOOLS": failing_tools.__file__,
        "PATH": f"{world.bin}:{os.environ['PATH']}",
    }
    place = row.get("stand_in", row.get("place", ""))
    settle = partial(until, partial(is_settled, world), "the end of the cleanup")
    answer = said(row["run"], place, settle, ["bash"], environment)
    assert answer == {key: row[key] for key in answer}


def test_the_stand_in_of_qemu_outlives_clients_that_leave(directory: Path) -> None:
    """As QEMU does. Some leave before the greeting, and others before the answer."""
    with closing(World(directory / "q", qemu="")) as world:
        assert world.qm("start", str(VMID)).returncode == 0
        for request in (b"", b'{"execute": "query-status"}\n') * 20:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(world.root / f"run/qemu-server/{VMID}.qmp"))
                client.sendall(request)
        assert world.monitor("query-status") == {"status": "running", "running": True}
