"""GET /ready, for a monitor. It answers 503 while a part fails, with reasons that tell a stranger no names."""

from pathlib import Path

import pytest

from ..support.service import Reply, Service, new_ssh_key
from ..support.sshd import Sshd
from ..support.stages import until

pytestmark = [pytest.mark.real("sshd"), pytest.mark.shared("world", "sshd", "service")]


def ready(service: Service, method: str = "GET", **headers: str) -> Reply:
    return service.send(method, "/ready", b"", headers)


def test_a_handler_that_works_is_ready(service: Service) -> None:
    """The answer is 200 without authentication, with an old token or a proxy's, and for HEAD. It is never stored."""
    service.answering()
    for authorization in ("", "Bearer bgt_nothing", f"Bearer bgt_{'x' * 43}", "Basic eDp5"):
        reply = ready(service, authorization=authorization)
        assert (reply.status, reply.json) == (200, {"ready": True})
        assert reply.headers["cache-control"].startswith("no-store")
    head = ready(service, "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert ready(service, "POST").status == 405


def test_only_the_token_of_the_metrics_learns_names(sshd: Sshd, tmp_path: Path) -> None:
    """Without it, with another token (a caller's, too) or with it twice, the reasons are general."""
    tokens = {name: f"bgt_{name * 43}" for name in ("m", "c")}
    extra = f'[metrics]\ntoken = "{tokens["m"]}"\n\n[callers.grafana]\ntoken = "{tokens["c"]}"\nallow = ["status"]\n'
    extra += "not_after = 2020-01-01T00:00:00Z\n\n[chatt]\n"
    service = Service(tmp_path, port=sshd.port, key=new_ssh_key(), host_key=[sshd.host_key], extra=extra)
    try:
        until(lambda: service.health()["vms"][0]["proxmox"] == "key-not-accepted", "a login")
        whole = ready(service, authorization=f"Bearer {tokens['m']}")
        assert (whole.status, whole.json["reasons"]) == (
            503,
            [
                "The configuration has faults in chatt; the log lists them.",
                "The key of grafana expired on 2020-01-01.",
                "The host pve1 is not reachable: key-not-accepted.",
                "The VM devvm is not reachable: key-not-accepted.",
            ],
        )
        others = [{}, {"authorization": f"Bearer {tokens['c']}"}, {"authorization": f"Bearer {tokens['m'][:-1]}"}]
        for reply in [ready(service, **headers) for headers in others]:
            assert reply.status == 503
            assert reply.json["reasons"] == [
                "The configuration has errors, and each part with an error is disabled.",
                "The key of a caller has expired.",
                "A host is not reachable.",
                "A VM is not reachable.",
            ]
    finally:
        service.stop()


def test_a_host_that_is_gone(service: Service, sshd: Sshd) -> None:
    """The answer is 503 with general reasons. /health stays 200, because a restart of the handler would not help."""
    service.answering()
    sshd.stop()
    try:
        service.not_answering()
        reply = ready(service)
        assert reply.status == 503
        assert reply.json == {"ready": False, "reasons": ["A host is not reachable.", "A VM is not reachable."]}
        assert reply.headers["cache-control"].startswith("no-store")
        assert (ready(service, "HEAD").status, ready(service, "HEAD").body) == (503, b"")
        assert service.send("GET", "/health").status == 200
    finally:
        sshd.start()
    service.answering()
    assert ready(service).status == 200
