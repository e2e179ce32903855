"""The alerts' figures of `./dev bench`: what a storm costs, and how soon evidence is on its way."""

import http.client
import json
import time
from collections.abc import Mapping

from ..support.alerting import alerting, entry, list_captures
from ..support.receivers import Inbox, receiving
from ..support.service import Service

COUNT = 500
ENTRIES = entry("generic", 600, host="devvm") + entry("generic", 0, host="unsparing")
NOTIFY = '[[notify]]\nto = "ntfy"\nurl = "{url}"\ntopic = "bench"\n'
TITLES: Mapping[str, str] = {
    "alerts_per_second": "alerts accepted a second: signature, dedup, host's word",
    "alert_repeated": "the same alert again, ms",
    "alert_captured": "alert to a new capture that the host acknowledged, ms",
    "alert_told": "alert to message, beyond the capture's own time, slowest, s (wanted: at most 10)",
}


class Sender:
    """One kept-alive connection that signs alerts."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)

    def send(self, fingerprint: str, host: str) -> float:
        """Send one alert; return the seconds until it was accepted."""
        alert = {"status": "firing", "labels": {"host": host}, "fingerprint": fingerprint, "starts_at": "2026"}
        body = json.dumps(alert).encode()
        began = time.perf_counter()
        self.connection.request("POST", "/alert/generic", body, self.service.signed(body))
        reply = json.loads(self.connection.getresponse().read())
        seconds = time.perf_counter() - began
        assert len(reply["accepted"]) == 1, reply
        return seconds


def beyond_capture(sender: Sender, inbox: Inbox, number: int) -> float:
    """Return the seconds from an alert to its message, without those of its capture."""
    began = time.perf_counter()
    sender.send(f"told-{number}", "unsparing")
    message = inbox.wait(number + 1)[-1]
    seconds = time.perf_counter() - began
    job = sender.service.pve("history", vm="devvm", job=message["sequence_id"]).json["job"]
    list_captures(sender.service)
    return seconds - float(job["seconds"])


def alert_figures(count: int) -> dict[str, float]:
    """Return the figures, from a new handler, sshd and VM: `count` captures, and COUNT alerts one by one."""
    with alerting(ENTRIES) as (service, _):
        sender = Sender(service)
        taken = []
        for number in range(count):
            taken.append(sender.send(f"capture-{number}", "unsparing"))
            list_captures(service)  # until it has ended, because the next one would join it
        sender.send("storm", "devvm")
        began = time.perf_counter()
        for number in range(COUNT):
            sender.send(f"storm-{number}", "devvm")
        rate = COUNT / (time.perf_counter() - began)
        again = sorted(sender.send("storm", "devvm") for _ in range(COUNT // 5))
    with receiving() as inbox, alerting(ENTRIES + NOTIFY.format(url=inbox.url)) as (service, _):
        sender = Sender(service)
        late = [beyond_capture(sender, inbox, number) for number in range(count)]
    return {
        "alert_told": round(max(late), 2),
        "alerts_per_second": round(rate),
        "alert_repeated": round(again[len(again) // 2] * 1000, 2),
        "alert_captured": round(sorted(taken)[len(taken) // 2] * 1000, 1),
    }
