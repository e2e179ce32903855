"""The VM's configuration, as Proxmox reads and rewrites it, and the VM's disk."""

import re
import sys

# --- A VM's configuration as Proxmox reads and rewrites it: qemu-server 9.2.6, parse_vm_config,
# vmconfig_apply_pending.

_LINE = re.compile(r"([a-z][a-z_\-]*\d*):\s*(.+?)\s*")
_NUMBERS = ("cores", "memory", "sockets")


def read_section(text: str, section: str, vmid: int) -> dict[str, str]:
    """Return the options of a section (`` is the current one). Skip unreadable lines with a warning."""
    options = {}
    for line in filter(str.strip, _sections(text).get(section, "").splitlines()):
        found = _LINE.fullmatch(line)
        if not found:
            if not line.startswith("#"):
                _warn(f"vm {vmid} - unable to parse config: {line}")
        elif found[1] in _NUMBERS and not found[2].isdecimal():
            _warn(f"vm {vmid} - unable to parse value of '{found[1]}' - {_not_a_number(found[1], found[2])}")
        else:
            options[found[1]] = found[2]
    return options


def apply_pending(text: str) -> str:
    """Return the configuration with the pending options applied. The snapshots stay unchanged."""
    sections = _sections(text)
    if not (pending := sections.pop("PENDING", "")):
        return text
    later = dict(line.split(": ", 1) for line in pending.splitlines() if ": " in line)
    gone = re.split(r"[,;\s!]+", later.pop("delete", ""))
    current = sections.pop("").split("\n")
    kept = [line for line in current if line and line.partition(":")[0] not in {*gone, *later}]
    lines = [*kept, *(f"{name}: {value}" for name, value in later.items())]
    snapshots = [f"\n[{name}]\n{snapshot.strip()}" for name, snapshot in sections.items()]
    return "\n".join([*lines, *snapshots, ""])


def _sections(text: str) -> dict[str, str]:
    """Return the text below each heading in brackets; the text before the first heading has an empty name."""
    current, *others = re.split(r"(?m)^\[([^\]]*)\]\s*$", text)
    return {"": current} | dict(zip(others[::2], others[1::2], strict=True))


def _not_a_number(name: str, value: str) -> str:
    """Return the original's error message. `memory` is a list of properties that begins with the number."""
    error = f"type check ('integer') failed - got '{value}'"
    return f"format error\ncurrent: {error}" if name == "memory" else error


def _warn(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# --- The VM's disk: a boot sector with a program for each scenario ---

# Points the vector of the NMI at its second half, prints the first text and halts. The second half prints the second
# text, and tells the pvpanic device that its kernel has panicked. So an NMI ends this guest until its next boot.
_PRINTER = bytes.fromhex("31C08ED8C7060800167CA30A00BE367CE81300F4EBFD") + bytes.fromhex(
    "BE447CE80A00BA0505B001EEFAF4EBFCFCAC84C07409B40EBB0700CD10EBF2C3"
)
_TEXTS = b"devvm login: \0" + (
    b"\r\n[  412.604113] BUG: unable to handle page fault for address: ffff9c05c0de1f40"
    b"\r\n[  412.604127] RIP: 0010:ext4_finish_bio+0xd7/0x2c0"
    b"\r\n[  412.604141] Kernel panic - not syncing: Fatal exception in interrupt\r\n\0"
)
# Reads the disk ten times at each tick of the timer and halts in between. So a frozen disk has a request in flight, and
# a healthy one does not keep a processor of this machine busy.
_READER = bytes.fromhex("31C08EC0BB007EBD0A00B80102B9010030F6CD134D75F3FBF4EBEC")
# Reads the second sector in a loop, because the firmware itself does not read the second sector.
_SECOND_READER = _READER.replace(bytes.fromhex("B90100"), bytes.fromhex("B90200"))
_PROGRAMS = {
    "healthy": _READER,
    "disk-frozen": _READER,
    "io-error": _SECOND_READER,
}


def make_disk(scenario: str) -> bytes:
    """Return the disk of a scenario, with a boot sector of 512 bytes."""
    code = _PROGRAMS.get(scenario, _PRINTER + _TEXTS)
    return code.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20)
