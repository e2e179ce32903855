"""POST /pve with `screen`: the answer, who may have it, and that a picture leaves nothing behind."""

import base64
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from breakglass.agents.pve.words import DEADLINES
from breakglass.client import new_id
from breakglass.demo.proxmox.world import VMID, World

from ..agent.test_picture import decode
from ..agent.test_screen import sockets
from ..conftest import connected
from ..support.agent import READS, set_constants
from ..support.alerting import TOKEN, send_with_token
from ..support.service import Reply, Service, new_secret
from ..support.signals import signal_process
from ..support.sshd import Sshd
from ..support.stages import until

pytestmark = [pytest.mark.real("sshd", "qemu"), pytest.mark.shared("world", "sshd")]

# A busy machine draws late. The handler waits 25 s for the first message.
PATIENT = {"DRAW_SECONDS": 18.0, "ASK_SECONDS": 22.0, "DEADLINES": DEADLINES | READS}
LOOKER = new_secret()
CALLERS = f"""
[callers.sender]
token = "{TOKEN}"
allow = ["forensics", "status"]
[callers.looker]
secret = "{LOOKER}"
allow = ["status", "history"]
"""


@pytest.fixture(scope="module")
def service(directory: Path, shared_world: World, shared_sshd: Sshd) -> Iterator[Service]:
    """A handler with two more callers: a token that may take captures, and a key that may not."""
    set_constants(shared_world, **PATIENT)
    with connected(directory, shared_sshd, CALLERS) as service:
        service.secrets["looker"] = LOOKER
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
    ids = [new_id(), new_id()]
    reply = service.pve("screen", msg_id=ids[0], reason="to see it")
    decode(png_of(reply))
    body = reply.json
    assert (body["id"], body["by"], body["last"], body["deadline"]) == (ids[0], "operator", "none", None)
    assert body["guest"] is None
    assert body["started"].endswith("Z")
    lines = service.pve("screen", msg_id=ids[1], stream=True).lines
    assert [line["type"] for line in lines if line["type"] != "ping"] == ["accepted", "output", "result"]
    decode(base64.b64decode(lines[-1]["screen_png"]))
    assert service.pve("history").json["jobs"] == []
    assert not (world.root / f"var/lib/breakglass/{VMID}").exists()
    log = [json.loads(line) for line in service.logged(*ids).splitlines()]
    assert [(line["verb"], line["outcome"]) for line in log if line.get("id") in ids] == [("screen", "done")] * 2


def test_callers_share_a_picture_and_each_has_its_own_answer(service: Service) -> None:
    """Each answer is about the caller's own request. A caller who may take captures may look."""
    replies = service.together([{"verb": "screen", "caller": caller} for caller in ("operator", "viewer")])
    assert [reply.json["by"] for reply in replies] == ["operator", "viewer"]
    assert png_of(replies[0]) == png_of(replies[1])


def test_who_may_not_take_captures_gets_no_picture(service: Service) -> None:
    """The answer names the missing permission."""
    reply = service.pve("screen", caller="looker")
    assert (reply.status, reply.json["error"]["code"]) == (403, "forbidden")
    assert reply.json["error"]["message"] == 'looker may not "forensics"'


def test_a_bearer_token_gets_no_picture(service: Service) -> None:
    """A bearer token gets no picture even if its entry allows captures."""
    reply = send_with_token(service, "/pve", {"verb": "screen"})
    assert (reply.status, reply.json["error"]["code"], reply.json["error"]["reached"]) == (403, "forbidden", False)
    assert reply.json["error"]["message"] == 'a request with a bearer token can\'t use "screen"; nothing was sent'
    assert send_with_token(service, "/pve", {"verb": "status"}).status == 200


@pytest.mark.all
def test_a_vm_that_is_wedged_is_said_in_a_few_seconds(service: Service, world: World) -> None:
    """The answer comes within seconds and names the state."""
    until(lambda: sockets(world) == 0, "the end of an earlier painter")
    signal_process(world.pid, signal.SIGSTOP)
    try:
        wedged = service.pve("screen")
    finally:
        signal_process(world.pid, signal.SIGCONT)
    until(lambda: sockets(world) == 0, "the end of its painter, from which the next test would get no picture")
    assert (wedged.status, wedged.json["state"], wedged.json["screen_png"]) == (200, "wedged", None)
    assert wedged.json["verdict"]["code"] == "no-picture"
