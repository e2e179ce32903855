"""The texts that the demo prints: commands to try it, how it ended, and what is left of it."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from .account import PACKAGE
from .proxmox.world import LINUX_GUEST, SCENARIOS, VMID, World

TEXT = """
  VM {vmid} "devvm", {machine}: {scenario}

  page    http://127.0.0.1:{port}/#key={secret}

{curl}

  call    {call}

{chat}

  doctor  {doctor}

  log     tail -f {directory}/log

  The keys work for this run only. Ctrl-C ends everything.
"""


DEAD_GUESTS = ("guest-panicked", "guest-hung")  # their verdict advises a reset
AS_HUNG = f" (its guest is no Linux, so it looks the same as a hung one; as root on Debian: {LINUX_GUEST})"
SCRIPTED = "the real claude; its model is a script on this machine"
REAL = "the real claude with the real model, which uses your credential from the environment, so you pay for it"
NO_CHAT = "none: --no-chat was given, or claude is not installed or could not be isolated"
COMING = "not yet; claude is being downloaded, and a line here tells you when chat works"
NOT_ON = "\n  chat    not on: the handler says {state}\n"
MISSING = "{program}: not installed"
ENDED = "  Ctrl-C ended everything."
LEFT = "  Ctrl-C did not end everything. Check what is left, then run: {commands}"


def name_program(started_as: str) -> str:
    """Return the shell words that run this command from any directory."""
    path = Path(started_as).resolve()
    is_program = path.is_file() and os.access(path, os.X_OK)  # false for `python handler demo`
    return shlex.join([*([] if is_program else [sys.executable]), str(path)])


def describe(world: World, secret: str, port: int, program: list[str], model: str, is_coming: bool) -> str:
    """Return the page's address and the commands to paste. `is_coming` says that chat is enabled later.

    doctor checks the installation that it runs from. So if the handler runs from a copy, `program` is that copy.
    """
    breakglass = name_program(sys.argv[0])
    secret_file = f"BREAKGLASS_SECRET_FILE={world.directory}/secret"
    asks = _ask(world, port, breakglass)
    doctor = asks if program == [sys.executable, str(PACKAGE)] else _ask(world, port, shlex.join(program))
    verb = "reset" if world.scenario in DEAD_GUESTS else "cycle"
    body = f'{{"verb":"{verb}"}}'
    curl = f"printf '{body}' | {secret_file} {breakglass} sign | curl -sSN -H @- "
    curl += f"-H 'accept: application/x-ndjson' -d '{body}' http://127.0.0.1:{port}/pve"
    looks_hung = world.scenario == "idle" and not world.kernel
    return TEXT.format(
        vmid=VMID,
        scenario=f"{world.scenario}, {SCENARIOS[world.scenario]}{AS_HUNG if looks_hung else ''}",
        machine="a real QEMU" if world.qemu else "a stand-in (qemu-system-x86_64 is not installed)",
        directory=world.directory,
        port=port,
        secret=secret,
        call=f"{asks} call {verb}",
        doctor=f"BREAKGLASS_CONFIG={world.directory}/breakglass.toml {doctor} doctor",
        chat=f"  chat    {COMING}" if is_coming else _chat(asks, model),
        curl=_line("curl", "curl", curl),
    )


def describe_later(world: World, port: int, model: str, state: str) -> str:
    """Return the text that the demo prints after claude was installed and the handler has reported chat's state."""
    asks = _ask(world, port, name_program(sys.argv[0]))
    return (
        f"\n{_chat(asks, f'it works now, on the page too: {model}')}\n" if state == "on" else NOT_ON.format(state=state)
    )


def _ask(world: World, port: int, breakglass: str) -> str:
    """Return the start of a shell command that asks the handler."""
    return f"BREAKGLASS_URL=http://127.0.0.1:{port} BREAKGLASS_SECRET_FILE={world.directory}/secret {breakglass}"


def _chat(asks: str, model: str) -> str:
    return _line("chat", "ssh bwrap", f"{asks} chat\n          {model}" if model else NO_CHAT)


def _line(name: str, programs: str, text: str) -> str:
    """Return a line to paste, or a note that a program which it needs is not installed."""
    missing = [program for program in programs.split() if not shutil.which(program)]
    return f"  {MISSING.format(program=missing[0])}" if missing else f"  {name}    {text}"
