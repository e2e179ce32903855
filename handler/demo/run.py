"""`breakglass demo`: a Proxmox host with a VM, the handler in front of it, and five ways to try it."""

import asyncio
import base64
import importlib.util
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from ..config.model_api import API_KEY, BASE_URL, CREDENTIALS, ModelApi
from .account import find_package, find_program, open_to_handler, write_server_table
from .ending import wait_for_end
from .lines import ENDED, LEFT, REAL, SCRIPTED, describe
from .model.investigation import next_step
from .model.server import Model
from .proxmox.world import VMID, World
from .sshd import DemoHost, listen

CONFIG = """\
[callers.demo]
secret = "{secret}"
allow  = ["status", "forensics", "start", "stop", "reset", "cycle", "history", "chat"]

[hosts.demo]
ssh           = "breakglass@127.0.0.1:{port}"
key           = '''{power_key}'''
read_only_key = '''{read_only_key}'''
host_key      = ["{host_key}"]

[vms.devvm]
hosts   = ["demo"]
vmid    = {vmid}
drill   = true
by_hand = ["{bin}/qm status {vmid}", "{bin}/qm reset {vmid}", "{bin}/qm stop {vmid}", "{bin}/qm start {vmid}"]

[sessions]
secret = "{session_secret}"
dir    = "{directory}/sessions"
"""

CHAT = """
[chat]
command    = {claude}
shared_uid = true
base_url   = {base_url}
credential_file = {credential_file}
"""

REMOVAL_TRIES = 3


def run(say: Callable[[str], None], scenario: str, chat: bool = True, real_model: bool = False) -> int:
    """Run the demo until it is interrupted, its VM in the state that SCENARIOS names; leave nothing behind.

    With `chat`, and if the real `claude` is installed, claude talks to a scripted model. With `real_model` it uses the
    model of the operator's own credential.
    """
    own = find_credential(os.environ) if real_model else None
    if real_model and not own:
        say(f"--real-model needs a credential in the environment: {', '.join(CREDENTIALS)}")
        return 2
    received: list[int] = []
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:  # what is left is said
        code = _run_in(Path(directory), say, scenario, chat, own, received)
    if signal.SIGINT in received:
        left = wait_for_end(directory)
        commands = [shlex.join(["kill", *map(str, left)])] if left else []
        commands += [shlex.join(["rm", "-r", directory])] if Path(directory).exists() else []
        say(LEFT.format(commands="; ".join(commands)) if commands else ENDED)
    return code


def _run_in(
    directory: Path, say: Callable[[str], None], scenario: str, chat: bool, own: ModelApi | None, received: list[int]
) -> int:
    """Run the demo in a directory until a signal comes, which is appended to `received`; return the exit code."""
    world = World(directory, scenario=scenario)
    try:
        try:
            world.begin()
        except RuntimeError as error:
            say(str(error))
            return 1
        claude = find_claude() if chat and shutil.which("ssh") else None  # claude's commands run ssh
        model = Model(next_step) if claude and not own else None
        api = own or (ModelApi(API_KEY, "none", model.url) if model else None)
        table = write_chat_table(world.directory, claude, api) if claude and api else ""
        try:
            return asyncio.run(_serve(world, say, table, bool(own), received))
        finally:
            if model:
                model.close()
    finally:
        _remove(world)


def _remove(world: World) -> None:
    """End what the world's commands started, and remove its files.

    A host agent that was just being started still makes files, and an agent ends by itself: its input has ended.
    """
    for _ in range(REMOVAL_TRIES):
        world.close()
        wait_for_end(str(world.directory))
        shutil.rmtree(world.directory, ignore_errors=True)
        if not world.directory.exists():
            return


def find_credential(environment: Mapping[str, str]) -> ModelApi | None:
    """Return the credential that claude itself would take from an environment, and the API that it is for."""
    base_url = environment.get("ANTHROPIC_BASE_URL", BASE_URL)
    found = (ModelApi(name, environment[name], base_url) for name in CREDENTIALS if environment.get(name))
    return next(found, None)


