"""A rolling update: two handlers behind nginx are replaced one after the other, while verbs and alerts are under way.

The new handler is ready before the old one goes, as deploy/kubernetes/base has it. In the cluster, a proxy hears of
that within `preStop`: here, nginx gets its new list, and SIGTERM comes when its last request to the old handler is
answered. The harsher case: SIGTERM comes in the middle of a burst, and nginx continues to send to the old handler.
"""

import copy
import http.client
import json
import signal
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from breakglass.agents.pve.words import DEADLINES
from breakglass.client import new_id
from breakglass.demo.proxmox.world import World

from ..support.agent import set_constants
from ..support.alerting import entry
from ..support.certificates import make_certificate
from ..support.chain import chain_files, read_links
from ..support.front import nginx_server, replaced, run_nginx
from ..support.ports import reserve_port
from ..support.service import Reply, Service
from ..support.signals import signal_process
from ..support.sshd import Sshd, descendants
from ..support.stages import memory, until

pytestmark = [pytest.mark.all, pytest.mark.real("sshd", "qemu", "nginx", "curl")]

# In each of two steps, one handler is replaced. Each reset is sent twice at once, as by a sender that repeats it.
RESETS, READS, ALERTS = 10, 40, 5
GOES_AT = 3  # of the resets
READ = ("status", "status", "history", "status")
# A handler that stops gives what is under way 3 s, a host 5 s to say that it is there, and a host a status 4 s. A busy
# machine takes longer for one of so many.
PATIENT = "import sys; from breakglass.proxmox import link; link.ALIVE_SECONDS = 60.0; "
PATIENT += "from breakglass.web import alert; alert.ACK_SECONDS = 60.0; "
PATIENT += "from breakglass.server import server; server.ANSWER_SECONDS = 30.0; "
PATIENT += "from breakglass.cli.main import main; sys.exit(main())"


