"""The log never stops a verb, and everything that a handler writes is a line of the log."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
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

__all__ = ["empty_log"]  # a fixture of pytest

pytestmark = [pytest.mark.real("sshd"), pytest.mark.shared("world", "sshd")]

PROXY_SETTING = "[server]\nproxies = ['127.0.0.0/8']\n"


def log_of(service: Service) -> list[dict[str, Any]]:
    """Return all lines so far. Each must be one of docs/logs.md, with its fields."""
    lines = [json.loads(line) for line in service.log().splitlines()]
    for line in lines:
        assert list(line) == ["time", "level", "event", *documented()[line["event"]][1]]
    return lines


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


def write_all(writer: audit.Writer) -> None:
    """Write the waiting lines, in this thread."""
    audit._waiting.put(None)
    writer.run()


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
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    writer = audit.Writer(log)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for number in (1, 2, 3):
        audit.note("own-agent-unreadable", error=number, text="x" * 100)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
    try:
        write_all(writer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    audit.note("own-agent-unreadable", error=4)
    write_all(writer)
    os.close(log)
    first, torn, lost, last = path.read_text().splitlines()
    assert (json.loads(first)["error"], torn[:7]) == (1, '{"time"')
    assert (json.loads(lost)["count"], json.loads(last)["error"]) == (2, 4)


# --- its content ---


def test_a_refused_request_says_why(service: Service) -> None:
    """Only the log says why. The answers are all the same bytes."""
    body = b'{"verb":"status"}'
    signed = service.signed(body)
    other = {**signed, "webhook-signature": service.signed(body + b" ")["webhook-signature"]}
    token = {"authorization": "Bearer bgt_" + "x" * 43}
    answers = [service.send("POST", "/pve", body, headers) for headers in ({}, other, token)]
    assert len({(answer.status, answer.body) for answer in answers}) == 1
    assert service.send("POST", "/pve", body, service.signed(body, at=int(time.time()) - 400)).status == 401
    lines = service.audit()
    assert [(line["outcome"], line["why"], line["caller"]) for line in lines] == [
        ("unauthorized", "malformed", ""),
        ("unauthorized", "unknown signature", ""),
        ("unauthorized", "unknown signature", ""),
        ("stale-timestamp", "stale", "operator"),
    ]
    log_of(service)


def documented_fingerprint(secret: str, directory: Path) -> str:
    """Return the output of the command in docs/logs.md for a signing key's file."""
    [command] = commands("docs/logs.md", "Requests")
    (directory / "operator.signing-key").write_text(f"{secret}\n")
    return subprocess.run(
        ["sh", "-ec", command], cwd=directory, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_key_that_signed_is_named(service: Service, tmp_path: Path) -> None:
    """If a caller has two keys, the log says which one signed. `start` and `reload` list both."""
    old, new = service.secrets["operator"], new_secret()
    text = service.config.read_text()
    service.config.write_text(text.replace(json.dumps(old), json.dumps([old, new])))
    service.process.send_signal(signal.SIGHUP)
    reload = wait_for_event(service, "reload")
    service.pve("status")
    service.secrets["operator"] = new
    service.pve("status")
    names = [fingerprint(secret_bytes(secret)) for secret in (old, new)]
    assert reload["callers"]["operator"] == names
    assert [documented_fingerprint(secret, tmp_path) for secret in (old, new)] == names
    assert [line["key"] for line in service.audit()] == names
    assert not any(secret.removeprefix("whsec_") in service.audit_file.read_text() for secret in (old, new))


def test_a_proxy_is_believed_if_it_is_configured(service: Service) -> None:
    """Otherwise, the peer itself is the client, and its headers about other clients are ignored."""
    for setting in ("", PROXY_SETTING):
        if setting:
            service.config.write_text(service.config.read_text() + setting)
            service.process.send_signal(signal.SIGHUP)
            wait_for_event(service, "reload")
        for forwarded in ("203.0.113.9, 198.51.100.7", "unknown"):
            service.send("POST", "/pve", b"{}", {"x-forwarded-for": forwarded})
    found = [(line["client"], line["proxy"]) for line in service.audit()]
    assert found == [("127.0.0.1", "")] * 2 + [("198.51.100.7", "127.0.0.1"), ("", "127.0.0.1")]


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
