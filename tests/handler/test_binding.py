"""A request that names its handler in `to` is valid only at that handler."""

import json
from collections.abc import Iterator

import pytest

from ..support.forked import run_command
from ..support.service import Service

A, B = "https://a.example/", "https://b.example/rescue/"
pytestmark = [pytest.mark.real("sshd"), pytest.mark.shared("world", "sshd", "service")]


@pytest.fixture
def here(service: Service) -> Iterator[Service]:
    """A handler whose first address is B."""
    with service.configured(f'{service.config.read_text()}\n[server]\nurl = ["{B}", "https://B.example:8443"]\n'):
        yield service


def test_what_was_signed_for_one_handler_is_refused_by_another(here: Service) -> None:
    """A request for A is replayed unchanged to B, which sends nothing to a host. Each body of /chat is compared too."""
    body = json.dumps({"verb": "reset", "vm": "devvm", "to": A}).encode()
    before = here.pve("history").json["jobs"]
    for accept in ("*/*", "application/x-ndjson"):
        reply = here.send("POST", "/pve", body, {**here.signed(body), "accept": accept})
        error = reply.json["error"]
        assert (reply.status, error["code"], error["reached"], error["url"]) == (403, "wrong-handler", False, B)
    assert here.pve("history").json["jobs"] == before
    for fields in ({"prompt": "hi"}, {"attach": "msg_12345678"}, {"cancel": "msg_12345678"}):
        for to, code in ((A, "wrong-handler"), (B, "forbidden")):  # chat is disabled here
            body = json.dumps({**fields, "to": to}).encode()
            reply = here.send("POST", "/chat", body, here.signed(body))
            assert (reply.status, reply.json["error"]["code"]) == (403, code)


def test_a_handler_without_a_url_takes_them_all(service: Service) -> None:
    """Without [server] url nothing is compared."""
    assert service.pve("status", to=A).json["outcome"] == "done"


@pytest.mark.all
def test_call_names_the_url_that_it_was_given(here: Service) -> None:
    """At an address that the handler does not have, the command says which one to use. Through a tunnel, it works."""
    for host, code in (("0.0.0.0", 1), ("127.0.0.1", 0)):
        settings = {"BREAKGLASS_URL": f"http://{host}:{here.port}", "BREAKGLASS_SECRET": here.secrets["operator"]}
        ran = run_command("call", "status", **settings)
        assert (ran.returncode, f"use {B}" in ran.stderr) == (code, code == 1)
