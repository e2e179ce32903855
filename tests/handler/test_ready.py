"""GET /ready, for a monitor. It answers 503 while a part fails, with reasons that tell a stranger no names."""

import re

import pytest

from ..support.service import SSH_KEY, Reply, Service
from ..support.sshd import Sshd
from ..support.stages import until

pytestmark = [pytest.mark.real("sshd"), pytest.mark.shared("world", "sshd", "service")]

NAMES = re.compile("chatt|grafana|pve1|devvm")


def ready(service: Service, method: str = "GET", **headers: str) -> Reply:
    return service.send(method, "/ready", b"", headers)


def test_only_the_token_of_the_metrics_learns_names(service: Service, sshd: Sshd) -> None:
    """Without it, with another token (a caller's, too) or with it twice, the reasons are general."""
    tokens = {name: f"bgt_{name * 43}" for name in ("m", "c")}
    text = service.config.read_text().replace(sshd.power_key, SSH_KEY)
    text += f'[metrics]\ntoken = "{tokens["m"]}"\n\n[callers.grafana]\ntoken = "{tokens["c"]}"\nallow = ["status"]\n'
    text += "not_after = 2020-01-01T00:00:00Z\n\n[chatt]\n"
    with service.configured(text):
        until(lambda: service.health()["vms"][0]["proxmox"] == "key-not-accepted", "a login")
        whole = ready(service, authorization=f"Bearer {tokens['m']}")
        assert whole.status == 503
        assert [NAMES.findall(reason) for reason in whole.json["reasons"]] == [
            ["chatt"],
            ["grafana"],
            ["pve1"],
            ["devvm"],
        ]
        for token in ("", tokens["c"], tokens["m"][:-1], f"{tokens['m']}, Bearer {tokens['m']}"):
            reply = ready(service, authorization=f"Bearer {token}")
            assert reply.status == 503
            assert [NAMES.findall(reason) for reason in reply.json["reasons"]] == [[], [], [], []]


def test_a_host_that_is_gone(service: Service, sshd: Sshd) -> None:
    """The answer is 503 with general reasons, then 200 again, without authentication, and never stored.

    /health stays 200, because a restart of the handler would not help.
    """
    sshd.stop()
    try:
        service.not_answering()
        reply = ready(service)
        assert reply.status == ready(service, "HEAD").status == 503
        assert (reply.json["ready"], len(reply.json["reasons"]), NAMES.search(str(reply.json))) == (False, 2, None)
        assert reply.headers["cache-control"].startswith("no-store")
        assert service.send("GET", "/health").status == 200
    finally:
        sshd.start()
    service.answering()
    reply, head = ready(service, authorization="Bearer bgt_nothing"), ready(service, "HEAD")
    assert (reply.status, reply.json, head.status, head.body) == (200, {"ready": True}, 200, b"")
