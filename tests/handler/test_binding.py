"""A request that names its handler in `to` is valid only at that handler."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from breakglass.demo.proxmox.world import World

from ..support.scripted import DONE, Scripted, result, scripted_host
from ..support.service import Service, new_secret
from ..support.sshd import Sshd

ROOT = Path(__file__).parent.parent.parent
A, B = "https://a.example/", "https://b.example/rescue/"
pytestmark = [pytest.mark.slow, pytest.mark.real("sshd")]


@pytest.fixture(scope="module")
def host(directory: Path) -> Iterator[tuple[World, Sshd]]:
    with scripted_host(directory) as host:
        yield host


@pytest.fixture(scope="module")
def world(host: tuple[World, Sshd]) -> World:
    return host[0]


@pytest.fixture(scope="module")
def handlers(host: tuple[World, Sshd]) -> Iterator[tuple[Service, Service, Service]]:
    """Two handlers with URLs, and one without. All have the same signing key and a VM with the same name."""
    world, sshd = host
    access: dict[str, Any] = {"port": sshd.port, "key": sshd.power_key, "host_key": [sshd.host_key]}
    access["secrets"] = {"operator": new_secret()}
    with contextlib.ExitStack() as stack:
        started = []
        for urls in ((A,), (B, "https://B.example:8443"), ()):
            started.append(Service(world.directory, **access, urls=urls))
            stack.callback(started[-1].stop)
        for each in started:
            each.answering()
        yield started[0], started[1], started[2]


@pytest.fixture
def script(world: World) -> Scripted:
    script = Scripted(world)
    script.say([("reset", DONE), ("", [result(jobs=[])])])
    return script


def test_what_was_signed_for_one_handler_is_refused_by_another(
    handlers: tuple[Service, Service, Service], script: Scripted
) -> None:
    """A request to A is replayed unchanged to B. B's host gets no line."""
    a, b, _ = handlers
    body = json.dumps({"verb": "reset", "vm": "devvm", "to": A}).encode()
    headers = a.signed(body)
    assert a.send("POST", "/pve", body, headers).json["outcome"] == "done"
    assert len(script.asked("reset")) == 1
    script.say([("", DONE)])
    reply = b.send("POST", "/pve", body, headers)
    error = reply.json["error"]
    assert (reply.status, error["code"], error["reached"], error["url"]) == (403, "wrong-handler", False, B)
    assert "https://a.example/" in error["message"]
    assert (script.place / "asked").read_text() == ""
    streamed = b.send("POST", "/pve", body, {**headers, "accept": "application/x-ndjson"})
    assert (streamed.status, streamed.json["error"]["code"]) == (403, "wrong-handler")


def test_a_handler_without_a_url_takes_them_all(handlers: tuple[Service, Service, Service], script: Scripted) -> None:
    """Without [server] url nothing is compared, but the field must still be text."""
    assert handlers[2].pve("reset", to=A).json["outcome"] == "done"
    assert handlers[2].pve("reset", to=7).json["error"]["code"] == "bad-request"


@pytest.mark.parametrize("fields", [{"prompt": "hi"}, {"attach": "msg_12345678"}, {"cancel": "msg_12345678"}], ids=str)
def test_chat_is_bound_too(handlers: tuple[Service, Service, Service], fields: dict[str, str]) -> None:
    """Each kind of body of /chat is compared. Chat is disabled here, so a request for this handler gets that answer."""
    service = handlers[1]
    for to, status, code in ((A, 403, "wrong-handler"), (B, 403, "forbidden")):
        body = json.dumps({**fields, "to": to}).encode()
        reply = service.send("POST", "/chat", body, service.signed(body))
        assert (reply.status, reply.json["error"]["code"]) == (status, code)


def breakglass(service: Service, *words: str, host: str, typed: str = "") -> "subprocess.CompletedProcess[str]":
    settings = {"BREAKGLASS_URL": f"http://{host}:{service.port}", "BREAKGLASS_SECRET": service.secrets["operator"]}
    command = [sys.executable, "-m", "breakglass", *words]
    return subprocess.run(
        command, env=os.environ | settings, cwd=ROOT, capture_output=True, text=True, timeout=100, input=typed
    )


@pytest.mark.all
@pytest.mark.parametrize(("words", "typed"), [(["call", "reset"], ""), (["chat"], "why?\n")], ids=["call", "chat"])
def test_the_commands_name_the_url_that_they_were_given(
    handlers: tuple[Service, Service, Service], script: Scripted, words: list[str], typed: str
) -> None:
    """At an address that the handler does not have, the command says which one to use. Through a tunnel, it works."""
    b = handlers[1]
    wrong = breakglass(b, *words, host="0.0.0.0", typed=typed)
    assert (wrong.returncode, script.asked("reset")) == (1, [])
    assert f"signed for http://0.0.0.0:{b.port}, and this is {B}; nothing was sent" in wrong.stderr
    assert f"use {B}" in wrong.stderr
    assert "wrong" not in breakglass(b, *words, host="127.0.0.1", typed=typed).stderr
    assert len(script.asked("reset")) == (words[0] == "call")
