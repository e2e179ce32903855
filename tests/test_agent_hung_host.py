"""The riskiest assumption: the agent works while the host around it hangs."""

import os
import shutil

import pytest

from handler.demo.world import World

from .agent import Session, execute
from .hung import frozen_ext4, unserved_fuse
from .qemu import Witness

pytestmark = [pytest.mark.real("qemu", "fuse", "fsfreeze"), pytest.mark.slow]


def test_a_job_forked_from_the_session_resets_while_etc_pve_and_var_lib_hang(world: World) -> None:
    """A reset through a resident session reaches a real QEMU while /etc/pve and /var/lib answer nobody."""
    with (
        Session(world) as session,
        Witness(world) as qemu,
        unserved_fuse(world.root / "etc/pve"),
        frozen_ext4(world.root / "var/lib", world.directory / "ext4.img"),
    ):
        result = session.ask("reset id=hung-host-1 by=operator")
        assert (result["outcome"], result["state"]) == ("done", "running")
        assert qemu.wait("RESET")["reason"] == "host-qmp-system-reset"
        assert session.ask("reset id=hung-host-1")["attached"] is True
        assert session.ask("status")["state"] == "running"


def test_the_exec_road_resets_on_the_same_hung_host(world: World) -> None:
    """One process a verb does the same, when its own file can still be read."""
    with (
        Witness(world) as qemu,
        unserved_fuse(world.root / "etc/pve"),
        frozen_ext4(world.root / "var/lib", world.directory / "ext4.img"),
    ):
        assert execute(world, "status").trailer["state"] == "running"
        assert execute(world, "reset id=hung-host-2").code == 0
        assert qemu.wait("RESET")["guest"] is False


def test_the_session_resets_when_nothing_can_be_executed(world: World) -> None:
    """With the agent's own file, qm and the whole PATH gone, a resident session still resets and still answers."""
    with Session(world) as session, Witness(world) as qemu:
        assert session.ask("ping")["quorum"] is True
        shutil.rmtree(world.bin)
        os.unlink(world.agent)
        assert session.ask("reset id=nothing-left-1")["outcome"] == "done"
        assert qemu.wait("RESET")["guest"] is False
        assert session.ask("status")["state"] == "running"
