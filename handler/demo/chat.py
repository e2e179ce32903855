"""The demo's chat: the real claude, with a scripted model on this machine or with the model of a person's credential.

The first `./dev demo` has no claude yet. So the demo begins without chat, has `./dev` install claude in the background,
and then enables chat by reloading the handler. Before that, it tries the sandbox, because claude has 176 MB.
"""

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..chat.program import find_bundled
from ..config.model_api import API_KEY, BASE_URL, CREDENTIALS, ModelApi
from .account import as_handler, find_program, find_uid, open_to_handler
from .investigation import next_step
from .lines import REAL, SCRIPTED
from .messages_api import Model

INSTALLER = "BREAKGLASS_DEV"  # the environment variable with the script that installs claude; `./dev demo` sets it
CHAT = """
[chat]
command = {claude}
base_url = {base_url}
credential_file = {credential_file}
"""

RELOAD_SECONDS = 60.0
_PAUSE = 0.1


class DemoChat:
    """The model that claude talks to. `model` describes it in words."""

    def __init__(self, directory: Path, api: ModelApi, model: str) -> None:
        self.model = model
        self._directory, self._api = directory, api

    def write_table(self) -> str:
        """Write the credential to a file, and return [chat]. Empty if claude or a program it needs is missing.

        No other value of this environment is used.
        """
        claude = find_claude()
        if claude is None or not all(map(shutil.which, ("ssh", "bwrap"))):
            return ""
        path = self._directory / "credential"
        path.touch(0o600)
        path.write_text(f"{self._api.variable}={self._api.credential}\n")
        open_to_handler(self._directory, path)
        program = find_program(claude, self._directory)
        fields = {"claude": str(program), "base_url": self._api.base_url, "credential_file": str(path)}
        return CHAT.format(**{name: json.dumps(value) for name, value in fields.items()})


@contextlib.contextmanager
def open_chat(directory: Path, own: ModelApi | None) -> Iterator[DemoChat]:
    """Return a demo's chat. Without a person's own model, run a scripted model while the chat is in use."""
    if own:
        yield DemoChat(directory, own, REAL)
        return
    model = Model(next_step)
    try:
        yield DemoChat(directory, ModelApi(API_KEY, "none", model.url), SCRIPTED)
    finally:
        model.close()


def find_credential(environment: Mapping[str, str]) -> ModelApi | None:
    """Return the credential that claude would take from an environment, and the URL of its API."""
    base_url = environment.get("ANTHROPIC_BASE_URL", BASE_URL)
    found = (ModelApi(name, environment[name], base_url) for name in CREDENTIALS if environment.get(name))
    return next(found, None)


def find_claude() -> Path | None:
    """Return the `claude` of the claude-agent-sdk wheel, or the one on PATH."""
    found = find_bundled() or shutil.which("claude")
    return Path(found) if found else None


async def find_obstacle(program: Sequence[str]) -> str:
    """Return why the handler's user can't run claude in its sandbox, in the words of the command; empty if it can.

    It is asked before claude is downloaded.
    """
    command = [*program, "chat", "--sandbox"]
    tried = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL, stderr=PIPE, **as_handler(find_uid()))
    said = (await tried.communicate())[1]
    return said.decode("utf-8", "replace").strip() if tried.returncode else ""


async def install_and_turn_on(chat: DemoChat, config: Path, handler: Process, port: int) -> str:
    """Install claude and enable chat in a running handler. Return chat's state.

    The state is empty if claude could not be installed. In that case, `./dev` has said why.
    """
    if not await _install_claude(os.environ[INSTALLER]):
        return ""
    table = await asyncio.to_thread(chat.write_table)
    with config.open("a") as file:
        file.write(table)
    handler.send_signal(signal.SIGHUP)
    return await asyncio.to_thread(_wait_for_state, port)


async def _install_claude(script: str) -> bool:
    """Run `./dev claude`, and return whether claude is installed. If it is ended early, it leaves nothing."""
    install = await asyncio.create_subprocess_exec("bash", script, "claude", stdin=DEVNULL, start_new_session=True)
    try:
        return await install.wait() == 0
    finally:
        if install.returncode is None:
            os.killpg(install.pid, signal.SIGINT)
            await install.wait()


def _wait_for_state(port: int) -> str:
    """Wait for a handler's reload, and return its state of chat."""
    until = time.monotonic() + RELOAD_SECONDS
    while (state := _read_state(port)) in ("none", "starting") and time.monotonic() < until:
        time.sleep(_PAUSE)
    return state


def _read_state(port: int) -> str:
    """Return the state of chat from a handler's /health."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", "/health")
        return str(json.load(connection.getresponse())["chat"])