def write_chat_table(directory: Path, claude: Path, api: ModelApi) -> str:
    """Write the credential into a file, and return the table [chat]; nothing else of this environment is in it."""
    path = directory / "credential"
    path.touch(0o600)
    path.write_text(f"{api.variable}={api.credential}\n")
    open_to_handler(directory, path)
    fields = {"claude": str(find_program(claude, directory)), "base_url": api.base_url, "credential_file": str(path)}
    return CHAT.format(**{name: json.dumps(value) for name, value in fields.items()})


def find_claude() -> Path | None:
    """Return the `claude` of the claude-agent-sdk wheel, or the one on PATH."""
    spec = importlib.util.find_spec("claude_agent_sdk")
    bundled = [Path(place) / "_bundled/claude" for place in (spec.submodule_search_locations or ())] if spec else []
    found = shutil.which("claude")
    return next((path for path in (*bundled, *([Path(found)] if found else [])) if path.is_file()), None)


async def _serve(world: World, say: Callable[[str], None], chat: str, real_model: bool, received: list[int]) -> int:
    stop = asyncio.Event()

    def end(number: int) -> None:
        received.append(number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    host = await listen(world)
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    config = write_config(world, host, secret, chat)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ANTHROPIC_", "CLAUDE_"))}
    reservation = reserve_port()
    port = int(os.environ.get("PORT", "0")) or int(reservation.getsockname()[1])
    environment = {**inherited, "BREAKGLASS_CONFIG": str(config), "HOST": "127.0.0.1", "PORT": str(port)}
    handler = await asyncio.create_subprocess_exec(
        # by its path: `-m` would look for it in the current directory first, and a bare checkout is not installed
        *(sys.executable, str(find_package(world.directory)), "serve"),
        env=environment,
        start_new_session=True,
    )
    try:
        if not await has_started(handler, port):
            return 1
        say(describe(world, secret, port, (REAL if real_model else SCRIPTED) if chat else ""))
        await asyncio.wait(
            [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(handler.wait())],
            return_when=asyncio.FIRST_COMPLETED,
        )
        return 0 if stop.is_set() else 1
    finally:
        if handler.returncode is None:
            handler.terminate()
            await handler.wait()
        reservation.close()
        await host.close()


def write_config(world: World, host: DemoHost, secret: str, chat: str = "") -> Path:
    """Write the handler's configuration and the caller's secret, for this run only."""
    text = CONFIG.format(
        secret=secret,
        port=host.port,
        power_key=host.power_key,
        read_only_key=host.read_only_key,
        host_key=host.host_key,
        vmid=VMID,
        bin=world.bin,
        session_secret=secrets.token_urlsafe(48),
        directory=world.directory,
    )
    for name, content in (("breakglass.toml", text + write_server_table() + chat), ("secret", secret)):
        path = world.directory / name
        path.touch(0o600)
        path.write_text(content)
    open_to_handler(world.directory, world.directory / "breakglass.toml")
    return world.directory / "breakglass.toml"


def reserve_port() -> socket.socket:
    """Return a socket that keeps a loopback port from every other program until the handler listens on it.

    It does not listen itself. The handler sets SO_REUSEADDR, and so can bind the port too.
    """
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reservation.bind(("127.0.0.1", 0))
    return reservation


async def has_started(handler: asyncio.subprocess.Process, port: int) -> bool:
    """Return True once the handler listens, and False if it ends before that; then it has said why."""
    ended, listens = asyncio.ensure_future(handler.wait()), asyncio.ensure_future(wait_for_port(port))
    try:
        await asyncio.wait([ended, listens], return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            await listens
        return not ended.done()
    finally:
        ended.cancel()
        listens.cancel()


async def wait_for_port(port: int, seconds: float = 60) -> None:
    """Wait until a server listens on the port; raise TimeoutError if none does in time."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
