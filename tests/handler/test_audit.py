"""The log never stops a verb, and everything that a handler writes is a line of the log."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from breakglass.auth.signing import fingerprint, secret_bytes
from breakglass.base import audit

from ..support.documents import commands
from ..support.ports import reserve_port
from ..support.service import Service, as_handler, new_secret
from ..support.sshd import Sshd, wait_listening
from ..unit.test_logs import documented, empty_log
from .conftest import handler

__all__ = ["empty_log"]  # a fixture of pytest

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


def wait_for_event(service: Service, event: str) -> dict[str, Any]:
    """Return the newest line of an event once there is one."""
    service.logged(f'"event": "{event}"')
    return [line for line in log_of(service) if line["event"] == event][-1]


def serving_to(service: Service, stdout: int, directory: Path) -> "subprocess.Popen[bytes]":
    """Start another handler with the same configuration and this log. `service` now sends its requests there."""
    service.port = reserve_port()
    environment = os.environ | {"BREAKGLASS_CONFIG": str(service.config), "PORT": str(service.port)}
    process = subprocess.Popen(
        [sys.executable, "-m", "breakglass", "serve"], env=environment, stdout=stdout, cwd=directory, **as_handler()
    )
    wait_listening(service.port, process)
    return process


@pytest.mark.all
@pytest.mark.slow
def test_an_unread_log_delays_no_request(service: Service, tmp_path: Path) -> None:
    """Stdout is a full pipe. Requests are still answered, and the handler ends when it gets SIGTERM."""
    with serving_to(service, subprocess.PIPE, tmp_path) as process:
        for _ in range(1000):  # some 300 bytes each: more than the pipe's 64 KiB
            assert service.send("POST", "/pve", b"{}").status == 401
        assert service.pve("status").json["state"] == "running"
        assert service.pve("reset").json["outcome"] == "done"
        process.terminate()
        process.wait(60)


@pytest.mark.usefixtures("empty_log")
def test_a_full_disk_tears_no_later_line(tmp_path: Path) -> None:
    """A line that a full disk cuts is lost, but the lines that come once there is space are whole."""
    path = tmp_path / "log"
    writer = audit.Writer(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for number in (1, 2, 3):
        audit.note("own-agent-unreadable", error=number, text="x" * 100)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
    try:
        audit._waiting.put(None)
        writer.run()  # in this thread
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    audit.note("own-agent-unreadable", error=4)
    audit._waiting.put(None)
    writer.run()
    os.close(writer._fd)
    first, torn, lost, last = path.read_text().splitlines()
    assert (json.loads(first)["error"], torn[:7]) == (1, '{"time"')
    assert (json.loads(lost)["count"], json.loads(last)["error"]) == (2, 4)


# --- its content ---


def test_the_log_says_who_signed_and_why_others_were_refused(service: Service) -> None:
    """Only the log says why, because the answers are all the same bytes.

    If a caller has two keys, the log says which one signed, and `reload` lists both. The peer itself is the client,
    unless [server] proxies has its address.
    """
    body = b'{"verb":"status"}'
    old, new = service.secrets["operator"], new_secret()
    names = [fingerprint(secret_bytes(secret)) for secret in (old, new)]
    other = {**service.signed(body), "webhook-signature": service.signed(body + b" ")["webhook-signature"]}
    token = {"authorization": "Bearer bgt_" + "x" * 43, "x-forwarded-for": "198.51.100.7"}
    answers = [service.send("POST", "/pve", body, headers) for headers in ({}, other, token)]
    assert len({(answer.status, answer.body) for answer in answers}) == 1
    assert service.send("POST", "/pve", body, service.signed(body, at=int(time.time()) - 400)).status == 401
    text = service.config.read_text().replace(json.dumps(old), json.dumps([old, new]))
    service.config.write_text(f"{text}[server]\nproxies = ['127.0.0.0/8']\n")
    service.reload()
    assert wait_for_event(service, "reload")["callers"]["operator"] == names
    for secret in (old, new):
        service.secrets["operator"] = secret
        service.pve("status")
    for forwarded in ("203.0.113.9, 198.51.100.7", "unknown"):
        service.send("POST", "/pve", b"{}", {"x-forwarded-for": forwarded})
    fields = ("outcome", "why", "caller", "key", "client", "proxy")
    assert [tuple(line[field] for field in fields) for line in service.audit()] == [
        ("unauthorized", "malformed", "", "", "127.0.0.1", ""),
        ("unauthorized", "unknown signature", "", "", "127.0.0.1", ""),
        ("unauthorized", "unknown signature", "", "", "127.0.0.1", ""),
        ("stale-timestamp", "stale", "operator", names[0], "127.0.0.1", ""),
        ("done", "", "operator", names[0], "", "127.0.0.1"),
        ("done", "", "operator", names[1], "", "127.0.0.1"),
        ("unauthorized", "malformed", "", "", "198.51.100.7", "127.0.0.1"),
        ("unauthorized", "malformed", "", "", "", "127.0.0.1"),
    ]
    assert not any(secret.removeprefix("whsec_") in service.audit_file.read_text() for secret in (old, new))
    log_of(service)


@pytest.mark.all
def test_a_host_that_comes_and_goes_has_a_line(service: Service, sshd: Sshd) -> None:
    """The log says up once the host agent has answered, down with the reason, and up again."""
    assert wait_for_event(service, "host-up")["state"] == "answering"
    sshd.drop_connections()
    down = wait_for_event(service, "host-down")
    assert (down["host"], down["state"], "was lost" in down["why"]) == ("pve1", "lost", True)
    service.answering()
    service.stop()
    events = [line["event"] for line in log_of(service) if line["event"].startswith("host-")]
    assert events == ["host-up", "host-down", "host-up"]


PROSE = """
import asyncio, gc, logging, sys, threading, warnings
from breakglass.cli import serve
from breakglass.service import Service as Running

class Odd:
    def __del__(self):
        raise ValueError("in a finalizer")

def fail(text):
    raise ValueError(text)

def say(self):
    start(self)
    asyncio.get_running_loop().call_soon(fail, "in a callback")
    warnings.warn("a warning")
    logging.getLogger("asyncssh").warning("a %s", "record")
    logging.getLogger("uvicorn.error").error("an error\\non two lines")
    Odd()
    gc.collect()
    thread = threading.Thread(target=fail, args=("in a thread",))
    thread.start()
    thread.join()

start, Running.start = Running.start, say
from breakglass.cli.main import main
sys.exit(main())
"""


@pytest.mark.all
def test_prose_becomes_lines(service: Service, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Messages of libraries and of Python are in the log, one line each, and nothing is on another stream."""
    service.stop()
    service.audit_file.unlink()
    service.program = ("-c", PROSE)
    service.start()
    service.answering()
    service.stop()
    lines = [line for line in log_of(service) if line["event"] in ("library", "defect")]
    texts = [line.get("text") or line["error"] for line in lines]
    assert len(texts) == 6
    for text, found in zip(
        ("a warning", "a record", "an error\non two lines", "in a finalizer", "in a thread", "in a callback"),
        texts,
        strict=True,
    ):
        assert text in found or text in str(lines[texts.index(found)])
    assert capfd.readouterr().err == ""
