"""A client's choices about its answer: how long it waits, and whether the answer is compressed."""

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from breakglass.client import new_id
from breakglass.server.app import PAGE
from breakglass.web.page import sent_bytes

from ..support.documents import commands
from ..support.rows import each_row
from ..support.scripted import Rules, Scripted, output, result, stage
from ..support.service import Reply, Service, read_reply, with_constants
from ..support.sshd import Sshd
from .conftest import handler
from .test_reload import wait_until

pytestmark = pytest.mark.real("sshd")

LONG = "a line of the output\n" * 500
HELD: Rules = [
    ("stop", [stage("stop"), {"wait": "go"}, result()]),
    ("forensics", [stage("forensics"), output(LONG), result(deadline=20.0)]),
    ("ping", [result(vms="102")]),
    ("", [result(jobs=[])]),
]


@pytest.fixture
def service(scripted_service: Service) -> Service:
    scripted_service.answering()
    return scripted_service


@pytest.fixture(scope="module")
def impatient(directory: Path, scripted_sshd: Sshd) -> Iterator[Service]:
    """A handler whose default is a few seconds. No other limit passes in these tests."""
    with handler(directory, scripted_sshd, program=with_constants("proxmox.run.JSON_SECONDS = 4.0")) as service:
        yield service


@pytest.fixture
def held(script: Scripted) -> Scripted:
    """The host, on which each verb waits."""
    script.say(HELD)
    return script


def ask(service: Service, verb: str, *headers: tuple[str, str], msg_id: str = "") -> Reply:
    """Sign and send a verb with further headers, each on its own line."""
    body = json.dumps({"verb": verb, "vm": "devvm"}).encode()
    with closing(HTTPConnection("127.0.0.1", service.port, timeout=120)) as connection:
        connection.putrequest("POST", "/pve", skip_accept_encoding=True)
        signed = service.signed(body, msg_id=msg_id).items()
        for name, value in (*signed, *headers, ("content-length", str(len(body)))):
            connection.putheader(name, value)
        connection.endheaders(body)
        return read_reply(connection, "POST")


# --- how long ---


@pytest.mark.all
def test_a_client_can_wait_longer_than_the_default(impatient: Service, held: Scripted) -> None:
    """With `wait`, the answer comes at the verb's end; without, 202 comes after the default. The same id attaches."""
    msg_id = new_id()
    with ThreadPoolExecutor(1) as pool:
        wishes = ("Prefer", "respond-async"), ("Prefer", "wait=500, wait=0")
        waiting = pool.submit(ask, impatient, "stop", *wishes, msg_id=msg_id)
        wait_until(lambda: len(held.asked("stop")) == 1)
        reply = ask(impatient, "stop", ("Prefer", "wait=soon"))
        assert (reply.status, reply.json["outcome"], reply.json["reached"]) == (202, "running", True)
        assert "preference-applied" not in reply.headers
        assert not waiting.done()
        held.let_go("go")
        whole = waiting.result()
    assert (whole.status, whole.json["outcome"], whole.headers["preference-applied"]) == (200, "done", "wait=90")
    assert ask(impatient, "stop", msg_id=msg_id).json["outcome"] == "done"


def test_a_client_need_not_wait(service: Service, held: Scripted) -> None:
    """With `wait=0`, the answer is 202 as soon as the host has the verb, although the verb still runs.

    A read sends nothing before its end, so it is answered whole.
    """
    reply = ask(service, "stop", ("Prefer", 'foo="a, b"; c, wait=0'))
    assert (reply.status, reply.json["outcome"], reply.json["stage"]) == (202, "running", "stop")
    assert reply.headers["preference-applied"] == "wait=0"
    held.let_go("go")
    reply = ask(service, "status", ("Prefer", "wait=0"))
    assert (reply.status, reply.json["outcome"]) == (200, "done")


