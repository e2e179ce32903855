"""`breakglass demo`: a Proxmox host with a VM, the handler in front of it, and five ways to try it."""

import asyncio
import base64
import os
import secrets
import shlex
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from contextlib import nullcontext
from pathlib import Path

from ..config.model_api import CREDENTIALS, ModelApi
from .account import as_handler, find_installation, find_uid, give_to_handler, open_to_handler
from .chat import INSTALLER, DemoChat, find_credential, find_obstacle, install_and_turn_on, open_chat
from .leftovers import guarded, wait_for_end
from .lines import ENDED, LEFT, describe, describe_later
from .proxmox.guest import OLD_SECONDS
from .proxmox.kernel import find_kernel
from .proxmox.world import VMID, World
from .sshd import DemoHost, listen

CONFIG = """\
[callers.demo]
secret = "{secret}"
allow  = ["status", "forensics", "start", "stop", "reset", "cycle", "history", "chat"]

[hosts.demo]
ssh      = "breakglass@127.0.0.1:{port}"
key      = '''{power_key}'''
host_key = ["{host_key}"]

[vms.devvm]
hosts   = ["demo"]
vmid    = {vmid}
drill   = true
by_hand = ["{bin}/qm status {vmid}", "{bin}/qm reset {vmid}", "{bin}/qm stop {vmid}", "{bin}/qm start {vmid}"]

[sessions]
secret = "{session_secret}"
dir    = "{directory}/sessions"
"""

REMOVAL_TRIES = 3


def run(say: Callable[[str], None], scenario: str, chat: bool = True, real_model: bool = False) -> int:
    """Run the demo until it is interrupted, with its VM in one state of SCENARIOS. Leaves nothing behind.

    With `chat`, and if the real `claude` is installed, claude talks to a scripted model. With `real_model` it uses the
    model of the operator's own credential.
    """
    own = find_credential(os.environ) if real_model else None
    if real_model and not own:
        say(f"--real-model needs a credential in the environment: {', '.join(CREDENTIALS)}")
        return 2
    received: list[int] = []
    # files that can't be removed are reported later
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory, guarded(directory):
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
    world = World(directory, scenario=scenario, kernel=find_kernel())
    try:
        try:
            program = find_installation(world.directory)
            if scenario == "guest-hung" and not world.find_missing():
                say(f"the guest boots and stops; the demo continues when its last answer is {OLD_SECONDS} s old")
            world.begin()
        except RuntimeError as error:
            say(str(error))
            return 1
        with open_chat(world.directory, own) if chat else nullcontext() as its_chat:
            return asyncio.run(_serve(world, say, program, its_chat, received))
    finally:
        _remove(world)


def _remove(world: World) -> None:
    """End the processes of the world's commands, and remove its files.

    A host agent that was just starting may still create files. It ends by itself, because its input is closed.
    """
    for _ in range(REMOVAL_TRIES):
        world.close()
        wait_for_end(str(world.directory))
        shutil.rmtree(world.directory, ignore_errors=True)
        if not world.directory.exists():
            return


async def _serve(
    world: World, say: Callable[[str], None], program: list[str], chat: DemoChat | None, received: list[int]
) -> int:
    stop = asyncio.Event()

    def end(number: int) -> None:
        received.append(number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    host = await listen(world)
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    table = chat.write_table() if chat else ""
    config = write_config(world, host, secret, table)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ANTHROPIC_", "CLAUDE_"))}
    reservation = reserve_port()
    port = int(os.environ.get("PORT", "0")) or int(reservation.getsockname()[1])
    environment = {**inherited, "BREAKGLASS_CONFIG": str(config), "HOST": "127.0.0.1", "PORT": str(port)}
    log = world.directory / "log"
    with log.open("wb") as output:
        handler = await asyncio.create_subprocess_exec(
            *(*program, "serve"),
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
            **as_handler(find_uid()),
        )
    try:
        if not await has_started(handler, port):
            return 1
        is_coming = chat is not None and not table and INSTALLER in os.environ
        if is_coming and (obstacle := await find_obstacle(program)):
            say(obstacle)
            is_coming = False
        say(describe(world, secret, port, program, chat.model if chat and table else "", is_coming))
        work = [_add_chat(say, world, chat, config, handler, port)] if chat and is_coming else []
        await _wait_with(work, stop, handler)
        return 0 if stop.is_set() else 1
    finally:
        if handler.returncode is None:
            handler.terminate()
            await handler.wait()
        elif not stop.is_set():
            say(f"the handler ended with code {handler.returncode}; its last lines are\n{read_end(log)}")
        reservation.close()
        await host.close()


async def _wait_with(
    work: Sequence[Coroutine[None, None, None]], stop: asyncio.Event, handler: asyncio.subprocess.Process
) -> None:
    """Do some work until a signal comes or the handler ends, then cancel it."""
    tasks = [asyncio.ensure_future(each) for each in work]
    ends = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(handler.wait())]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _add_chat(
    say: Callable[[str], None],
    world: World,
    chat: DemoChat,
    config: Path,
    handler: asyncio.subprocess.Process,
    port: int,
) -> None:
    """Install claude and enable chat, and say so."""
    try:
        state = await install_and_turn_on(chat, config, handler, port)
    except OSError as error:  # for example a full disk
        state = str(error)
    if state:
        say(describe_later(world, port, chat.model, state))


def write_config(world: World, host: DemoHost, secret: str, chat: str = "") -> Path:
    """Write the handler's configuration and the caller's secret, for this run only."""
    text = CONFIG.format(
        secret=secret,
        port=host.port,
        power_key=host.power_key,
        host_key=host.host_key,
        vmid=VMID,
        bin=world.bin,
        session_secret=secrets.token_urlsafe(48),
        directory=world.directory,
    )
    for name, content in (("breakglass.toml", text + chat), ("secret", secret)):
        path = world.directory / name
        path.touch(0o600)
        path.write_text(content)
    open_to_handler(world.directory, world.directory / "breakglass.toml")
    give_to_handler(world.directory / "sessions")
    return world.directory / "breakglass.toml"


def read_end(log: Path, lines: int = 20) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def reserve_port() -> socket.socket:
    """Return a socket that reserves a loopback port until the handler listens on it.

    The socket does not listen. The handler sets SO_REUSEADDR, so it can bind the port too.
    """
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reservation.bind(("127.0.0.1", 0))
    return reservation


async def has_started(handler: asyncio.subprocess.Process, port: int) -> bool:
    """Return True when the handler listens, or False if it ends before that."""
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
    """Wait until a server listens on the port; raise TimeoutError if that takes too long."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
