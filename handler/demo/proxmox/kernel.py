"""A Linux guest for the demo's VM: a kernel of this machine, and an archive with some of its drivers.

The drivers are those of the devices that show from outside whether a kernel lives (balloon) and that it panicked
(pvpanic). The first program loads them and prints a login prompt. At the first Enter it ends, so the kernel panics, or
halts the kernel if the kernel's command line has HALTS. An NMI makes it panic too, but without a word on its console.
"""

import gzip
import lzma
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

DRIVERS = ("virtio_pci", "pvpanic-mmio", "virtio_balloon")  # balloon last, because its answer means: ready
_OF_THE_TESTS = ("pvpanic", "pvpanic-mmio", "virtio_balloon")  # the others are part of the image
PROMPT = b"\ndevvm login: "
HALTS = "-- halt"  # the kernel passes what follows the dashes to the first program
_UNPACK: dict[str, Callable[[bytes], bytes]] = {".ko": bytes, ".xz": lzma.decompress, ".gz": gzip.decompress}


@dataclass(frozen=True)
class Kernel:
    """A kernel's image, and its drivers in the order in which they must be loaded."""

    image: Path
    drivers: tuple[Path, ...]

    def write_archive(self, path: Path, more: str = "") -> list[str]:
        """Write the archive that the kernel unpacks as its root, and return QEMU's arguments for this guest.

        `more` are the last words of the kernel's command line.
        """
        files = [("init", _make_init())]
        files += [(str(n), _UNPACK[each.suffix](each.read_bytes())) for n, each in enumerate(self.drivers)]
        path.write_bytes(b"".join(_pack(name, data) for name, data in (*files, ("TRAILER!!!", b""))))
        words = ["-m", "192", "-device", "virtio-balloon-pci,id=balloon0", "-kernel", str(self.image)]
        # On a busy machine, a kernel on TCG misses the first ticks that it would check its timer by, and panics.
        line = f"console=tty0 quiet panic=0 unknown_nmi_panic no_timer_check {more}"
        return [*words, "-initrd", str(path), "-append", line]


def find_kernel() -> Kernel | None:
    """Return the kernel that the tests use, or else one of /boot that this process can read with its drivers.

    The running one is the first choice. The guest's processor is an x86-64, so no other machine's kernel can run on it.
    """
    if os.uname().machine != "x86_64":
        return None
    tests, boot = Path(sys.prefix, "guest"), sorted(Path("/boot").glob("vmlinuz-*"), reverse=True)
    found = [Kernel(tests / "vmlinuz", tuple(tests / f"{name}.ko.xz" for name in _OF_THE_TESTS))]
    for image in (Path("/boot", f"vmlinuz-{os.uname().release}"), *boot):
        modules = Path("/lib/modules", image.name.removeprefix("vmlinuz-"))
        found.append(Kernel(image, tuple(_list_drivers(modules))))
    for kernel in found:
        can_load = all(each.suffix in _UNPACK and os.access(each, os.R_OK) for each in kernel.drivers)
        if kernel.drivers and can_load and os.access(kernel.image, os.R_OK):
            return kernel
    return None


def _list_drivers(modules: Path) -> Iterator[Path]:
    """Yield the files of DRIVERS, each after those that it needs; nothing if a driver that shows a panic is missing.

    The driver of the bus may be missing, because it can be a part of the kernel's image.
    """
    try:
        lines = (modules / "modules.dep").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    needs = {file: others.split() for file, _, others in (line.partition(":") for line in lines)}
    names = {Path(file).name.partition(".")[0]: file for file in needs}
    wanted = [names[driver] for driver in DRIVERS if driver in names] if {*DRIVERS[1:]} <= names.keys() else []
    yield from dict.fromkeys(modules / file for last in wanted for file in (*reversed(needs[last]), last))


def _pack(name: str, data: bytes) -> bytes:
    """Return a program as an entry of a cpio archive of the format newc."""
    fields = (1, stat.S_IFREG | 0o755, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return b"".join(part + bytes(-len(part) % 4) for part in (head, data))


def _make_init() -> bytes:
    """Return an x86-64 program without libraries that loads /0, /1, …, prints the prompt, and waits for Enter.

    Then it ends, or calls reboot(2) to halt the kernel if it was started with an argument.
    """
    begin = 0x400000 + 64 + 56  # after the ELF header and the header of the only segment
    path, text = begin, begin + 3
    data = b"/0\0" + PROMPT
    load = b"\xb8\2\0\0\0\xbf%b\x31\xf6\x0f\x05" % struct.pack("<I", path)  # open(path, O_RDONLY)
    # finit_module(fd, "", 0), or leave the loop if there is no such file
    load += b"\x85\xc0\x78\x19\x89\xc7\xbe%b\x31\xd2\xb8\x39\1\0\0\x0f\x05" % struct.pack("<I", path + 2)
    load += b"\xfe\x04%%%b" % struct.pack("<I", path + 1)  # the next digit
    load += b"\xeb%c" % (256 - len(load) - 2)
    show = b"\xb8\1\0\0\0\xbf\1\0\0\0\xbe%b\xba%b\x0f\x05" % (struct.pack("<I", text), struct.pack("<I", len(PROMPT)))
    read = b"\x31\xff\xbe%b\xba\1\0\0\0\x31\xc0\x0f\x05" % struct.pack("<I", path)  # read(0, path, 1)
    halt = b"\xbf%b\xbe%b\xba%b" % tuple(struct.pack("<I", each) for each in (0xFEE1DEAD, 672274793, 0xCDEF0123))
    halt += b"\xb8\xa9\0\0\0\x0f\x05"  # reboot(LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_HALT)
    # the stack begins with the number of arguments, which is 1 if there is only the program's name
    unless = b"\x83\x3c\x24\x01\x76%c" % len(halt)
    code = load + show + read + unless + halt + b"\x31\xff\xb8\x3c\0\0\0\x0f\x05"  # exit(0)
    size = 64 + 56 + len(data) + len(code)
    fields = (2, 62, 1, begin + len(data), 64, 0, 0, 64, 56, 1, 0, 0, 0)
    header = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", *fields)
    return header + struct.pack("<IIQQQQQQ", 1, 7, 0, 0x400000, 0x400000, size, size, 4096) + data + code
