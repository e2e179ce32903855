"""A host that someone has taken over delays no verb on another host and takes no memory. Its session is closed."""

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ..bench.client import resident_kib
from ..support.hostile import ATTACKS, HostileHost, hostile_host
from ..support.service import Service, read_reply
from ..support.sshd import Sshd
from ..support.stages import until

pytestmark = [pytest.mark.real("sshd"), pytest.mark.shared("world", "sshd")]

MOST_MIB = 200  # ten seconds of an attack took 500 and more


@pytest.fixture(scope="module")
def evil(directory: Path) -> Iterator[HostileHost]:
    with hostile_host(directory / "evil") as host:
        yield host


def floods(service: Service) -> list[dict[str, Any]]:
    """Return the log's lines of connections that were closed because the host sent too much."""
    lines = map(json.loads, service.log().splitlines())
    return [line for line in lines if line["event"] == "host-down" and "the host sent more than" in line["why"]]


@pytest.mark.all
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_host_delays_no_other(attack: str, evil: HostileHost, sshd: Sshd, short_dir: Path) -> None:
    """The honest host's verbs are done, and the hostile host's session is given up."""
    evil.attack(attack)
    service = Service(short_dir, port=sshd.port, key=sshd.power_key, host_key=[sshd.host_key], extra=evil.tables)
    resident, body = 0, b'{"verb": "status", "vm": "evilvm"}'
    with closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=120)) as asked:
        try:
            asked.request("POST", "/pve", body, service.signed(body) | {"prefer": "wait=90"})  # is tried for 20 s
            until(lambda: floods(service), "the end of the connection")
            for _ in range(20):
                assert service.pve("status", vm="devvm").json["outcome"] == "done"
                resident = max(resident, resident_kib(service.process.pid))
            assert service.pve("reset", vm="devvm").json["outcome"] == "done"
            assert {flood["host"] for flood in floods(service)} == {"evil"}
        finally:
            service.stop()
        assert read_reply(asked, "POST").json["outcome"] == "unknown"
    assert resident < MOST_MIB * 1024
