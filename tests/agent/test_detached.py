"""Processes that no caller waits for. A defect in one of them leaves a line in the journal."""

import select
import socket
from collections.abc import Iterator

import pytest

from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import agent_processes, constants_set, execute, journal_of
from ..support.stages import await_agents, until

pytestmark = [pytest.mark.real("qemu"), pytest.mark.shared("world")]


@pytest.fixture
def journal(world: World) -> Iterator[socket.socket]:
    """The host's /dev/log, once no job of an earlier test writes there."""
    await_agents(world)
    with journal_of(world) as log:
        yield log


def received(journal: socket.socket) -> list[str]:
    """Return the journal's lines so far."""
    lines = []
    while select.select([journal], [], [], 0)[0]:
        lines.append(journal.recv(65536).decode())
    return lines


def all_lines(world: World, journal: socket.socket) -> list[str]:
    """Return the journal's lines once each process of the host agent has ended."""
    until(lambda: agent_processes(world) == [], "the end of the host agent's processes")
    return received(journal)


def defect(name: str) -> str:
    """Return code that makes the host agent's function of this name raise a KeyError with a long text."""
    return f'def defect(*_):\n    raise KeyError("\\udcff" + "x" * 5000)\n\n\nreplace({name}=defect)'


def test_a_defect_in_a_job_is_in_the_journal(world: World, journal: socket.socket) -> None:
    """The line has the job's id. The id has no result, because the error is outside the code that would write one."""
    with constants_set(world, defect("_complete")):
        execute(world, "reset id=msg_with_a_defect")
    [line] = [line for line in all_lines(world, journal) if "KeyError" in line]
    assert f"vm={VMID} job=msg_with_a_defect: KeyError: " in line
    assert len(line) < 500


def test_a_defect_while_a_proof_is_copied_is_in_the_journal(world: World, journal: socket.socket) -> None:
    """A process that nothing waits for copies proven.json, so the journal is the only place for an error."""
    with constants_set(world, defect("_match_disk")):
        execute(world, "status by=doc proves=doctor")
    [logged] = [logged for logged in all_lines(world, journal) if "KeyError" in logged]
    assert "archive_proven: KeyError: " in logged
