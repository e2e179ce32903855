"""An alert's verdict and a verb's outcome reach people's receivers once, whatever happens on the way."""

import asyncio
import base64
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from socket import socket
from threading import Event
from typing import Any
from urllib.request import urlopen

import pytest
from standardwebhooks import Webhook

from breakglass.config.notify import Recipient
from breakglass.notify import send as sending
from breakglass.notify.messages import Message
from breakglass.notify.send import NotSent, send

from ..support.alerting import alerting, entry, list_captures, send_with_token
from ..support.forked import run_command
from ..support.ports import reserve_port
from ..support.receivers import Inbox, flood, misbehaving, receiving, replying, trickle
from ..support.rows import each_row
from ..support.service import Reply, Service, with_constants
from ..support.sshd import Sshd, wait_listening
from ..support.stages import until
from .conftest import handler

pytestmark = pytest.mark.real("sshd", "qemu")

SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
QUICK = (
    *("notify.notifier.LOOK_AFTER = 0.5", "notify.notifier.READY_SECONDS = 0.5", "notify.notifier.ROUND_SECONDS = 0.5"),
    *("notify.notifier.ENDED_SECONDS = 0.5", "notify.outbox.TRY_AFTER = (0.0, 0.1, 0.2)"),
    *("notify.notifier.CAPTURE_SECONDS = 60.0", "notify.send.SECONDS = 2.0"),
)
PAGE = "https://rescue.example.org/bg/#vm=devvm&job="


def webhook(url: str, more: str = "") -> str:
    on = "" if "on =" in more else 'on = ["verdict", "outcome", "failed", "drill"]\n'
    return f'[[notify]]\nto = "webhook"\nurl = "{url}/hook"\nsecret = "{SECRET}"\n{on}{more}\n'


def ntfy(url: str, more: str = "") -> str:
    entry = f'[[notify]]\nto = "ntfy"\nurl = "{url}"\ntopic = "night"\ntoken = "tk_0"\n'
    return f'{entry}on = ["verdict", "outcome"]\n{more}\n'


def fire(service: Service, fingerprint: str, host: str = "devvm") -> Reply:
    alert = {"status": "firing", "labels": {"host": host}, "fingerprint": fingerprint, "starts_at": "s"}
    body = json.dumps(alert).encode()
    return service.send("POST", "/alert/generic", body, service.signed(body))


def begin(service: Service, fingerprint: str) -> str:
    """Fire an alert of devvm; return the job of its capture."""
    [taken] = fire(service, fingerprint).json["accepted"]
    return str(taken["job"])


def settings_of(service: Service) -> dict[str, str]:
    """Return the environment of a command that signs as the operator."""
    return {"BREAKGLASS_URL": f"http://127.0.0.1:{service.port}", "BREAKGLASS_SECRET": service.secrets["operator"]}


def marks(service: Service, job: str) -> tuple[object, object]:
    found: dict[str, Any] = service.pve("history", caller="viewer", vm="devvm", job=job).json["job"]
    return found.get("told"), [each["by"] for each in found.get("seen", [])]


@contextmanager
def notifying(*entries: str, alerts: str = "") -> Iterator[tuple[Service, Sshd]]:
    with alerting(entry("generic", 0, host="devvm") + alerts + "".join(entries), *QUICK) as running:
        yield running


@pytest.fixture(scope="module")
def receiver() -> Iterator[Inbox]:
    with receiving() as running:
        yield running


@pytest.fixture(scope="module")
def told(receiver: Inbox) -> Iterator[Service]:
    fresh = entry("generic", 600, host="fresh")
    with notifying(webhook(receiver.url), ntfy(receiver.url), alerts=fresh) as (service, _):
        text = service.config.read_text().replace("[vms.devvm]\n", "[vms.devvm]\ndrill = true\n")
        text = text.replace('["forensics", "status"]', '["forensics", "history"]')
        with service.configured(text):
            yield service