class Balancer:
    """nginx as in deploy/, in front of several handlers, with connections that stay open, as a controller's."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.port = directory, reserve_port()
        make_certificate(directory)
        self.tls = ssl.create_default_context(cafile=directory / "ca.pem")
        self._upstream = ""

    @contextmanager
    def run(self, *handlers: Service) -> Iterator[None]:
        """Run nginx in front of these handlers."""
        backend = "http://127.0.0.1:1"
        server = replaced(
            nginx_server("nginx", self.directory, self.port, 1),
            [
                (f"proxy_pass {backend};", 'proxy_pass http://handlers;\nproxy_set_header Connection "";'),
                (backend, "http://handlers"),
            ],
        )
        self._upstream = self._list(handlers)
        with run_nginx(self.directory, self.port, f"{self._upstream}\n{server}"):
            yield

    def _list(self, handlers: tuple[Service, ...]) -> str:
        servers = " ".join(f"server 127.0.0.1:{handler.port};" for handler in handlers)
        # nginx lets an idle connection go before a handler does, which is after 5 s, or 0.5 s after SIGTERM. A verb
        # that is sent at the moment when the other end closes is lost, and nginx may not send it again.
        return f"upstream handlers {{ {servers} keepalive 16; keepalive_timeout 200ms; }}"

    def route(self, *handlers: Service) -> None:
        """Have nginx send to these handlers; return when its old process has answered all, and has ended."""
        file, new = self.directory / "nginx.conf", self._list(handlers)
        file.write_text(replaced(file.read_text(), [(self._upstream, new)]))
        self._upstream = new
        pid_file = self.directory / "nginx.pid"
        until(lambda: pid_file.exists() and pid_file.read_text(), "nginx's pid, which it writes once it listens")
        master = int(pid_file.read_text())
        old = set(descendants(master))
        signal_process(master, signal.SIGHUP)
        until(lambda: (now := set(descendants(master))) and not now & old, "the end of nginx's old process")

    def send(self, path: str, body: bytes, headers: dict[str, str]) -> Reply:
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=120, context=self.tls)
        try:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            return Reply(response.status, dict(response.headers.items()), response.read())
        finally:
            connection.close()


class Rollout:
    """Two handlers of one configuration, what is sent to them through nginx, and every answer."""

    def __init__(self, first: Service, balancer: Balancer, stack: ExitStack) -> None:
        self.first, self.balancer, self._stack = first, balancer, stack
        self.all = [first]
        self.serving = [first, self.new()]
        self.verbs: list[tuple[str, str, list[Reply]]] = []  # verb, id, its answers
        self.alerts: list[tuple[str, Reply]] = []
        self._pool = stack.enter_context(ThreadPoolExecutor(12))

    def new(self) -> Service:
        """Start one more handler, as a pod that is not ready yet; return it when it is."""
        handler = copy.copy(self.first)
        handler.port = reserve_port()
        handler.start()
        self._stack.callback(handler.stop)
        self.all.append(handler)
        handler.answering()
        return handler

    # --- sending ---

    def verb(self, verb: str, msg_id: str) -> Reply:
        """Send a verb. A handler that stops may answer `running`: then send the same id again, as docs/api.md says."""
        body = json.dumps({"verb": verb, "vm": "devvm"}).encode()
        for _ in range(20):
            reply = self.balancer.send("/pve", body, self.first.signed(body, msg_id=msg_id))
            if reply.status != 202:
                break
        return reply

    def alert(self, name: str) -> Reply:
        alert = {
            "status": "firing",
            "labels": {"host": "devvm"},
            "starts_at": "2026-11-24T02:50:00Z",
            "fingerprint": name,
        }
        body = json.dumps(alert).encode()
        return self.balancer.send("/alert/generic", body, self.first.signed(body))

    def step(self, name: str, goes: Callable[[Service], None]) -> None:
        """Replace the older handler by a new one, in the middle of what is sent."""
        old, new = self.serving.pop(0), self.new()
        sent: list[tuple[str, str, list[Future[Reply]]]] = []
        alerts: list[tuple[str, Future[Reply]]] = []

        def submit(verb: str, times: int) -> list[Future[Reply]]:
            msg_id = new_id()
            sent.append((verb, msg_id, [self._pool.submit(self.verb, verb, msg_id) for _ in range(times)]))
            return sent[-1][2]

        self.serving.append(new)
        self.balancer.route(old, *self.serving)
        gone: Future[None] | None = None
        for number in range(RESETS):
            reset = submit("reset", 2)
            for each in range(READS // RESETS):
                submit(READ[each], 1)
            if number % (RESETS // ALERTS) == 0:
                alerts.append((f"{name}-{number}", self._pool.submit(self.alert, f"{name}-{number}")))
            if number == GOES_AT:
                gone = self._pool.submit(goes, old)
            for future in reset:
                future.result()
        assert gone is not None
        gone.result()
        assert old.process.wait(60) == 0
        self.verbs += [(verb, msg_id, [each.result() for each in replies]) for verb, msg_id, replies in sent]
        self.alerts += [(fingerprint, reply.result()) for fingerprint, reply in alerts]

    def politely(self, old: Service) -> None:
        """As Kubernetes does: nginx gets its new list, `preStop` passes, and then comes SIGTERM."""
        self.balancer.route(*self.serving)
        signal_process(old.process.pid, signal.SIGTERM)

    def harshly(self, old: Service) -> None:
        """SIGTERM comes first, and nginx learns nothing of it but what it sees."""
        signal_process(old.process.pid, signal.SIGTERM)


@pytest.fixture
def rollout(world: World, sshd: Sshd, tmp_path: Path) -> Iterator[Rollout]:
    set_constants(world, DEADLINES={**DEADLINES, **dict.fromkeys(("ping", "status", "history", "job"), 60.0)})
    first = Service(
        world.directory,
        port=sshd.port,
        key=sshd.power_key,
        host_key=[sshd.host_key],
        extra=entry("generic", 0, host="devvm"),
        program=("-c", PATIENT),
    )
    with ExitStack() as stack:
        stack.callback(first.stop)
        first.answering()
        balancer = Balancer(tmp_path / "front")
        rollout = Rollout(first, balancer, stack)
        with balancer.run(*rollout.serving):
            yield rollout


def taken(handler: Service) -> list[str]:
    """Return the captures that the host took from a handler, as its log says."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in handler.log().splitlines()]
    return [each["job"] for line in lines if line.get("event") == "alert" for each in line["taken"]]


def test_a_rolling_update_interrupts_nothing(rollout: Rollout, world: World) -> None:
    """100 verbs and 10 alerts while both handlers are replaced: each id acts once, and no request fails."""
    for name, how in (("a", rollout.politely), ("b", rollout.harshly)):
        rollout.step(name, how)
    assert (len(rollout.verbs), len(rollout.alerts), len(rollout.all)) == (100, 10, 4)
    bad = [
        (verb, reply.status, reply.body[:300])
        for verb, _, replies in rollout.verbs
        for reply in replies
        if reply.status != 200 or reply.json["outcome"] != "done"
    ]
    bad += [
        (name, reply.status, reply.body[:300])
        for name, reply in rollout.alerts
        if reply.status != 202 or len(reply.json["accepted"]) != 1
    ]
    assert bad == []
    run, _ = chain_files(world)
    began = Counter(link["job"] for link in read_links(run) if link["event"] == "begins")
    resets = [msg_id for verb, msg_id, _ in rollout.verbs if verb == "reset"]
    assert began == Counter(resets)
    for handler in rollout.all:
        handler.stop()
    captures = Counter(job for handler in rollout.all for job in taken(handler))
    assert set(captures.values()) == {1}
    jobs = {reply.json["accepted"][0]["job"] for _, reply in rollout.alerts}
    assert jobs == set(captures)
    for job in captures:
        assert memory(world, "jobs", job).is_dir()
