"""What the guest's vCPUs do, by their registers: which runs, which is idle, and which can't be interrupted."""

import os
import re
from collections.abc import Sequence

from ..host.paths import Host, read_small_file
from ..host.qmp import Qmp

SAMPLES_OF_VCPUS = 5
_INTERRUPTS_ON = 0x200  # IF of RFLAGS
_VCPU = re.compile(r"^CPU#\d+\s", re.MULTILINE)
_STATE = re.compile(r"[ER]FL=([0-9a-f]+) .*?\bCPL=(\d) .*?\bHLT=(\d)")

# A sample has one of these letters for each vCPU.
IDLE, HALTED, SPINS, KERNEL, PROGRAM = "ihskp"
_WORDS = {
    IDLE: "idle",
    HALTED: "halted with interrupts off",
    SPINS: "in the kernel with interrupts off",
    KERNEL: "in the kernel",
    PROGRAM: "in a program",
}


def has_waiting_thread(host: Host, pid: int) -> bool:
    """Tell whether a thread of QEMU waits uninterruptibly; raise OSError if QEMU ends meanwhile."""
    files = [host.proc(pid, f"task/{name}/stat") for name in os.listdir(host.proc(pid, "task"))]
    return ["D"] in [read_small_file(path).rpartition(")")[2].split()[:1] for path in files]


def sample_vcpus(qmp: Qmp) -> str:
    """Return a letter for each vCPU; raise ValueError if QEMU does not show the registers of an x86 processor."""
    command: dict[str, object] = {"command-line": "info registers -a"}
    text = str(qmp.command("human-monitor-command", (), **command))
    vcpus = _VCPU.split(text)[1:]
    states = [_STATE.search(vcpu) for vcpu in vcpus]
    if not states or None in states:
        raise ValueError("the registers can't be read")
    return "".join(_letter(int(state[1], 16), state[2], state[3]) for state in states if state)


def _letter(flags: int, level: str, halted: str) -> str:
    if halted == "1":
        return IDLE if flags & _INTERRUPTS_ON else HALTED
    if level == "3":
        return PROGRAM
    return KERNEL if flags & _INTERRUPTS_ON else SPINS


def is_any_alive(samples: Sequence[str]) -> bool:
    """Tell whether, in any sample, a vCPU was idle with interrupts on or ran a program."""
    return any(letter in (IDLE, PROGRAM) for sample in samples for letter in sample)


def are_all_deaf(samples: Sequence[str]) -> bool:
    """Tell whether each vCPU had its interrupts off in each of enough samples: nothing can wake it but a reset."""
    return len(samples) >= SAMPLES_OF_VCPUS and all(letter in (HALTED, SPINS) for each in samples for letter in each)


def vcpu_line(samples: Sequence[str]) -> str:
    """Return what each vCPU did in the samples, as one line."""
    told = []
    for number, letters in enumerate(zip(*samples, strict=False)):
        counts = [f"{word} {letters.count(letter)}" for letter, word in _WORDS.items() if letter in letters]
        told.append(f"vCPU {number} {', '.join(counts)}")
    return f"in {len(samples)} samples: {'; '.join(told[:4])}{'; …' if told[4:] else ''}"