def test_an_alert_becomes_one_message(told: Service, receiver: Inbox) -> None:
    """The webhook passes the published check, ntfy's line has the job's id, and the host has the mark.

    The first look of each person is noted, once. A verb's outcome has the key of the alert's message, so a phone shows
    one line with who, why and how it ended. ntfy then clears the line, because nothing is left to do.
    """
    job = begin(told, "one")
    receiver.wait(2)
    told.logged('"event": "notify"', times=2)
    list_captures(told)
    by_path = {path: (headers, body) for path, headers, body in receiver.requests}
    headers, body = by_path["/hook"]
    assert Webhook(SECRET).verify(body, headers)["data"] == {
        "key": job,
        "stage": "verdict",
        "vm": "devvm",
        "url": PAGE + job,
        "quiet": False,
        **{name: json.loads(body)["data"][name] for name in ("title", "text", "code", "urgent")},
    }
    assert headers["webhook-id"] == f"{job}_verdict"
    headers, body = by_path["/"]
    line = json.loads(body)
    assert headers["authorization"] == "Bearer tk_0"
    assert (line["topic"], line["sequence_id"], line["click"]) == ("night", job, PAGE + job)
    assert [action["action"] for action in line["actions"]] == ["view"]
    assert send_with_token(told, "/pve", {"verb": "history", "vm": "devvm", "job": job}).status == 200

    def seen() -> list[str]:
        return [each["by"] for each in told.pve("status", vm="devvm").json["seen"]]

    assert [marks(told, job)[0] for _ in range(2)] == ["told"] * 2
    until(lambda: seen() == ["viewer"])
    told.pve("history", vm="devvm", job=job)
    until(lambda: seen() == ["viewer", "operator"])
    assert marks(told, job)[1] == ["viewer", "operator"]
    listed = {each["id"]: each for each in told.pve("history", vm="devvm").json["jobs"]}
    assert [each["by"] for each in listed[job]["seen"]] == ["viewer", "operator"]
    assert "seen by viewer, 20" in run_command("call", "status", "--vm", "devvm", **settings_of(told)).stdout

    done = told.pve("reset", vm="devvm", reason="it hangs").json
    told.logged(f'"key": "{job}", "stage": "{done["id"][-24:]}-done"', times=2)
    line = receiver.lines()[job]
    assert (line["title"], line["priority"], line["click"]) == ("devvm: reset done", 3, PAGE + done["id"])
    assert line["message"].startswith("operator (it hangs): reset done. The VM is running.")
    until(lambda: job in receiver.cleared)


@pytest.mark.all
def test_an_alert_under_a_persons_capture_is_told(told: Service, receiver: Inbox) -> None:
    """No new capture is taken then, and the message is about the one that is fresh. A drill's alert sends none."""
    taken = told.pve("forensics", vm="devvm").json["id"]
    [under] = fire(told, "under", "fresh").json["accepted"]
    assert (under["job"], under["suppressed"]) == (taken, True)
    told.logged(f'"key": "{taken}", "stage": "verdict"', times=2)
    before = len(receiver.requests)
    body = json.dumps({"status": "firing", "labels": {"drill": "devvm"}, "fingerprint": "d", "starts_at": "s"}).encode()
    [drill] = told.send("POST", "/alert/generic", body, told.signed(body)).json["accepted"]
    assert drill["job"].startswith("alert-drill-")
    list_captures(told)
    begin(told, "after the drill")
    receiver.wait(before + 2)
    assert drill["job"] not in receiver.lines()


def test_a_secret_is_in_no_line_of_the_log(told: Service) -> None:
    """Neither the webhook's key nor ntfy's token, and no receiver's URL."""
    assert {word for word in (SECRET, "tk_0", "/hook", '"night"') if word in told.log()} == set()


# --- what goes wrong on the way ---


@pytest.mark.all
@each_row(
    ("answer", "why"),
    [
        (lambda taken: time.sleep(60), "no answer within 2 s"),
        (trickle, "no answer within 2 s"),
        (lambda taken: taken.sendall(b"x" * 100_000), "it does not speak HTTP"),
        (replying(b""), "it does not speak HTTP"),
        (replying(b"HTTP/1.1 500 No\r\n\r\n"), "it answered HTTP 500"),
        (replying(b"HTTP/1.1 302 No\r\nlocation: /x\r\n\r\n"), "it answered HTTP 302, and no redirect is followed"),
        (flood, ""),
    ],
)
def test_a_bad_receiver_has_its_message_alone(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[socket], object], why: str
) -> None:
    """It ends in a bounded time with a reason that names no URL; no byte behind the first line is read."""
    monkeypatch.setattr(sending, "SECONDS", 2.0)
    with misbehaving(answer) as url:
        receiver = Recipient("notify[0]", "ntfy", url, "t")
        message = Message("key", "verdict", ("verdict",), "devvm", "title", "text")
        assert asyncio.run(try_once(message, receiver)) == why


async def try_once(message: Message, receiver: Recipient) -> str:
    try:
        await send(message, receiver)
    except NotSent as error:
        return str(error)
    return ""


