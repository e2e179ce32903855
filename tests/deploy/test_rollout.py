"""A rolling update: one of three handlers behind nginx ends while verbs and alerts are under way.

It is harsher than deploy/kubernetes/base: SIGTERM comes in the middle of a burst, and nginx continues to send to the
old handler.
"""

import copy
import http.client
import json
import signal
import ssl
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

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
from ..support.sshd import Sshd
from ..support.stages import memory

pytestmark = [pytest.mark.all, pytest.mark.real("sshd", "qemu", "nginx")]

# A handler that stops gives what is under way 3 s, a host 5 s to say that it is there, and a host a status 4 s. A busy
# machine takes longer for one of so many.
PATIENT = "import sys; from breakglass.proxmox import link; link.ALIVE_SECONDS = 60.0; "
PATIENT += "from breakglass.web import alert; alert.ACK_SECONDS = 60.0; "
PATIENT += "from breakglass.server import server; server.ANSWER_SECONDS = 30.0; "
PATIENT += "from breakglass.cli.main import main; sys.exit(main())"


class Balancer:
    """nginx as in deploy/, in front of several handlers, with connections that stay open, as a controller's."""

    def __init__(self, directory: Path, stack: ExitStack, *handlers: Service) -> None:
        self.port = reserve_port()
        make_certificate(directory)
        self.tls = ssl.create_default_context(cafile=directory / "ca.pem")
        backend, servers = "http://127.0.0.1:1", " ".join(f"server 127.0.0.1:{each.port};" for each in handlers)
        changes = [
            (f"proxy_pass {backend};", 'proxy_pass http://handlers;\nproxy_set_header Connection "";'),
            (backend, "http://handlers"),
        ]
        server = replaced(nginx_server("nginx", directory, self.port, 1), changes)
        # nginx lets an idle connection go before a handler does, which is after 5 s, or 0.5 s after SIGTERM. A verb
        # that is sent at the moment when the other end closes is lost, and nginx may not send it again.
        upstream = f"upstream handlers {{ {servers} keepalive 16; keepalive_timeout 200ms; }}"
        stack.enter_context(run_nginx(directory, self.port, f"{upstream}\n{server}"))

    def send(self, path: str, body: bytes, headers: dict[str, str]) -> Reply:
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=120, context=self.tls)
        try:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            return Reply(response.status, dict(response.headers.items()), response.read())
        finally:
            connection.close()


def test_a_rolling_update_interrupts_nothing(world: World, sshd: Sshd, tmp_path: Path) -> None:
    """50 verbs and 5 alerts while a handler ends. Each id acts once, even if it is sent twice, and no request fails."""
    set_constants(world, DEADLINES={**DEADLINES, **dict.fromkeys(("ping", "status", "history", "job"), 60.0)})
    alerts = entry("generic", 0, host="devvm")
    with ExitStack() as stack:
        old = Service(world.directory, **sshd.access, extra=alerts, program=("-c", PATIENT))
        handlers = [old, copy.copy(old), copy.copy(old)]
        for handler in handlers:
            stack.callback(handler.stop)
            if handler is not old:
                handler.port = reserve_port()
                handler.start()
            handler.answering()
        balancer = Balancer(tmp_path / "front", stack, *handlers)

        def send_verb(verb: str, msg_id: str) -> Reply:
            """Send the same id again while the answer is `running` or lost, as docs/api.md says."""
            body = json.dumps({"verb": verb, "vm": "devvm"}).encode()
            for _ in range(20):
                reply = balancer.send("/pve", body, old.signed(body, msg_id=msg_id))
                if reply.status != 202 and reply.json["outcome"] != "unknown":
                    break
            return reply

        def send_alert(name: str) -> Reply:
            alert = {"status": "firing", "labels": {"host": "devvm"}, "starts_at": "2026-11-24T02:50:00Z"}
            body = json.dumps({**alert, "fingerprint": name}).encode()
            return balancer.send("/alert/generic", body, old.signed(body))

        verbs: list[Future[Reply]] = []
        alerted: list[Future[Reply]] = []
        resets = [new_id() for _ in range(10)]
        with ThreadPoolExecutor(12) as pool:
            for number, reset in enumerate(resets):
                both = [pool.submit(send_verb, "reset", reset) for _ in range(2)]
                verbs += both + [pool.submit(send_verb, verb, new_id()) for verb in ("status", "history") * 2]
                if number % 2 == 0:
                    alerted.append(pool.submit(send_alert, f"alert-{number}"))
                if number == 3:
                    signal_process(old.process.pid, signal.SIGTERM)
                for future in both:
                    future.result()
            assert old.process.wait(60) == 0
            replies, answers = ([each.result() for each in sent] for sent in (verbs, alerted))
        assert [reply.body for reply in replies if reply.status != 200 or reply.json["outcome"] != "done"] == []
        assert [reply.body for reply in answers if reply.status != 202] == []
        for handler in handlers:
            handler.stop()
        run, _ = chain_files(world)
        assert Counter(link["job"] for link in read_links(run) if link["event"] == "begins") == Counter(resets)
        lines = [json.loads(line) for handler in handlers for line in handler.log().splitlines()]
        taken = [each["job"] for line in lines if line.get("event") == "alert" for each in line["taken"]]
        accepted = [reply.json["accepted"][0] for reply in answers]
        # an alert that comes during the capture of another is attached to that (`suppressed`), and is not taken
        assert Counter(taken) == Counter(each["job"] for each in accepted if not each["suppressed"])
        assert {each["job"] for each in accepted} == set(taken)
        assert all(memory(world, "jobs", job).is_dir() for job in taken)
