"""Processes that no caller waits for. A defect in one of them leaves a line in the journal."""

import socket
from collections.abc import Iterator

import pytest

from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import constants_set, execute, journal_of, received
from ..support.stages import await_agents

pytestmark = [pytest.mark.real("qemu"), pytest.mark.shared("world")]


@pytest.fixture
def journal(world: World) -> Iterator[socket.socket]:
    """The host's /dev/log, once no job of an earlier test writes there."""
    await_agents(world)
    with journal_of(world) as log:
        yield log


# The function of the host agent that has the defect, the request, and the words of the line in the journal.
DEFECTS = {
    "_complete": ("reset id=msg_with_a_defect", f"vm={VMID} job=msg_with_a_defect"),
    "_match_disk": ("status by=doc proves=doctor", "archive_proven"),
    "_sync": ("reset id=not-archived-1", "archive_request"),
    "prune_run": ("reset id=not-tidied-1", "tidy_run"),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_in_the_journal(world: World, journal: socket.socket, name: str) -> None:
    """The line says where the defect is, is short and escaped, and only the job with a defect has no result."""
    line, words = DEFECTS[name]
    defect = f'def defect(*_):\n    raise KeyError("\\udcff" + "x" * 5000)\n\n\nreplace({name}=defect)'
    with constants_set(world, defect):
        code = execute(world, line).code
        await_agents(world)
    [logged] = [each for each in received(journal) if "KeyError" in each]
    assert f"{words}: KeyError: " in logged
    assert len(logged) < 500
    archived = world.root / f"var/lib/breakglass/{VMID}/jobs/not-tidied-1/result.json"
    assert (code == 0) == (name != "_complete")
    assert name != "prune_run" or archived.exists()