@pytest.mark.all
def test_a_dead_receiver_delays_nothing(receiver: Inbox) -> None:
    """The other receiver has the verdict, the capture is `not-told`, and a later look sends it.

    Until then, /ready and doctor say why.
    """
    with receiving() as dead, notifying(ntfy(receiver.url), webhook(dead.url)) as (service, _):
        before = len(receiver.requests)
        dead.statuses = [500] * 1000
        job = begin(service, "dead")
        receiver.wait(before + 1)
        service.logged('"event": "notify-failed"')
        assert service.health()["notify"] == "failed"
        assert "A message could not be sent." in service.send("GET", "/ready").json["reasons"]
        said = json.loads(run_command("doctor", "--json", **settings_of(service)).stdout)
        assert "notify-failed" in [finding["code"] for finding in said["findings"]]
        dead.statuses = []
        until(lambda: marks(service, job)[0] == "told")
        assert (service.health()["notify"], len(dead.requests)) == ("on", 1)
        assert len(receiver.requests) == before + 1


@pytest.mark.shared("world", "sshd")
def test_ready_is_lost_and_back(receiver: Inbox, sshd: Sshd, short_dir: Path) -> None:
    """The second message replaces the first, and ntfy clears it. The reason is a mistake in the configuration."""
    mistake = "[unknown]\nx = 1\n"
    extra = ntfy(receiver.url).replace('["verdict", "outcome"]', '["ready"]') + mistake

    def lost() -> list[str]:
        return [body["sequence_id"] for body in receiver.bodies() if "The configuration has" in body.get("message", "")]

    with handler(short_dir, sshd, extra=extra, program=with_constants(*QUICK)) as service:
        until(lambda: len(lost()) == 1)
        [key] = lost()
        with service.configured(service.config.read_text().replace(mistake, "")):
            until(lambda: receiver.lines()[key]["title"] == "Breakglass is ready again" and key in receiver.cleared)


@pytest.mark.all
@pytest.mark.parametrize("step", ["accepted", "sent", "marked"])
def test_a_killed_handler_loses_no_message(receiver: Inbox, step: str) -> None:
    """Whenever it is killed, it or another handler sends the message after that, and a phone shows one line."""
    with notifying(ntfy(receiver.url)) as (service, _):
        receiver.statuses = [503] * 3 if step == "accepted" else []  # as long as it lives, no message of it arrives
        job = begin(service, f"kill-{step}")
        if step != "accepted":
            until(lambda: job in receiver.lines())
        if step == "marked":
            until(lambda: marks(service, job)[0] == "told")
        sent = len(receiver.requests)
        service.process.kill()
        service.process.wait()
        receiver.statuses = []
        service.start()
        service.answering()
        until(lambda: marks(service, job)[0] == "told")
        assert [key for key in receiver.lines() if key == job] == [job]
        assert step != "marked" or len(receiver.requests) == sent


@pytest.mark.all
def test_many_untold_captures_become_one_message(receiver: Inbox) -> None:
    """A handler that finds more than five sends one summary, and marks each; a reload can bring the first receiver."""
    with notifying() as (service, _):
        jobs = []
        for number in range(6):
            jobs.append(begin(service, f"many-{number}"))
            list_captures(service)
        before = len(receiver.requests)
        with service.configured(
            service.config.read_text() + ntfy(receiver.url) + ntfy(receiver.url, 'vms = ["other"]')
        ):
            until(lambda: all(marks(service, job)[0] == "told" for job in jobs))
        [line] = receiver.bodies()[before:]
        assert line["message"] == "6 captures have ended, and no message was sent about them: devvm."


class Twin(Service):
    """Another handler with the configuration of the first, and its session secret."""

    def __init__(self, first: Service) -> None:
        self.directory, self.program, self.errors = first.directory, first.program, None
        self.port, self.secrets, self.config = reserve_port(), first.secrets, first.config
        self.start()


@pytest.mark.all
def test_an_answer_can_wait_for_the_message(receiver: Inbox) -> None:
    """Where a platform freezes a handler after its answer, the answer to an alert comes after the message.

    A stopping handler answers although the receiver never does, because the sender must learn of the capture.
    """
    asked = Event()

    def never(taken: socket) -> None:
        asked.set()
        time.sleep(60)

    with misbehaving(never) as silent, notifying(ntfy(receiver.url, "before_answer = true")) as (service, _):
        before = len(receiver.requests)
        job = begin(service, "waits")
        assert (len(receiver.requests), marks(service, job)[0]) == (before + 1, "told")
        with service.configured(service.config.read_text().replace(receiver.url, silent)):
            with ThreadPoolExecutor(1) as pool:
                reply = pool.submit(fire, service, "stopping")
                assert asked.wait(60)
                service.stop()
                assert reply.result().status == 202
            service.start()


