"""POST /pve with `screen`: the answer, who may have it, and that a picture leaves nothing behind."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from breakglass.agents.pve.words import DEADLINES
from breakglass.client import new_id
from breakglass.demo.proxmox.world import World

from ..agent.test_picture import decode
from ..support.agent import READS, constants_set
from ..support.service import Reply, Service
from ..support.sshd import Sshd
from ..support.stages import memory
from .conftest import handler

pytestmark = [pytest.mark.real("sshd", "qemu"), pytest.mark.shared("world", "sshd")]

# A busy machine draws late. The handler waits 25 s for the first message.
PATIENT = {"DRAW_SECONDS": 18.0, "ASK_SECONDS": 22.0, "DEADLINES": DEADLINES | READS}


@pytest.fixture(scope="module")
def service(directory: Path, shared_world: World, shared_sshd: Sshd) -> Iterator[Service]:
    """A handler whose host has time for a picture."""
    with constants_set(shared_world, **PATIENT), handler(directory, shared_sshd) as service:
        yield service


def png_of(reply: Reply) -> bytes:
    """Return the picture of an answer."""
    body = reply.json
    seen = {name: body[name] for name in ("outcome", "reached", "exit_code", "state", "stage", "screen", "verdict")}
    known = {"outcome": "done", "reached": True, "exit_code": 0, "state": "running", "stage": "screen", "screen": True}
    assert seen == known | {"verdict": None}, body
    return base64.b64decode(body["screen_png"])


def test_the_answer_has_the_picture(service: Service, world: World) -> None:
    """The picture comes in base64 with its time, as one object and as lines.

    The host remembers nothing, and the log has a line for each request.
    """
    ids, before = [new_id(), new_id()], service.pve("history").json
    reply = service.pve("screen", msg_id=ids[0], reason="to see it")
    decode(png_of(reply))
    body = reply.json
    assert (body["id"], body["by"], body["last"], body["deadline"]) == (ids[0], "operator", before["last"], None)
    assert body["guest"] is None
    assert body["started"].endswith("Z")
    lines = service.pve("screen", msg_id=ids[1], stream=True).lines
    assert [line["type"] for line in lines if line["type"] != "ping"] == ["accepted", "output", "result"]
    decode(base64.b64decode(lines[-1]["screen_png"]))
    assert service.pve("history").json["jobs"] == before["jobs"]
    assert not any(memory(world, "jobs", each).exists() for each in ids)
    log = [json.loads(line) for line in service.logged(*ids).splitlines()]
    assert [(line["verb"], line["outcome"]) for line in log if line.get("id") in ids] == [("screen", "done")] * 2


def test_callers_share_a_picture_and_each_has_its_own_answer(service: Service) -> None:
    """Each answer is about the caller's own request. A caller who may take captures may look."""
    replies = service.together([{"verb": "screen", "caller": caller} for caller in ("operator", "viewer")])
    assert [reply.json["by"] for reply in replies] == ["operator", "viewer"]
    assert png_of(replies[0]) == png_of(replies[1])
