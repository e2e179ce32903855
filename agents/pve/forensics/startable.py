"""Asks Proxmox whether it could start the VM, without starting it: `qm showcmd` builds a start's command line.

It fails in every case in which `qm start` fails before QEMU exists: a volume, a bridge or a PCI device is gone, or
options contradict each other. It asks QEMU nothing, so a silent QEMU does not delay it. It changes nothing of a VM that
runs, because it activates no volume, reserves no PCI device and writes no cloud-init image there (qemu-server 9.2.6,
QemuServer.pm, vm_commandline; PCI.pm, choose_hostpci_devices). Never run it for a stopped VM that may be locked,
because it activates the volumes of a stopped VM.

It does not see pending options, which a start applies first, a hook script, or anything that QEMU itself refuses.
"""

import os
from dataclasses import dataclass

from ..host.bounded import ask_or_none, kill_group, run
from ..host.paths import Host
from ..host.vm_config import current_options, pending_options
from ..words import STORAGE_HUNG, WOULD_NOT_START
from .on_host import thread_probe

NO_QM = "no-qm"  # the code for a `qm` that itself does not work
QM_SECONDS = 30.0  # a command of 1 s can take 10 s or more on a busy host
STANDSTILL_SECONDS = 1.0
_NO_PROGRAM = 127  # the exit code if a command could not be run
WORDS_CHARS = 130  # the most characters of qm's words in a sentence; the job's output has all of qm's words


@dataclass(frozen=True)
class StartTrouble:
    """Why Proxmox could not start the VM: a verdict's code, a clause for its sentence, and lines.

    The code is empty if it is not known whether Proxmox could. If `hangs`, a storage does not answer.
    """

    code: str
    cause: str
    lines: tuple[str, ...] = ()
    hangs: bool = False

    @property
    def refusal(self) -> str:
        """The code with which a stop is refused.

        A storage that hangs has one code, because a person can lift only one refusal.
        """
        return STORAGE_HUNG if self.hangs else self.code


def find_start_trouble(host: Host, config: str, seconds: float = QM_SECONDS) -> StartTrouble | None:
    """Return why Proxmox could not start the VM with this configuration text, None if it could."""
    if current_options(config).get("template", "0") not in ("", "0"):  # qm showcmd does not check this
        return StartTrouble(WOULD_NOT_START, f"VM {host.vmid} is a template, which Proxmox never starts")
    command = ["qm", "showcmd", str(host.vmid)]
    stuck: list[str] = []

    def end_late(pid: int) -> None:
        stuck.extend(_stuck_threads(host, pid))
        kill_group(pid)

    ran = run(command, seconds, on_timeout=end_late)
    if ran.code == 0:
        return None
    if stuck:
        cause = "qm showcmd hangs in the kernel, and a start would hang there too"
        return StartTrouble(WOULD_NOT_START, cause, tuple(stuck), hangs=True)
    if ran.code is None or ran.code < 0:
        how = f"gave no answer in {seconds:g} s" if ran.code is None else "was killed"
        return StartTrouble("", f"qm showcmd {how}, so it is not known whether Proxmox could start the VM")
    words = ran.stderr.strip().splitlines()[-3:] or [f"qm showcmd ended with {ran.code} and said nothing"]
    if not _works(host, seconds):
        why = ask_or_none(_explain_absence, 2.0) if ran.code == _NO_PROGRAM else words[-1][-WORDS_CHARS:]
        return StartTrouble(NO_QM, f"qm does not work: {why}", (*words, f"PATH={':'.join(os.get_exec_path())}"))
    return StartTrouble(WOULD_NOT_START, words[-1][-WORDS_CHARS:], (*words, *_pending_lines(config)))


def _works(host: Host, seconds: float) -> bool:
    """Tell whether `qm` itself works: its exit codes are errno values, so they can't. A late answer proves nothing."""
    return run(["qm", "config", str(host.vmid)], seconds).code in (0, None)


def _explain_absence() -> str:
    """Return why `qm` can't be run. The kernel reports a script without its interpreter as a missing file, too."""
    for path in (os.path.join(place, "qm") for place in os.get_exec_path()):
        if os.path.isfile(path):
            return f"{path} exists, but the interpreter that its first line names is missing"
    return "it is not on the PATH"


def _stuck_threads(host: Host, pid: int) -> list[str]:
    """Return a line for each thread that stays in one uninterruptible sleep, which a slow host alone does not cause."""
    probe = thread_probe(host, pid, STANDSTILL_SECONDS)
    look = ask_or_none(lambda: [reply.facts["stuck"] for reply in probe.ask(0)], STANDSTILL_SECONDS + 2)
    return [str(line) for lines in look or [] if isinstance(lines, list) for line in lines]


def _pending_lines(config: str) -> tuple[str, ...]:
    pending = ", ".join(pending_options(config))
    return (f"qm showcmd does not see the pending options, which a start applies first: {pending}",) if pending else ()
