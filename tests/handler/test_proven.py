"""`proves` and `proven` through the handler: from a signed request to the host's file, and back to /health."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from breakglass.config.model import Address, Host
from breakglass.demo.proxmox.world import World
from breakglass.proxmox import keeping
from breakglass.proxmox.host import HostConnection

from ..support.service import Service
from ..support.sshd import Sshd
from ..support.stages import forget_proofs, until_on_loop
from .conftest import handler

pytestmark = pytest.mark.real("sshd", "qemu")
EXTRA = """
[vms.canary]
hosts = ["pve1"]
vmid = 102
drill = true
"""


@pytest.fixture
def service(world: World, sshd: Sshd) -> Iterator[Service]:
    """A separate handler without earlier requests, and a host that was never proven."""
    forget_proofs(world)
    with handler(world.directory, sshd, extra=EXTRA) as service:
        yield service


def in_health(service: Service) -> Any:
    return service.health()["hosts"]["pve1"]["proven"]


@pytest.mark.all
def test_a_drill_and_a_doctor_are_told_on(service: Service) -> None:
    """The answer itself and each later one have the proof, and /health has it without the name.

    A request that attaches to an older job does not restore the older proof. A handler that connects hears of it.
    """
    first = service.pve("status", vm="devvm").json
    assert (first["proven"], in_health(service)) == (None, None)
    drill = service.pve("cycle", vm="canary", msg_id="msg_drill_0001", proves="drill").json
    assert drill["outcome"] == "done", drill
    assert {**drill["proven"], "at": ""} == {"at": "", "by": "operator", "how": "drill"}
    assert in_health(service) == {"at": drill["proven"]["at"], "how": "drill"}
    assert service.pve("status", vm="devvm").json["proven"] == drill["proven"]
    doctor = service.pve("status", vm="devvm", caller="viewer", proves="doctor").json
    assert {**doctor["proven"], "at": ""} == {"at": "", "by": "viewer", "how": "doctor"}
    attached = service.pve("cycle", vm="canary", msg_id="msg_drill_0001", proves="drill").json
    assert (attached["attached"], attached["proven"]) == (True, drill["proven"])
    assert in_health(service)["at"] >= doctor["proven"]["at"]
    service.stop()
    service.start()
    service.answering()
    assert in_health(service) == {"at": doctor["proven"]["at"], "how": "doctor"}


async def test_a_quiet_handler_hears_of_another_ones_drill(
    world: World, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without verbs, nothing comes over the connection for days, so the handler asks."""
    monkeypatch.setattr(keeping, "NEWS_SECONDS", 0.05)
    monkeypatch.setattr(keeping, "LOOK_SECONDS", 0.05)
    path = world.root / "run/breakglass/proven.json"
    forget_proofs(world)
    address = Address("breakglass", "127.0.0.1", sshd.port)
    host = HostConnection(Host("pve1", address, sshd.power_key, host_keys=(sshd.host_key,)))
    host.start()
    try:
        await until_on_loop(lambda: host.health() == "answering", "a login")
        assert host.handshake.proven is None
        path.write_text(json.dumps({"at": "2026-11-27T03:12:09Z", "by": "op", "how": "drill", "vm": 102}))
        await until_on_loop(lambda: host.handshake.proven, "news")
    finally:
        await host.close()
    assert host.handshake.proven == {"at": "2026-11-27T03:12:09Z", "by": "op", "how": "drill"}
