"""A job as its own process sees it: stage, output, deadline, result. It never uses the SSH connection.

Bookkeeping never stops a rescue: a full /run loses lines, not the verb.
"""

import json
import time
from contextlib import suppress
from functools import partial

from ..budget import MOST_MORE_SECONDS, QM_START_SECONDS, START_COVERED_SECONDS
from ..host.bounded import CommandResult, run
from ..host.paths import Host
from ..host.process import write_process
from ..host.qm import end_qm
from ..host.vm_config import start_seconds
from ..words import DEADLINE, DEADLINES, REFUSED, WRONG_NAME
from .result import Ended, Result, Verdict
from .store import JobStore, Record

JOB_OUTPUT_BYTES = 1024 * 1024
SHORT_BYTES = 2048
ROOM_FOR_SHORT = 64 * 1024  # the end of the output, which only lines of at most SHORT_BYTES may use


class Job:
    """The running job: verbs and forensics use it to write output, enter stages and keep their deadline."""

    def __init__(self, host: Host, store: JobStore, record: Record) -> None:
        self.host = host
        self.store = store
        self.record = record
        self.stage = ""
        self.screen = False
        self.standby_pid = 0  # 0 if there is no standby; see standby.py
        self.warnings: list[str] = []
        self.deadline = DEADLINES[record.verb]
        self.start_seconds = QM_START_SECONDS
        self.reserved = 0.0  # seconds of the deadline that are kept for the stages after this one
        self.chain_before: tuple[int, str, str, dict[str, object]] | None = None  # see chain.py
        self.is_chained = False  # whether the job has begun to act, so that its outcome goes into the chain too
        self.proxmox_name: str | None = None  # the VM's name, None if it is not known
        self.anyway = ""  # the code of the refusal that a person has lifted
        self.survivors: list[str] = []  # commands of this job that nothing could end, so they may still act
        self._until = time.monotonic() + self.deadline
        self._room = JOB_OUTPUT_BYTES
        self._is_torn = False
        self._is_cut = False

    def enter(self, stage: str) -> None:
        """Record the stage that begins now and by when the job ends, for its followers and for `busy`."""
        self.stage = stage
        with suppress(OSError):
            self.store.enter(self.record.id, stage, self.deadline)
        self._write(json.dumps({"stage": stage, "deadline": self.deadline}) + "\n")

    def allow_start(self, config: str) -> None:
        """Give the start, and so the whole job, the time that Proxmox itself would give by the VM's configuration."""
        seconds, why = start_seconds(config)
        more = min(seconds - START_COVERED_SECONDS, MOST_MORE_SECONDS)
        if more > 0:
            self.start_seconds += more
            self.deadline += more
            self._until += more
            self.warnings.append(
                f"{self.record.verb} may take {self.deadline:g} s: Proxmox gives the start of this VM {seconds:g} s "
                f"({', '.join(why)})"
            )

    def check_name(self, name: str | None, wanted: str) -> None:
        """Keep the VM's name on Proxmox for the answer. End the job if the name is known and is not the wanted one."""
        self.proxmox_name = name
        if wanted and name is not None and name != wanted:
            raise Ended(REFUSED, Verdict("wrong-vm", WRONG_NAME.format(self.host.vmid, ascii(name)[1:-1], wanted)))

    def say(self, text: str, stream: str = "stdout") -> None:
        """Add whole lines to the job's output, 1 MiB in all."""
        text = text.rstrip("\n")
        line = json.dumps({"stream": stream, "text": text + "\n"}) + "\n"
        if not text:
            return
        if len(line) > self._room - (0 if len(line) <= SHORT_BYTES else ROOM_FOR_SHORT):
            if self._is_cut:
                return
            self._is_cut = True
            line = json.dumps({"stream": "stderr", "text": "[output cut at 1 MiB]\n"}) + "\n"
        self._room -= len(line)
        self._write(line)

    def _write(self, line: str) -> None:
        try:
            with open(self.store.path(self.record.id, "output"), "a", encoding="ascii") as file:
                file.write(("\n" if self._is_torn else "") + line)
            self._is_torn = False
        except OSError:
            self._is_torn = True  # half a line may have been written, so the next one begins with a line end

    def seconds_left(self, cap: float) -> float:
        """Return the seconds a step may take: `cap`, or the rest of the deadline; end the verb if nothing is left."""
        left = self._until - time.monotonic()
        if left <= 0:
            seconds = f"{self.deadline:g} s"
            raise Ended(
                DEADLINE,
                Verdict("deadline", f"{self.record.verb} did not end in {seconds}; it reached stage {self.stage}"),
            )
        return min(cap, left)

    def run(self, argv: list[str], seconds: float, gently: bool = False) -> CommandResult:
        """Run a command that changes the VM, add what it printed to the job's output, and return its end.

        Its process is recorded for the standby process. When its time is over, it is ended with its worker. With
        `gently`, SIGTERM comes first.
        """
        note = partial(self.note_process, "command")
        ran = run(argv, self.seconds_left(seconds), note, lambda pid: self.end_command(pid, gently))
        self.say(ran.stdout)
        self.say(ran.stderr, "stderr")
        return ran

    def end_command(self, pid: int, gently: bool = False) -> None:
        """End a `qm` of this job and its worker; warn of what could not be ended, and add it to `survivors`."""
        for line in end_qm(pid, gently):
            self.survivors.append(line)
            self.warnings.append(
                f"{line} could not be ended because it waits in the kernel, so it may still stop or start the VM "
                "when the storage answers again; look at the status then"
            )

    def note_process(self, name: str, pid: int) -> None:
        """Record a process of this job: its `command`, or the `second` one that stands by."""
        with suppress(OSError):
            write_process(self.store.path(self.record.id, name), pid)

    def finish(self, result: Result) -> None:
        """Write the job's result, for its followers now and for the same id later."""
        whole = self.record.whole_result(result, self.deadline)
        try:
            self.store.write_result(self.record.id, whole)
        except OSError:
            self.store.strip(self.record.id)
            self.store.make_room(self.record.verb)
            self.store.write_result(self.record.id, whole)
