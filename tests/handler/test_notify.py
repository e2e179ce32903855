"""Messages to people: an alert's verdict and a verb's outcome reach real receivers once, whatever happens on the way."""

import base64
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from standardwebhooks import Webhook

from ..support.alerting import alerting, entry, list_captures
from ..support.receivers import Receiver, receiving
from ..support.service import Reply, Service
from ..support.sshd import Sshd

pytestmark = pytest.mark.real("sshd", "qemu")

SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
QUICK = (
    *("notify.notifier.LOOK_AFTER = 0.5", "notify.notifier.READY_SECONDS = 0.5", "notify.notifier.ROUND_SECONDS = 0.5"),
    *("notify.notifier.ENDED_SECONDS = 0.5", "notify.notifier.TRY_AFTER = (0.0, 0.1, 0.2)"),
    *("notify.notifier.CAPTURE_SECONDS = 60.0", "notify.send.SECONDS = 2.0"),
)
PAGE = "https://rescue.example.org/bg/#vm=devvm&job="


def webhook(url: str, more: str = "") -> str:
    on = "" if "on =" in more else 'on = ["verdict", "outcome", "failed", "drill"]\n'
    return f'[[notify]]\nto = "webhook"\nurl = "{url}/hook"\nsecret = "{SECRET}"\n{on}{more}\n'


def ntfy(url: str, more: str = "") -> str:
    return f'[[notify]]\nto = "ntfy"\nurl = "{url}"\ntopic = "night"\ntoken = "tk_0"\non = ["verdict", "outcome"]\n{more}\n'


def fire(service: Service, fingerprint: str, host: str = "devvm") -> Reply:
    alert = {"status": "firing", "labels": {"host": host}, "fingerprint": fingerprint, "starts_at": "s"}
    body = json.dumps(alert).encode()
    return service.send("POST", "/alert/generic", body, service.signed(body))


def begin(service: Service, fingerprint: str) -> str:
    """Fire an alert of devvm; return the job of its capture."""
    [taken] = fire(service, fingerprint).json["accepted"]
    return str(taken["job"])


def marks(service: Service, job: str) -> tuple[object, object]:
    found: dict[str, Any] = service.pve("history", caller="viewer", vm="devvm", job=job).json["job"]
    return found.get("told"), [each["by"] for each in found.get("seen", [])]


@contextmanager
def notifying(*entries: str, alerts: str = "") -> Iterator[tuple[Service, Sshd]]:
    with alerting(entry("generic", 0, host="devvm") + alerts + "".join(entries), *QUICK) as running:
        yield running


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture(scope="module")
def told(receiver: Receiver) -> Iterator[Service]:
    with notifying(webhook(receiver.url), ntfy(receiver.url)) as (service, _):
        yield service


def test_an_alert_becomes_one_message(told: Service, receiver: Receiver) -> None:
    """The webhook passes the published check, ntfy's line has the job's id, and the host knows that people were told."""
    job = begin(told, "one")
    receiver.wait(2)
    told.logged('"event": "notify"', times=2)
    list_captures(told)
    by_path = {path: (headers, body) for path, headers, body in receiver.requests}
    headers, body = by_path["/hook"]
    assert Webhook(SECRET).verify(body, headers)["data"] == {
        **{"key": job, "stage": "verdict", "vm": "devvm", "url": PAGE + job, "quiet": False},
        **{name: json.loads(body)["data"][name] for name in ("title", "text", "code", "urgent")},
    }
    assert headers["webhook-id"] == f"{job}_verdict"
    headers, body = by_path["/"]
    line = json.loads(body)
    assert headers["authorization"] == "Bearer tk_0"
    assert (line["topic"], line["sequence_id"], line["click"]) == ("night", job, PAGE + job)
    assert [action["action"] for action in line["actions"]] == ["view"]
    assert line["title"].startswith("devvm at ")
    assert marks(told, job)[0] == "told"
