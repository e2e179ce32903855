"""The log never stops a verb, and each request has one line, which says who did what and why."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from breakglass.auth.signing import fingerprint, secret_bytes

from ..support.documents import commands
from ..support.ports import reserve_port
from ..support.service import Service, as_handler, new_secret
from ..support.sshd import Sshd, wait_listening
from ..unit.test_logs import documented
from .conftest import handler

pytestmark = [pytest.mark.real("sshd"), pytest.mark.shared("world", "sshd")]


@pytest.fixture
def service(short_dir: Path, sshd: Sshd) -> Iterator[Service]:
    with handler(short_dir, sshd) as service:
        yield service


def log_of(service: Service) -> list[dict[str, Any]]:
    """Return all lines so far. Each must be one of docs/logs.md, with its fields."""
    lines = [json.loads(line) for line in service.log().splitlines()]
    for line in lines:
        assert list(line) == ["time", "level", "event", *documented()[line["event"]][1]]
    return lines


def test_the_documented_command_prints_a_keys_fingerprint(tmp_path: Path) -> None:
    """So a person can tell whose key signed a line."""
    [command] = commands("docs/logs.md", "Requests")
    (tmp_path / "operator.signing-key").write_text(f"{(secret := new_secret())}\n")
    printed = subprocess.check_output(["sh", "-ec", command], cwd=tmp_path, text=True)
    assert printed.strip() == fingerprint(secret_bytes(secret))


@pytest.mark.all
def test_an_unread_log_delays_no_request(service: Service) -> None:
    """Stdout is a full pipe. Requests are still answered, and the handler ends when it gets SIGTERM."""
    service.port = reserve_port()
    environment = os.environ | {"BREAKGLASS_CONFIG": str(service.config), "PORT": str(service.port)}
    command = [sys.executable, "-m", "breakglass", "serve"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, cwd="/", pipesize=4096, **as_handler()
    ) as process:
        wait_listening(service.port, process)
        for _ in range(40):  # some 300 bytes each: more than the pipe's 4 KiB
            assert service.send("POST", "/pve", b"{}").status == 401
        assert service.pve("reset").json["outcome"] == "done"
        process.terminate()
        process.wait(60)


def test_one_line_a_request_without_secrets(service: Service) -> None:
    """The log's line says who, with which of two keys, what, why, how it ended and from where. It has no secret.

    Only the log says why a request was refused, because the answers are all the same bytes. The peer itself is the
    client, unless [server] proxies has its address. `reload` lists the keys.
    """
    body = b'{"verb":"status"}'
    old, new = service.secrets["operator"], new_secret()
    keys = {name: fingerprint(secret_bytes(secret)) for name, secret in {**service.secrets, "new": new}.items()}
    service.pve("reset", reason="it hangs")
    service.pve("stop", caller="viewer")
    service.pve("nonsense\nverb")
    other = {**service.signed(body), "webhook-signature": service.signed(body + b" ")["webhook-signature"]}
    token = {"authorization": "Bearer bgt_" + "x" * 43, "x-forwarded-for": "198.51.100.7"}
    answers = [service.send("POST", "/pve", body, headers) for headers in ({}, other, token)]
    assert len({(answer.status, answer.body) for answer in answers}) == 1
    assert service.send("POST", "/pve", body, service.signed(body, at=int(time.time()) - 400)).status == 401
    text = service.config.read_text().replace(json.dumps(old), json.dumps([old, new]))
    service.config.write_text(f"{text}[server]\nproxies = ['127.0.0.0/8']\n")
    service.reload()
    service.secrets["operator"] = new
    service.pve("status")
    for forwarded in ("203.0.113.9, 198.51.100.7", "unknown"):
        service.send("POST", "/pve", b"{}", {"x-forwarded-for": forwarded})
    fields = ("outcome", "verb", "reason", "why", "caller", "key", "client", "proxy", "level")
    by, here, strange = ("operator", keys["operator"]), ("127.0.0.1", ""), ("", "")
    assert [tuple(line[field] for field in fields) for line in service.audit()] == [
        ("done", "reset", "it hangs", "", *by, *here, "info"),
        ("forbidden", "", "", "", "viewer", keys["viewer"], *here, "warning"),
        ("rejected", "nonsense\\nverb", "", "", *by, *here, "warning"),
        ("unauthorized", "", "", "malformed", *strange, *here, "warning"),
        ("unauthorized", "", "", "unknown signature", *strange, *here, "warning"),
        ("unauthorized", "", "", "unknown signature", *strange, *here, "warning"),
        ("stale-timestamp", "", "", "stale", *by, *here, "warning"),
        ("done", "status", "", "", "operator", keys["new"], "", "127.0.0.1", "info"),
        ("unauthorized", "", "", "malformed", *strange, "198.51.100.7", "127.0.0.1", "warning"),
        ("unauthorized", "", "", "malformed", *strange, "", "127.0.0.1", "warning"),
    ]
    assert [line["outcome"] for line in service.audit() if line["host"] == "pve1"] == ["done", "done"]
    assert not any(secret.removeprefix("whsec_") in service.audit_file.read_text() for secret in (old, new))
    lines = log_of(service)
    [reload] = [line for line in lines if line["event"] == "reload"]
    assert reload["callers"]["operator"] == [keys["operator"], keys["new"]]
