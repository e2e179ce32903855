"""Turns of the real claude without a handler: a host, a guest that claude's key opens, and a scripted model."""

import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncssh

from breakglass.claude.command import ClaudeTurn, listen_for_commands, prepare_job
from breakglass.claude.homes import copy_in, transcript_place
from breakglass.claude.runner_job import RunnerJob
from breakglass.claude.uids import hand_over
from breakglass.config.model import ChatSettings, Vm
from breakglass.demo.proxmox.world import World

from .model import Model
from .sshd import Sshd

ROOT = Path(__file__).parent.parent.parent
GUEST_UID = 65531
GUEST_KEYS = "/etc/ssh/authorized_keys.d/%u"


class WithGuest(Sshd):
    """The server with a second account, which claude's key opens with a shell, as a VM's own sshd would."""

    def __init__(self, world: World) -> None:
        self.authority = asyncssh.generate_private_key("ssh-ed25519")
        certificate = f"HostCertificate {world.directory}/sshd/certificate"
        match = f"Match User guest\n    AuthorizedKeysFile {GUEST_KEYS}"
        super().__init__(world, f"PerSourcePenalties no\n{certificate}\n{match}\n")

    def _new_host_key(self) -> str:
        key = super()._new_host_key()
        own = asyncssh.import_public_key(key)
        signed = self.authority.generate_host_certificate(own, "host", principals=["127.0.0.1"])
        signed.write_certificate(self.directory / "certificate")
        return key

    def _write_accounts(self) -> None:
        super()._write_accounts()
        self.home = self.directory / "home"
        self.home.mkdir()
        os.chown(self.home, GUEST_UID, GUEST_UID)
        key = asyncssh.import_private_key(self.read_only_key).export_public_key().decode()
        (self.keys.parent / "guest").write_text(key)
        for name, line in (
            ("passwd", f"guest:x:{GUEST_UID}:{GUEST_UID}::{self.home}:/bin/sh\n"),
            ("shadow", "guest:*:20000::::::\n"),
        ):
            path = self.directory / name
            path.write_text(path.read_text() + line)


@dataclass
class Place:
    """A handler's side, without the handler: one host, one guest, one model."""

    directory: Path
    world: World
    sshd: WithGuest
    model: Model
    settings: ChatSettings
    vm: Vm

    def turn(self, prompt: str, *, sid: str = "", vm: Vm | None = None, tools: str = "") -> ClaudeTurn:
        vm, sid, resume = vm or self.vm, sid or str(uuid.uuid4()), bool(sid)
        return ClaudeTurn(vm, prompt, sid, resume, tools)

    def prepare(self, turn: ClaudeTurn, settings: ChatSettings | None = None) -> tuple[RunnerJob, Path]:
        """Return how to run a turn, and its directory."""
        directory = self.directory / "sessions/work" / uuid.uuid4().hex
        directory.mkdir(mode=0o700, parents=True)
        job = prepare_job(settings or self.settings, turn, directory)
        uid = job.uids[0] if job.uids else None
        if turn.resume:
            self._copy_transcript(job)
        if uid is not None:
            hand_over(job.directory, job.owner, uid)
        return job._replace(uid=uid), directory

    def _copy_transcript(self, job: RunnerJob) -> None:
        """Put the transcript of the session's last turn into the home of the next one."""
        found = self.directory.glob(f"sessions/work/*/home/projects/*/{job.sid}.jsonl")
        with max(found, key=lambda path: path.stat().st_mtime).open("rb") as source:
            copy_in(source.fileno(), job.home, transcript_place(job.cwd, job.sid))
        if job.uids:
            subprocess.run(["chown", "-R", str(job.uids[0]), f"{job.home}/projects"], check=True)

    def run(self, *steps: dict[str, Any], **options: Any) -> "Ran":
        """Let the model take these steps, as one turn."""
        return self.say(f"please FAKE={json.dumps(steps)}", **options)

    def say(self, prompt: str, env: dict[str, str] | None = None, **options: Any) -> "Ran":
        settings = replace(self.settings, env={**self.settings.env, **(env or {})})
        turn = self.turn(prompt, **options)
        job, directory = self.prepare(turn, settings)
        return Ran(turn, job, directory, *start(job, directory))

    def command(self, line: str, vm: Vm) -> tuple[bool, str]:
        """Run a command as claude would, without claude; return whether it went well, and what it said."""
        job, directory = self.prepare(self.turn("", vm=vm))
        exit, out, err = start(job._replace(argv=(f"{directory}/shell", line)), directory)
        return exit == 0, (out + err).decode().strip()


class Ran:
    """What became of a turn."""

    def __init__(self, turn: ClaudeTurn, job: RunnerJob, directory: Path, exit: int, out: bytes, err: bytes) -> None:
        self.turn, self.job, self.directory, self.exit, self.err = turn, job, directory, exit, err.decode()
        self.lines = [json.loads(line) for line in out.splitlines()]

    @property
    def result(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = [line for line in self.lines if line["type"] == "result"]
        return found[0]

    @property
    def tools(self) -> list[tuple[str, bool, str]]:
        """What was run, whether it went well, and what it said."""
        calls = {b["id"]: b["input"] for b in self._blocks("assistant", "tool_use")}
        return [
            (calls[b["tool_use_id"]].get("command", ""), not b.get("is_error"), str(b["content"]))
            for b in self._blocks("user", "tool_result")
        ]

    def _blocks(self, line_type: str, block_type: str) -> list[dict[str, Any]]:
        lines = [line["message"]["content"] for line in self.lines if line["type"] == line_type]
        return [b for content in lines if isinstance(content, list) for b in content if b["type"] == block_type]


def start(job: RunnerJob, directory: Path) -> tuple[int, bytes, bytes]:
    """Run claude as the runner does, with its commands, and return its exit, its output and its stderr."""
    with listen_for_commands(directory) as listener:
        ran = subprocess.run(
            [sys.executable, "-m", "tests.support.turn_process"],
            input=job._replace(listener=listener.fileno()).to_json(),
            pass_fds=[listener.fileno()],
            cwd=ROOT,
            capture_output=True,
            timeout=400,  # a turn of thirty commands, on a busy machine
        )
    return ran.returncode, ran.stdout, ran.stderr
