"""`./dev faults` finds what it looks for. It is tried with a defect and without one."""

from collections.abc import Iterator

import pytest

from breakglass.demo.proxmox.world import World

from ..bench.faults import Case, record, run, watched_world
from ..support.agent import constants_set

pytestmark = [pytest.mark.real("qemu", "strace"), pytest.mark.slow, pytest.mark.all]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with watched_world() as world:
        yield world


@pytest.fixture(scope="module")
def sites(world: World) -> list[Case]:
    """Each call of a cycle that can be killed, at its first arrival."""
    found = record(world, "cycle")
    return [Case("cycle", site, arrivals[0], call, "SIGKILL") for (site, call), arrivals in found.items()]


@pytest.mark.parametrize(
    ("code", "outcome", "broken"),
    [("", "done", []), ("replace(stand_by=lambda job: None)", "failed", ["failed stranded: the VM is left off"])],
    ids=["sound", "without-a-standby"],
)
def test_a_stranded_vm_is_found(world: World, sites: list[Case], code: str, outcome: str, broken: list[str]) -> None:
    """A cycle that is killed at a fork of its start ends well. Without a standby process, it would not."""
    fork = next(each for each in sites if each.call == "clone" and "power/start.py" in each.site)
    with constants_set(world, code):
        assert run(world, fork, f"killed-{outcome}") == ("hit", outcome, broken)


def test_a_job_that_cannot_read_its_start_time_does_nothing(world: World, sites: list[Case]) -> None:
    """Otherwise the job would look killed, and its answer would say so while it acts."""
    read = next(each for each in sites if each.call == "openat" and each.site.startswith("host/paths.py"))
    assert run(world, read._replace(how="EMFILE"), "no-start-time") == ("hit", "failed", [])