@pytest.mark.all
@pytest.mark.real("curl")
def test_the_document_says_what_to_do_with_a_202(impatient: Service, held: Scripted, tmp_path: Path) -> None:
    """Its block, word for word, sends the same id again until the verb has ended."""
    [again] = commands("docs/requests.md", "The answer")
    given = {"URL": f"http://127.0.0.1:{impatient.port}", "body": '{"verb":"stop","vm":"devvm"}'}
    given |= {"KEY": impatient.secrets["operator"], "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    # The previous block has read SECRET, but has not exported it.
    command = ["bash", "-euo", "pipefail", "-c", f"SECRET=$KEY\n{again}"]
    with subprocess.Popen(command, env={**os.environ, **given}, stdout=subprocess.PIPE, cwd=tmp_path) as shell:
        try:
            wait_until(lambda: len(held.asked("stop")) == 2 or shell.poll() is not None)
        finally:
            held.let_go("go")
        answer = json.loads(shell.communicate()[0])
    assert answer["outcome"] == "done"
    [msg_id] = {word for line in held.asked("stop") for word in line.split() if word.startswith("id=")}
    assert msg_id == f"id={answer['id']}"


# --- compressed ---

GZIP = ("Accept-Encoding", "gzip, deflate, br")
NO_GZIP = ("Accept-Encoding", "gzip;q=0, identity")


@each_row("name", ["index.html", "app.js", "style.css"])
def test_the_pages_files_are_compressed(service: Service, name: str) -> None:
    """A file has the same bytes after decompression, and a tag with which a browser can keep it."""
    plain = service.send("GET", f"/{name}", headers=dict([NO_GZIP]))
    packed = service.send("GET", f"/{name}", headers=dict([GZIP]))
    content = sent_bytes(PAGE / name)
    assert (plain.status, plain.body, plain.headers.get("content-encoding")) == (200, content, None)
    assert (packed.status, gzip.decompress(packed.body), packed.headers["content-encoding"]) == (200, content, "gzip")
    assert len(packed.body) < 0.7 * len(content)
    for header in ("content-type", "content-security-policy", "cache-control", "vary"):
        assert packed.headers.get(header) == plain.headers.get(header)
    assert (packed.headers["vary"], packed.headers["etag"]) == ("Accept-Encoding", f"W/{plain.headers['etag']}")
    for reply, wish in ((plain, NO_GZIP), (packed, GZIP)):
        kept = service.send("GET", f"/{name}", headers={**dict([wish]), "If-None-Match": reply.headers["etag"]})
        assert (kept.status, kept.body, kept.headers["etag"]) == (304, b"", reply.headers["etag"])


def test_a_long_json_answer_is_compressed(service: Service, held: Scripted) -> None:
    """It is compressed for clients that ask for that. A short answer is not.

    Neither is a challenge. It is made with the session secret and comes beside text of the request, so its length must
    reveal nothing.
    """
    answer = ask(service, "forensics", GZIP)
    assert (answer.headers["content-encoding"], answer.headers["vary"]) == ("gzip", "Accept-Encoding")
    assert json.loads(gzip.decompress(answer.body))["stdout"] == LONG
    assert "content-encoding" not in ask(service, "forensics").headers
    assert "content-encoding" not in ask(service, "no-such-verb", GZIP).headers
    body = b'{"verb":"status","vm":"devvm"}'
    signed = service.signed(body, msg_id=f"msg_{'x' * 60}", at=int(time.time()) - 400)
    reply = service.send("POST", "/pve", body, {**signed, **dict([GZIP])})
    assert (reply.status, "content-encoding" in reply.headers) == (401, False)
    assert len(reply.json["error"]["challenge"]) > 20


def test_a_stream_is_not_compressed(service: Service, held: Scripted) -> None:
    """The first lines of a stream arrive while the verb runs. A preference for the wait has no effect on a stream."""
    body = b'{"verb":"stop","vm":"devvm"}'
    wishes = dict([GZIP, ("Prefer", "wait=0"), ("Accept", "application/x-ndjson")])
    with closing(HTTPConnection("127.0.0.1", service.port, timeout=120)) as connection:
        connection.request("POST", "/pve", body, service.signed(body) | wishes)
        response = connection.getresponse()
        assert [json.loads(response.readline())["type"] for _ in range(2)] == ["accepted", "stage"]
        held.let_go("go")
        lines = [json.loads(line) for line in response]
    assert lines[-1]["outcome"] == "done"
    assert response.headers["content-encoding"] is None
    assert response.headers["preference-applied"] is None
