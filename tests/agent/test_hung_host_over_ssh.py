"""A failing host over a real sshd: /etc/pve does not answer, /var/lib is frozen, and no program can be executed."""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from breakglass.agents.pve.words import DEADLINES
from breakglass.demo.proxmox.world import World

from ..conftest import serving
from ..support.agent import READS, Answer, Session, answer_of, set_constants
from ..support.hung import frozen_ext4, seen_by_servers, unserved_fuse
from ..support.qemu import Witness
from ..support.sshd import Sshd

pytestmark = [pytest.mark.real("qemu", "sshd", "fuse", "fsfreeze"), pytest.mark.slow]


@pytest.fixture
def sshd() -> Iterator[Sshd]:
    """A host whose PATH is its own directory, so the agent can't execute other programs.

    Each test has its own host, because a copy to a frozen archive fails later, and the next results report that.
    """
    temporary = tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True)
    with temporary as directory, seen_by_servers(Path(directory)), closing(World(Path(directory))) as world:
        for name in ("df", "lvs", "journalctl"):
            (world.bin / name).symlink_to("/bin/true")
        world.begin()
        set_constants(world, DEADLINES=DEADLINES | READS)
        with serving(world, path=str(world.bin)) as server:
            yield server


def by_exec(sshd: Sshd, line: str) -> Answer:
    command = [*sshd.client(sshd.power_key), line]
    return answer_of(subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60))


def by_session(sshd: Sshd) -> Session:
    return Session(sshd.world, [*sshd.client(sshd.power_key), "session"])


def in_seconds(most: float, asking: Any) -> Any:
    """Return the answer. Fail if it took ten times the contract's limit, because a hang here would last for ever."""
    began = time.monotonic()
    answer = asking()
    assert time.monotonic() - began < 10 * most
    return answer


@contextmanager
def hung(world: World) -> Iterator[None]:
    image = world.directory / "ext4.img"
    with unserved_fuse(world.root / "etc/pve"), frozen_ext4(world.root / "var/lib", image):
        yield


@pytest.mark.all
def test_by_exec_on_a_hung_host(sshd: Sshd) -> None:
    """`status` takes 4 s at most, `forensics` 20 s, and QEMU itself confirms a reset."""
    with Witness(sshd.world) as qemu, hung(sshd.world):
        status = in_seconds(4, lambda: by_exec(sshd, "status"))
        assert (status.code, status.trailer["state"]) == (0, "running")
        capture = in_seconds(20, lambda: by_exec(sshd, "forensics id=hung-exec-1"))
        assert (capture.code, capture.trailer["screen"]) == (0, True)
        assert "== cluster (timed out" in capture.stdout
        assert all(f"== {probe} (" not in capture.stdout for probe in ("qm status", "rrddata", "pvesm"))  # would hang
        verdict = capture.trailer["verdict"]
        assert (verdict["code"], verdict["advice"]) == ("pmxcfs-hung", "")
        assert any("systemctl restart pve-cluster" in line for line in verdict["evidence"])
        assert by_exec(sshd, "reset id=hung-exec-2").code == 0
        assert qemu.wait("RESET")["reason"] == "host-qmp-system-reset"
        history = in_seconds(4, lambda: by_exec(sshd, "history"))
        assert history.trailer["jobs"][0]["id"] == "hung-exec-2"
        assert "/var/lib has not answered" in history.trailer["warnings"][0]
        refused = by_exec(sshd, "cycle id=hung-exec-3")
        assert (refused.code, refused.trailer["verdict"]["code"]) == (12, "pmxcfs-hung")


@pytest.mark.all
def test_by_session_when_every_executable_hangs(sshd: Sshd) -> None:
    """With its PATH on a file system that does not answer and its own file gone, the resident agent continues."""
    world = sshd.world
    with by_session(sshd) as session, Witness(world) as qemu:
        assert session.ask("ping")["quorum"] is True
        world.agent.rename(world.directory / "away")
        with unserved_fuse(world.bin), hung(world):
            assert in_seconds(4, lambda: session.ask("ping", 40))["quorum"] is False
            assert in_seconds(4, lambda: session.ask("status", 40))["state"] == "running"
            assert in_seconds(40, lambda: session.ask("reset id=no-exec-1"))["outcome"] == "done"
            assert qemu.wait("RESET")["guest"] is False
            assert session.ask("reset id=no-exec-1")["attached"] is True
            assert in_seconds(4, lambda: session.ask("status", 40))["last"] == "no-exec-1"
            stopped = in_seconds(120, lambda: session.ask("stop id=no-exec-2", 240))
            assert (stopped["outcome"], stopped["state"]) == ("done", "stopped")
