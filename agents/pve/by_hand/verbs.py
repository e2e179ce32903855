"""A verb for one VM in a shell of the host, without a handler and without a key.

It writes the line that a handler would send, and serves this line as a key for every VM does. So the verdict, the
record, the lock and the id are the same as for any other request.
"""

import argparse
import base64
import os
import re
import secrets
import select
import sys
from typing import TextIO

from ..check.findings import printable, vm_and_name
from ..grammar import NOTE_BYTES
from ..host.paths import Key, boottime
from ..reading.reads import Message
from ..serving.serve import Agent, format_stage
from ..vm_list import EVERY_VM, parse_vm_list
from ..words import LATE_SECONDS, VERBS

BY_HAND = tuple(candidate for candidate, row in VERBS.items() if row.label and not row.allowed_by)
ID = re.compile(r"[A-Za-z0-9_-]{8,64}", re.ASCII)
INTERRUPTED = 130  # as a shell reports Ctrl-C


def run_verb(settings: argparse.Namespace, own_file: str) -> int:
    """Run a verb and show what it does; return the exit code, which the forced command has too.

    Ctrl-C ends only the wait, because a job runs in its own process.
    """
    if os.geteuid() != 0 and not settings.root:
        print(f"{own_file} {settings.command}: run it as root; nothing was done", file=sys.stderr)
        return 1
    is_job = VERBS[settings.command].is_job
    job_id = (settings.id or f"{settings.command}-{secrets.token_hex(8)}") if is_job else ""
    display = Display(settings, own_file)
    agent = Agent(Key(parse_vm_list(EVERY_VM), root=settings.root), "", display.show)
    try:
        agent.submit("", write_line(settings, job_id), boottime())
        while agent.tasks:
            ready = select.select(agent.descriptors(), [], [], agent.timeout(LATE_SECONDS))[0]
            agent.poll(set(ready))
    except KeyboardInterrupt:
        again = f"; to see how it ends: {own_file} {settings.command} {settings.vm} --id {job_id}" if is_job else ""
        print(f"\nyou stopped waiting{', but the job continues' if is_job else ''}{again}", file=sys.stderr)
        return INTERRUPTED
    finally:
        agent.close()
    return display.exit_code


def write_line(settings: argparse.Namespace, job_id: str) -> str:
    """Return the line of the forced command's grammar that asks for this verb."""
    reason = str(getattr(settings, "reason", "")).encode(errors="replace")[:NOTE_BYTES]
    words = {
        "vm": settings.vm,
        "id": job_id,
        "anyway": getattr(settings, "anyway", ""),
        "note": base64.urlsafe_b64encode(reason).decode().rstrip("="),
    }
    line = " ".join([settings.command, *(f"{name}={value}" for name, value in words.items() if value)])
    return f"{line} no-last-words" if getattr(settings, "no_last_words", False) else line


class Display:
    """Shows a verb's messages: output as it comes, stages on stderr, and the result as one line with its verdict.

    The output of `forensics` is long and ends with the verdict, so it is shown only if --full is given.
    """

    def __init__(self, settings: argparse.Namespace, program: str) -> None:
        self.exit_code = 1
        self._program, self._vmid = program, settings.vm
        self._verb = settings.command
        self._is_quiet = not getattr(settings, "full", True)
        self._output = ""

    def show(self, _: str, message: Message) -> None:
        """Show one message."""
        if message["type"] == "output":
            self._show_output(str(message["text"]), sys.stdout if message["stream"] == "stdout" else sys.stderr)
        elif message["type"] == "stage":
            is_first = message["stage"] == "preflight"
            print(format_stage(message, is_first), file=sys.stderr, flush=True)
        elif message["type"] == "result":
            self.exit_code = int(str(message["exit_code"]))
            self._show_result(message)

    def _show_output(self, text: str, stream: TextIO) -> None:
        if stream is sys.stderr or not self._is_quiet:
            self._output += text
            print("\n".join(map(printable, text.splitlines())), file=stream, flush=True)

    def _show_result(self, result: Message) -> None:
        job = f", id {result['job']}" if result.get("job") else ""
        state = f", state {result['state']}" if result["state"] != "unknown" else ""
        name = vm_and_name(self._vmid, str(result.get("proxmox_name") or ""))
        lines = [f"{name}: {self._verb} {result['outcome']}{state}{job}"]
        verdict, warnings = result.get("verdict"), result.get("warnings")
        if isinstance(verdict, dict):
            told = [verdict["sentence"], *verdict.get("evidence", ())]
            lines += [str(line) for line in told if str(line) not in self._output]
            lines += [f"next: {self._program} {verdict['advice']} {self._vmid}"] if verdict.get("advice") else []
        lines += [f"warning: {line}" for line in warnings] if isinstance(warnings, list | tuple) else []
        print("\n    ".join(map(printable, lines)), flush=True)
