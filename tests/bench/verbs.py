"""What a verb costs, and the start of a handler. All is against one sshd and one forced command.

(a) one `ssh` process a verb, (b) a warm connection and one exec a verb, (c) a bare resident session, (d) this handler.
"""

import asyncio
import http.client
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import asyncssh

from breakglass.config.model import Address, Host
from breakglass.demo.proxmox.world import VMID, World
from breakglass.proxmox.channel import Channel
from breakglass.proxmox.connect import known_hosts
from breakglass.proxmox.host import HostConnection
from breakglass.proxmox.link import open_link

from ..support.ports import reserve_port
from ..support.service import Service, as_handler
from ..support.sshd import Sshd
from .client import Figures, Keeping, millis, resident_kib, timed
from .hosts import MEMORY_TITLES, memory_figures

LINE = f"status vm={VMID}"
COUNT = 30  # samples of each figure
BARE = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
import uvicorn, sys
async def health(request): return JSONResponse({"ok": True})
uvicorn.run(Starlette(routes=[Route("/health", health)]), port=int(sys.argv[1]), log_level="warning", access_log=False)
"""

TITLES: Mapping[str, str] = {
    "a_ssh": "(a) ssh process a verb, ms",
    "b_exec": "(b) warm connection, exec a verb, ms",
    "c_session": "(c) bare resident session, ms",
    "d_handler": "(d) this handler, signed status, ms",
    "a_over_d": "a / d (wanted: at least 35)",
    "d_over_c": "d / c (wanted: at most 4)",
    "rss_idle_mib": "resident memory, idle, MiB",
    "bare_cold": "bare Starlette, start to first answer, ms",
    "handler_cold": "this handler, start to first answer, ms",
    "cold_ratio": "ratio (wanted: at most 1.3)",
    "first_status": "start to first signed status, ms",
    "crowd_200": "200 statuses at once on one link, ms",
    "crowd_executions": "executions on the host for them (wanted: at most 2)",
    "crowd_http_200": "200 statuses at once over HTTP, ms",
    "crowd_http_failures": "failures among them (wanted: 0)",
    **MEMORY_TITLES,
}


# --- the four ways to send a verb ---


def by_ssh(sshd: Sshd, count: int) -> float:
    """(a): what a shell script does."""
    command = [*sshd.client(sshd.power_key), LINE]
    return millis(timed(lambda: subprocess.run(command, capture_output=True, check=True), count))


async def by_exec_and_session(host: Host, count: int) -> tuple[float, float]:
    """(b) and (c): the same connection, bare."""
    link = await open_link(host)
    conn = await asyncssh.connect(
        host.ssh.host,
        host.ssh.port,
        username=host.ssh.user,
        client_keys=[asyncssh.import_private_key(host.key + "\n")],
        known_hosts=known_hosts(host),
        config=None,
        agent_path=None,
    )
    execs: list[float] = []
    sessions: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        ran = await conn.run(LINE, encoding=None)
        assert isinstance(ran.stdout, bytes)
        assert b'"state": "running"' in ran.stdout
        execs.append(time.perf_counter() - began)
    assert link.channel is not None
    sessions += [await _one(link.channel) for _ in range(count * 5)]
    conn.close()
    link.conn.close()
    return millis(execs), millis(sessions)


async def _one(channel: Channel) -> float:
    began = time.perf_counter()
    messages = [message async for message in channel.ask(LINE, 10)]
    assert messages[-1]["state"] == "running"
    return time.perf_counter() - began


# --- starting ---


def first_answer(command: list[str], port: int, environment: dict[str, str], cwd: Path) -> float:
    """Return the seconds from the start of a server to its first answer to GET /health."""
    began = time.perf_counter()
    null = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, cwd=cwd, stdout=null, stderr=null, **as_handler())
    try:
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request("GET", "/health")
                assert connection.getresponse().read()
                return time.perf_counter() - began
            except ConnectionRefusedError:
                time.sleep(0.001)
            finally:
                connection.close()
    finally:
        process.terminate()
        process.wait()


def cold_starts(service: Service, count: int) -> tuple[float, float]:
    """Return the medians of the bare Starlette app and of this handler, taken in turns."""
    bare, ours = [], []
    for _ in range(count):
        port = reserve_port()
        bare.append(first_answer([sys.executable, "-c", BARE, str(port)], port, dict(os.environ), service.directory))
        port = reserve_port()
        environment = {**os.environ, "BREAKGLASS_CONFIG": str(service.config), "PORT": str(port)}
        serve = [sys.executable, "-m", "breakglass", "serve"]
        ours.append(first_answer(serve, port, environment, service.directory))
    return millis(bare), millis(ours)


def first_status(world: World, sshd: Sshd) -> float:
    """Return the milliseconds from the start of a handler to its first signed status."""
    began = time.perf_counter()
    service = Service(world.directory, **sshd.access)
    Keeping(service).status()
    taken = time.perf_counter() - began
    service.stop()
    return round(taken * 1000, 1)


# --- 200 statuses at once ---


async def crowd(node: Host) -> tuple[float, int]:
    """Two hundred statuses at once: milliseconds for all, executions on the host."""
    host = HostConnection(node)
    await host.read(LINE)
    assert host.link is not None
    assert host.link.channel is not None
    before, began = host.link.channel.sent, time.perf_counter()
    answers = await asyncio.gather(*(host.read(LINE) for _ in range(200)))
    taken = time.perf_counter() - began
    assert all(answer[-1]["state"] == "running" for answer in answers)
    executions = host.link.channel.sent - before
    await host.close()
    return round(taken * 1000, 1), executions


def crowd_http(service: Service) -> tuple[float, int]:
    """The same through the handler, over two hundred connections: milliseconds for all, and failures."""
    began = time.perf_counter()
    replies = service.together([{"verb": "status"}] * 200)
    failures = sum(reply.status != 200 or reply.json["state"] != "running" for reply in replies)
    return round((time.perf_counter() - began) * 1000, 1), failures


# --- one run ---


def verb_figures(directory: Path) -> Figures:
    """Return every figure of TITLES."""
    world = World(directory)
    assert world.qm("start", str(VMID)).returncode == 0
    with ExitStack() as begun:
        begun.callback(world.close)
        sshd = Sshd(world)
        begun.callback(sshd.stop)
        service = Service(directory, **sshd.access)
        begun.callback(service.stop)
        service.answering()
        return measure(world, sshd, service) | memory_figures(world, sshd, directory)


def measure(world: World, sshd: Sshd, service: Service) -> Figures:
    host = Host("pve1", Address("breakglass", "127.0.0.1", sshd.port), sshd.power_key, host_keys=(sshd.host_key,))
    found: Figures = {"a_ssh": by_ssh(sshd, COUNT)}
    found["b_exec"], found["c_session"] = asyncio.run(by_exec_and_session(host, COUNT))
    found["d_handler"] = millis(timed(Keeping(service).status, COUNT * 10, warm=20))
    found["a_over_d"] = round(found["a_ssh"] / found["d_handler"], 1)
    found["d_over_c"] = round(found["d_handler"] / found["c_session"], 2)
    found["rss_idle_mib"] = round(resident_kib(service.process.pid) / 1024, 1)
    found["bare_cold"], found["handler_cold"] = cold_starts(service, COUNT // 3)
    found["cold_ratio"] = round(found["handler_cold"] / found["bare_cold"], 2)
    found["first_status"] = first_status(world, sshd)
    found["crowd_200"], found["crowd_executions"] = asyncio.run(crowd(host))
    found["crowd_http_200"], found["crowd_http_failures"] = crowd_http(service)
    return found
