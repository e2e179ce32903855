"""`./dev bench`: one run, side by side, on real parts. Prints a table and, as the last line, the same as JSON.

(a) one `ssh` process a verb, (b) a warm connection and one exec a verb, (c) a bare resident session, (d) this handler;
all against the same sshd and the same forced command. Bounded in count and time, loopback only.
"""

import argparse
import asyncio
import http.client
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncssh

from breakglass.config.model import Address, Host
from breakglass.demo.proxmox.world import VMID, World
from breakglass.proxmox.channel import Channel
from breakglass.proxmox.connect import known_hosts
from breakglass.proxmox.host import HostConnection
from breakglass.proxmox.link import open_link

from ..support import claude, parts
from ..support.ports import reserve_port
from ..support.service import Service, as_handler
from ..support.sshd import Sshd
from . import chat, floods, hostile, hosts, last_words, moves, nights, page, scrapes, slow_page, unread, walks
from .alerts import TITLES as ALERT_TITLES
from .alerts import alert_figures
from .client import Keeping, millis, resident_kib, timed

LINE = f"status vm={VMID}"
FLOOD_SECONDS = 4.0
FLOOD_CONNECTIONS = 64
BARE = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
import uvicorn, sys
async def health(request): return JSONResponse({"ok": True})
uvicorn.run(Starlette(routes=[Route("/health", health)]), port=int(sys.argv[1]), log_level="warning", access_log=False)
"""

Figures = dict[str, float]


# --- the four ways to send a verb ---


def by_ssh(sshd: Sshd, count: int) -> float:
    """(a): what a shell script does."""
    identity, known = sshd.directory / "bench_key", sshd.directory / "bench_hosts"
    identity.touch(0o600)
    identity.write_text(sshd.power_key)
    known.write_text(f"[127.0.0.1]:{sshd.port} {sshd.host_key}\n")
    settings = ("BatchMode=yes", "ConnectTimeout=10", "IdentitiesOnly=yes", f"UserKnownHostsFile={known}")
    options = [flag for setting in settings for flag in ("-o", setting)]
    command = ["ssh", "-F", "none", *options, "-i", str(identity), "-p", str(sshd.port), "breakglass@127.0.0.1", LINE]
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
    service = Service(world.directory, port=sshd.port, key=sshd.power_key, host_key=[sshd.host_key])
    Keeping(service).status()
    taken = time.perf_counter() - began
    service.stop()
    return round(taken * 1000, 1)


# --- load ---


async def flood(port: int, connections: int, seconds: float) -> int:
    """Send badly signed requests on kept-alive connections; return how many were answered with 401."""
    body = b'{"verb":"reset"}'
    head = (
        f"POST /pve HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\nwebhook-id: msg_{secrets.token_hex(12)}\r\n"
        f"webhook-timestamp: {int(time.time())}\r\nwebhook-signature: v1,{'A' * 43}=\r\n\r\n"
    ).encode()
    until = time.monotonic() + seconds
    return sum(await asyncio.gather(*(_flooding(port, head + body, until) for _ in range(connections))))


async def _flooding(port: int, request: bytes, until: float) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answered = 0
    while time.monotonic() < until:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 401")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        answered += 1
    writer.close()
    return answered


def flooded(service: Service, connections: int) -> tuple[float, list[float]]:
    """Return rejected requests a second, and the seconds of good statuses meanwhile (none without connections > 1)."""
    command = [sys.executable, "-m", "tests.bench", "--flood", str(service.port), str(connections)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # it has begun
    samples: list[float] = []
    keeping = Keeping(service)
    until = time.monotonic() + FLOOD_SECONDS - 0.5
    while time.monotonic() < until:
        samples += timed(keeping.status, 1, warm=0)
    answered = int(process.communicate()[0])
    return answered / FLOOD_SECONDS, samples


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


def measure(world: World, sshd: Sshd, service: Service, count: int) -> Figures:
    """Return every figure, in milliseconds unless its name says otherwise."""
    host = Host("pve1", Address("breakglass", "127.0.0.1", sshd.port), sshd.power_key, host_keys=(sshd.host_key,))
    keeping = Keeping(service)
    found: Figures = {"a_ssh": by_ssh(sshd, count)}
    found["b_exec"], found["c_session"] = asyncio.run(by_exec_and_session(host, count))
    found["d_handler"] = millis(timed(keeping.status, count * 10, warm=20))
    found["a_over_d"] = round(found["a_ssh"] / found["d_handler"], 1)
    found["d_over_c"] = round(found["d_handler"] / found["c_session"], 2)
    found["rss_idle_mib"] = round(resident_kib(service.process.pid) / 1024, 1)
    found["bare_cold"], found["handler_cold"] = cold_starts(service, max(3, count // 3))
    found["cold_ratio"] = round(found["handler_cold"] / found["bare_cold"], 2)
    found["first_status"] = first_status(world, sshd)
    rate, samples = flooded(service, FLOOD_CONNECTIONS)
    found["rejected_per_second"], found["flood_status"] = round(rate), millis(samples)
    found["flood_status_worst"] = round(max(samples) * 1000, 1)
    found |= floods.flood_figures(service)
    found["crowd_200"], executions = asyncio.run(crowd(host))
    found["crowd_executions"] = executions
    found["crowd_http_200"], found["crowd_http_failures"] = crowd_http(service)
    return found


TITLES = {
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
    "rejected_per_second": "rejected a second, 64 connections",
    "flood_status": "good status under that flood, median, ms",
    "flood_status_worst": "the same, worst, ms",
    "crowd_200": "200 statuses at once on one link, ms",
    "crowd_executions": "executions on the host for them (wanted: at most 2)",
    "crowd_http_200": "200 statuses at once over HTTP, ms",
    "crowd_http_failures": "failures among them (wanted: 0)",
    **floods.TITLES,
    **scrapes.TITLES,
    **hostile.TITLES,
    **unread.TITLES,
    **hosts.TITLES,
    **moves.TITLES,
    **ALERT_TITLES,
    **chat.TITLES,
    **page.TITLES,
    **slow_page.TITLES,
    **walks.TITLES,
    **nights.TITLES,
    **last_words.TITLES,
}


def main(arguments: list[str]) -> int:
    """Run the bench, or be its flooding process."""
    if arguments[:1] == ["--flood"]:
        print("begun", flush=True)
        print(asyncio.run(flood(int(arguments[1]), int(arguments[2]), FLOOD_SECONDS)))
        return 0
    parser = argparse.ArgumentParser(prog="./dev bench", description="Measure everything; takes more than 10 minutes.")
    parser.add_argument("--quick", action="store_true", help="take 9 samples of each figure in place of 30")
    count = 9 if parser.parse_args(arguments).quick else 30
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
        world = World(Path(directory))
        assert world.qm("start", str(VMID)).returncode == 0
        sshd = Sshd(world)
        try:
            found = _with_service(world, sshd, count)
            found |= scrapes.scrape_figures(world, sshd)
            found |= hostile.hostile_figures(world, sshd, Path(directory))
            found |= hosts.memory_figures(world, sshd, Path(directory))
        finally:
            sshd.stop()
            world.close()
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
        found |= hosts.fleet_figures(Path(directory))
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
        found |= moves.move_figures(Path(directory))
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o711)
        found |= unread.unread_figures(Path(directory))
    found |= alert_figures(max(3, count // 6))
    behind_nginx = parts.find_browser() and shutil.which("nginx")
    for part, figures in (
        (claude.find(), chat.measure),
        (parts.find_browser(), page.page_figures),
        (behind_nginx, slow_page.slow_page_figures),
        (parts.find_browser() and shutil.which("qemu-system-x86_64"), walks.walk_figures),
    ):
        if part is not None:
            with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
                Path(directory).chmod(0o711)
                found |= figures(Path(directory))
    if shutil.which("qemu-system-x86_64"):
        found |= nights.night_figures()
    if not parts.missing("guest"):
        found |= last_words.last_words_figures()
    width = max(map(len, TITLES.values()))
    for name, title in TITLES.items():
        print(f"{title:<{width}}  {found.get(name, 'not measured'):>10}")
    print(json.dumps(found))
    return 0


def _with_service(world: World, sshd: Sshd, count: int) -> dict[str, Any]:
    service = Service(world.directory, port=sshd.port, key=sshd.power_key, host_key=[sshd.host_key])
    try:
        service.answering()
        return measure(world, sshd, service, count)
    finally:
        service.stop()
