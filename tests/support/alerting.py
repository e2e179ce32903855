"""A handler with senders and alert entries in front of a host, and a real Alertmanager."""

import http.client
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from breakglass.agents.pve.words import DEADLINES
from breakglass.demo.proxmox.world import VMID, World

from .agent import READS, set_constants
from .ports import reserve_port
from .qemu import leave_out_guest
from .service import Reply, Service, with_constants
from .sshd import Sshd, wait_listening
from .stages import until

TOKEN = "bgt_" + "am" * 22
OTHER_TOKEN = "bgt_" + "no" * 22
EXPIRED_TOKEN = "bgt_" + "ex" * 22
GRAFANA_SECRET = "a secret that is thirty-two chars"
URLS = ("https://rescue.example.org/bg/", "https://spare.example.org/")
SENDERS = f"""
[callers.alertmanager]
token = "{TOKEN}"
allow = ["forensics", "status"]
[callers.elsewhere]
token = "{OTHER_TOKEN}"
allow = ["forensics"]
vms = ["other"]
[callers.old]
token = "{EXPIRED_TOKEN}"
allow = ["forensics"]
not_after = 2020-01-01T00:00:00Z
[callers.grafana]
grafana_secret = "{GRAFANA_SECRET}"
allow = ["forensics"]
"""


def entry(source: str, fresh_seconds: int = 600, **match: str) -> str:
    """Return an `[[alerts]]` entry for the one VM."""
    labels = ", ".join(f"{name} = {json.dumps(value)}" for name, value in match.items())
    return f'[[alerts]]\nsource = "{source}"\nmatch = {{ {labels} }}\nvm = "devvm"\nfresh_seconds = {fresh_seconds}\n'


OTHER_VM = """[hosts.pve2]
ssh = "breakglass@127.0.0.1:1"
key = '''{key}'''
host_key = "any"
[vms.other]
hosts = ["pve2"]
vmid = 103
[[alerts]]
source = "generic"
match = {{ host = "other" }}
vm = "other"
"""


@contextmanager
def alerting(entries: str, *constants: str) -> Iterator[tuple[Service, Sshd]]:
    """Run VM 102, its sshd, and a handler with the senders above, these entries and a second VM out of reach."""
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory, ExitStack() as begun:
        world = World(Path(directory))
        begun.callback(world.close)
        leave_out_guest(world)
        assert world.qm("start", str(VMID)).returncode == 0
        sshd = Sshd(world)
        begun.callback(sshd.stop)
        extra = SENDERS + entries + OTHER_VM.format(key=sshd.power_key)
        # Longer than the product's own limits, because a busy host is slow.
        set_constants(world, DEADLINES=DEADLINES | READS, CLAIM_SECONDS=30.0)
        program = with_constants("web.alert.ACK_SECONDS = 60.0", "web.alert.PLAN_SECONDS = 60.0", *constants)
        service = Service(world.directory, extra=extra, urls=URLS, program=program, **sshd.access)
        begun.callback(service.stop)
        service.answering()
        yield service, sshd


def send_with_token(service: Service, path: str, payload: object, token: str = TOKEN) -> Reply:
    """Send a payload with a bearer token."""
    return service.send("POST", path, json.dumps(payload).encode(), {"authorization": f"Bearer {token}"})


def list_captures(service: Service) -> list[dict[str, Any]]:
    """Return the captures that the host knows of, newest first, once none is running."""
    found: list[dict[str, Any]] = []

    def all_have_ended() -> bool:
        jobs = service.pve("history", vm="devvm").json["jobs"]
        found[:] = [job for job in jobs if job["verb"] == "forensics"]
        return all(job["outcome"] is not None for job in found)

    until(all_have_ended, "the end of each capture", 120)
    return found


class Alertmanager:
    """Debian's Alertmanager on loopback, without a cluster."""

    def __init__(self, directory: Path, config: str) -> None:
        self.port = reserve_port()
        self.directory = directory / f"am-{self.port}"
        self.directory.mkdir()
        token = self.directory / "token"
        token.write_text(TOKEN + "\n")
        self.config = self.directory / "alertmanager.yml"
        # this differs from the printed configuration in the token's path and the minute between two notifications
        config = config.replace("/etc/alertmanager/breakglass.token", str(token))
        self.config.write_text(config.replace("group_interval: 1m", "group_interval: 1s"))
        program = shutil.which("prometheus-alertmanager")
        assert program is not None
        options = {
            "config.file": self.config,
            "storage.path": self.directory,
            "web.listen-address": f"127.0.0.1:{self.port}",
            "cluster.listen-address": "",
            "log.level": "debug",
        }
        self._log = (self.directory / "log").open("wb")
        argv = [program, *(f"--{name}={value}" for name, value in options.items())]
        self.process = subprocess.Popen(argv, stdout=self._log, stderr=subprocess.STDOUT)
        wait_listening(self.port, self.process)

    def alert(self, labels: Mapping[str, str], start: float, end: float | None = None) -> None:
        """Send it an alert, as Prometheus does. An alert whose end is in the past is resolved."""
        times = {"startsAt": _rfc3339(start), **({} if end is None else {"endsAt": _rfc3339(end)})}
        alert = {"labels": labels, "annotations": {"summary": "devvm does not answer"}, **times}
        assert self._ask("POST", "/api/v2/alerts", json.dumps([alert])).startswith("200")

    def count_answers(self) -> int:
        """Return the number of notifications that were answered, whether with success or an error."""
        return self.count("notification_latency_seconds_count")

    def count(self, metric: str) -> int:
        """Return the value of one of Alertmanager's counters for webhooks."""
        text = self._ask("GET", "/metrics")
        values = re.findall(rf'^alertmanager_{metric}{{[^}}]*integration="webhook"[^}}]*}} (\S+)$', text, re.MULTILINE)
        return int(sum(map(float, values)))

    def _ask(self, method: str, path: str, body: str | None = None) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, {"content-type": "application/json"})
            response = connection.getresponse()
            return f"{response.status} {response.read().decode()}"
        finally:
            connection.close()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()


def _rfc3339(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at * 1000) % 1000:03d}Z"
