"""`proves` and `proven` through the handler: from a signed request to the host's file, and back to /health."""

import asyncio
import json
from collections.abc import Iterator

import pytest

from breakglass.config.model import Address, Host
from breakglass.demo.proxmox.world import World
from breakglass.proxmox import keeping
from breakglass.proxmox.host import HostConnection

from ..conftest import connected
from ..support.service import Service
from ..support.sshd import Sshd
from ..support.stages import forget_proofs, until

pytestmark = [pytest.mark.real("sshd", "qemu"), pytest.mark.shared("world", "sshd")]
TOKEN = "bgt_" + "x" * 43
EXTRA = f"""
[vms.canary]
hosts = ["pve1"]
vmid = 102
drill = true

[callers.bot]
token = "{TOKEN}"
allow = ["status"]
"""


@pytest.fixture
def service(world: World, sshd: Sshd) -> Iterator[Service]:
    """A separate handler without earlier requests, and a host that was never proven."""
    forget_proofs(world)
    with connected(world.directory, sshd, EXTRA) as service:
        yield service


def in_health(service: Service) -> object:
    return service.health()["hosts"]["pve1"]["proven"]


@pytest.mark.all
def test_a_drill_and_a_doctor_are_told_on(service: Service) -> None:
    """The answer itself and each later one have the proof, and /health has it without the name.

    A request that attaches to an older job does not restore the older proof.
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
    assert in_health(service)["at"] >= doctor["proven"]["at"]  # type: ignore[index]


@pytest.mark.all
def test_a_handler_that_connects_hears_of_it(world: World, service: Service) -> None:
    """After a restart of the handler, no verb is needed."""
    proven = {"at": "2026-11-27T03:12:09Z", "by": "op", "how": "drill", "vm": 102}
    (world.root / "run/breakglass/proven.json").write_text(json.dumps(proven))
    service.stop()
    service.start()
    service.answering()
    assert in_health(service) == {"at": "2026-11-27T03:12:09Z", "how": "drill"}


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
        await asyncio.to_thread(until, lambda: host.health() == "answering", "a login")
        assert host.handshake.proven is None
        path.write_text(json.dumps({"at": "2026-11-27T03:12:09Z", "by": "op", "how": "drill", "vm": 102}))
        await asyncio.to_thread(until, lambda: host.handshake.proven, "news")
    finally:
        await host.close()
    assert host.handshake.proven == {"at": "2026-11-27T03:12:09Z", "by": "op", "how": "drill"}


@pytest.mark.all
def test_what_may_not_prove_sends_nothing(world: World, service: Service) -> None:
    """A VM without `drill = true`, another verb, an unknown word and a token's status can't prove a host."""
    before = world.pid
    refused = [
        service.pve("cycle", vm="devvm", proves="drill"),
        service.pve("reset", vm="canary", proves="drill"),
        service.pve("cycle", vm="canary", proves="test"),
        service.pve("status", vm="canary", proves="drill"),
        service.send(
            "POST",
            "/pve",
            b'{"verb":"status","vm":"canary","proves":"doctor"}',
            {"authorization": f"Bearer {TOKEN}"},
        ),
    ]
    assert [(reply.status, reply.json["error"]["code"]) for reply in refused] == [(400, "bad-request")] * 5
    assert (world.pid, in_health(service)) == (before, None)
    assert service.pve("status", vm="canary").json["last"] in ("none", "msg_drill_0001")