@pytest.mark.all
def test_two_handlers_show_one_line(receiver: Inbox) -> None:
    """Both get the alert, as from two Alertmanagers, and both have one key for its message. VERIFY.md names this.

    If one of them is killed before its message has arrived, and never starts again, the other one sends it.
    """
    with notifying(ntfy(receiver.url)) as (service, _):
        other = Twin(service)
        try:
            other.answering()
            [job] = {begin(each, "twice") for each in (service, other)}
            until(lambda: marks(service, job)[0] == "told")
            assert [key for key in receiver.lines() if key == job] == [job]
            list_captures(service)
            receiver.statuses = [503] * 3
            left = begin(service, "left")
            service.process.kill()
            service.process.wait()
            receiver.statuses = []
            until(lambda: marks(other, left)[0] == "told")
            assert [key for key in receiver.lines() if key == left] == [left]
        finally:
            other.stop()


@pytest.mark.all
def test_without_receivers_nothing_is_loaded() -> None:
    """A handler without [[notify]] loads neither `notify` nor Apprise."""
    code = "import sys, breakglass.server.server; print({'breakglass.notify', 'apprise'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"


# --- other programs ---


@pytest.mark.all
@pytest.mark.real("ntfy")
def test_debians_ntfy_takes_both_lines(receiver: Inbox, tmp_path: Path) -> None:
    """Ntfy 2.11 knows no sequence ids, so it has a line for the verdict and one for the verb, each with its link."""
    with ntfy_server(tmp_path) as (url, line), notifying(ntfy(url)) as (service, _):
        job = begin(service, "debian")
        list_captures(service)
        service.logged(f'"key": "{job}", "stage": "verdict"')
        service.pve("reset", vm="devvm")
        service.logged('-done"')
        verdict, outcome = line()
        assert (verdict["click"], verdict["actions"][0]["url"]) == (PAGE + job, PAGE + job)
        assert [each["priority"] for each in (verdict, outcome) if each["title"].endswith("done")] == [3]
        assert service.health()["notify"] == "on"


@contextmanager
def ntfy_server(directory: Path) -> Iterator[tuple[str, Callable[[], list[dict[str, Any]]]]]:
    """Run Debian's ntfy; yield its URL, and what lists the messages of the topic."""
    port = reserve_port()
    (directory / "server.yml").write_text(f'listen-http: "127.0.0.1:{port}"\ncache-file: "{directory}/cache.db"\n')
    with (directory / "log").open("wb") as log:
        command = ["ntfy", "serve", "--config", str(directory / "server.yml")]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_listening(port, process)
            url = f"http://127.0.0.1:{port}"
            yield url, lambda: [json.loads(line) for line in urlopen(f"{url}/night/json?poll=1")]
        finally:
            process.kill()
            process.wait()


def test_apprise_itself_takes_a_message(receiver: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    """By its service `json`; a URL that it does not know is a reason, and quiet hours keep what is not urgent.

    Apprise's own log would have the URL.
    """
    url = receiver.url.replace("http:", "json:")
    message = Message("key", "verdict", ("verdict",), "devvm", "devvm at 02:58 UTC", "It hangs.", PAGE)
    before = len(receiver.requests)
    for quiet in (None, (0, 1440)):
        recipient = Recipient("notify[0]", "apprise", url, quiet=quiet)
        assert asyncio.run(try_once(replace(message, is_urgent=quiet is None), recipient)) == ""
    [found] = receiver.bodies()[before:]
    assert (found["title"], found["message"]) == (message.title, f"It hangs.\n{PAGE}")
    assert (
        asyncio.run(try_once(message, Recipient("n", "apprise", "x://y"))) == "Apprise does not know this kind of URL"
    )
    assert "x://y" not in caplog.text


@pytest.mark.all
def test_a_test_message_needs_no_handler(told: Service, receiver: Inbox) -> None:
    """`breakglass notify test` sends one to each receiver, and ends with 1 if one has not taken it."""
    before = len(receiver.requests)
    command, environment = ("notify", "test"), {"BREAKGLASS_CONFIG": str(told.config)}
    ran = run_command(*command, **environment)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == "notify[0] (webhook): sent\nnotify[1] (ntfy): sent\n"
    ran = run_command(*command, "--json", **environment)
    assert json.loads(ran.stdout)[1] == {"name": "notify[1]", "to": "ntfy", "sent": True, "why": ""}
    assert len(receiver.requests) == before + 4
    receiver.statuses = [500]
    ran = run_command(*command, **environment)
    assert (ran.returncode, "notify[0] (webhook): not sent: it answered HTTP 500" in ran.stderr) == (1, True)
