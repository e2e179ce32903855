"""`breakglass demo`: a Proxmox host with a VM, the handler in front of it, and four ways to try it."""

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
from .model.investigation import next_step
from .model.server import Model
from .proxmox.world import SCENARIOS, VMID, World
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

TEXT = """
  VM {vmid} "devvm", {machine}: {scenario}

  page    http://127.0.0.1:{port}/#key={secret}

  curl    {curl}

  call    BREAKGLASS_URL=http://127.0.0.1:{port} BREAKGLASS_SECRET_FILE={directory}/secret {breakglass} call cycle

  chat    {chat}

  The keys work for this run only. Ctrl-C ends everything.
"""


SCRIPTED = "the real claude; its model is a script on this machine"
REAL = "the real claude with the real model: it uses your credential from the environment, and you pay for it"
NO_CHAT = "off: --no-chat was given, or claude is not installed"


def run(say: Callable[[str], None], scenario: str, chat: bool = True, real_model: bool = False) -> int:
    """Run the demo until it is interrupted, its VM in the state that SCENARIOS names; leave nothing behind.

    With `chat`, and if the real `claude` is installed, claude talks to a scripted model. With `real_model` it uses the
    model of the operator's own credential.
    """
    own = find_credential(os.environ) if real_model else None
    if real_model and not own:
        say(f"--real-model needs a credential in the environment: {', '.join(CREDENTIALS)}")
        return 2
    with tempfile.TemporaryDirectory(prefix="bg") as directory:
        world = World(Path(directory), scenario=scenario)
        try:
            try:
                world.begin()
            except RuntimeError as error:
                say(str(error))
                return 1
            claude = find_claude() if chat else None
            model = Model(next_step) if claude and not own else None
            api = own or (ModelApi(API_KEY, "none", model.url) if model else None)
            table = write_chat_table(world.directory, claude, api) if claude and api else ""
            try:
                return asyncio.run(_serve(world, say, table, bool(own)))
            finally:
                if model:
                    model.close()
        finally:
            _remove(world)


def _remove(world: World) -> None:
    """End what the world's commands started, and remove its files; one that was just being started is found late."""
    for _ in range(REMOVAL_TRIES):
        world.close()
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


async def _serve(world: World, say: Callable[[str], None], chat: str, real_model: bool) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    host = await listen(world)
    port = int(os.environ.get("PORT", "0")) or free_port()
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    config = write_config(world, host, secret, chat)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ANTHROPIC_", "CLAUDE_"))}
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


def free_port() -> int:
    """Return a free loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


async def wait_for_port(port: int, seconds: float = 20) -> None:
    """Wait until a server listens on the port; raise TimeoutError if none does in time."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)


def name_program(started_as: str) -> str:
    """Return the words that run this command from any directory, for a shell."""
    path = Path(started_as).resolve()
    is_program = path.is_file() and os.access(path, os.X_OK)  # not as `python handler demo`
    return shlex.join([*([] if is_program else [sys.executable]), str(path)])


def describe(world: World, secret: str, port: int, model: str) -> str:
    """Return what the demo prints: the page, a signed curl line, the call line."""
    breakglass = name_program(sys.argv[0])
    sign = f"BREAKGLASS_SECRET_FILE={world.directory}/secret {breakglass} sign"
    body = '{"verb":"cycle"}'
    ask = f"BREAKGLASS_URL=http://127.0.0.1:{port} BREAKGLASS_SECRET_FILE={world.directory}/secret {breakglass} chat"
    return TEXT.format(
        vmid=VMID,
        scenario=f"{world.scenario}, {SCENARIOS[world.scenario]}",
        machine="a real QEMU" if world.qemu else "a stand-in (qemu-system-x86_64 is not installed)",
        port=port,
        secret=secret,
        directory=world.directory,
        breakglass=breakglass,
        chat=f"{ask}\n          {model}" if model else NO_CHAT,
        curl=f"printf '{body}' | {sign} | curl -sSN -H @- -H 'accept: application/x-ndjson' -d '{body}' "
        f"http://127.0.0.1:{port}/pve"
        if shutil.which("curl")
        else "curl is not installed",
    )
