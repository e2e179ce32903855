"""Guests in a given condition: Debian's cloud kernel with a busybox initrd and without a guest agent, or a boot loader.

The kernel boots on TCG in about 8 s and says so on its serial port. When its heartbeat has begun and the test tells it
to continue, it does what the word on its command line says, so a guest's last answer is always older than its fault.
"""

import json
import lzma
import os
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from breakglass.demo.proxmox.world import VMID, World

from .gdb import Gdb
from .stages import until

BALLOON = "/machine/peripheral/balloon0"
INTERVAL = 2  # in seconds, as qemu-server sets it at each start
MODULES = ("failover", "net_failover", "virtio_net", "virtio_blk", "virtio_balloon")  # in the order of loading
_BOOT_SECONDS = 300.0  # on a busy machine, with a second boot after a stall
DISK_BYTES = 16 << 20
_LINE = (
    "console=ttyS0 quiet panic=0 no_timer_check"  # on a busy machine, a kernel on TCG misses its timer's first ticks
)
_BURN = "while :; do :; done"
_FREEZE = """mke2fs -q /dev/vda; mkdir /m; mount -t ext4 /dev/vda /m
until fsfreeze --freeze /m; do sleep 1; done; echo >/m/file &"""
_TALK = "while :; do arping -c 1 -w 1 -I eth0 192.0.2.7; done"
_LOG = "echo on >/proc/sys/kernel/printk_devkmsg; for i in $(seq 20000); do echo line $i >/dev/kmsg; done"
_WRITE = "while :; do dd if=/dev/urandom of=/dev/vda bs=4k count=4 conv=fsync; sleep 0.2; done"

# The commands of the guest, by the word on its command line.
DOES = {
    "idle": ":",
    "busy and frozen": f"{_FREEZE}\n({_BURN}) & cat /dev/urandom >/dev/null & ({_TALK}) &",
    "real-time": f"echo -1 >/proc/sys/kernel/sched_rt_runtime_us; chrt -f 99 sh -c '{_BURN}' &",
    "all-stopped": f"(sleep 1000) & ({_BURN}) & kill -STOP -1",
    "out-of-memory": "(while :; do tail /dev/zero; done) &",
    "writes": f"({_WRITE}) &",
    "driver-unloaded": f"rmmod virtio_balloon; echo 'guest: unloaded' >/dev/ttyS0; read -r go </dev/ttyS0; {_WRITE} &",
    "panic": "echo c >/proc/sysrq-trigger",
    "logs, then panics": f"{_LOG}; printf 'red \\033[31m\\n' >/dev/kmsg; echo 'guest: logs' >/dev/ttyS0\n"
    "read -r go </dev/ttyS0; echo c >/proc/sysrq-trigger",
    "halt": "halt -f",
    "reboots": "reboot -f",
}

_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
echo 1 >/proc/sys/kernel/sysrq
for module in {modules}; do insmod /$module.ko; done
[ ! -e /sys/class/net/eth0 ] || {{ ip link set eth0 up; ip address add 192.0.2.2/24 dev eth0; }}
echo "guest: panic is at $(sed -n 's/ T panic$//p' /proc/kallsyms)" >/dev/ttyS0
echo "guest: up" >/dev/ttyS0
read -r {limit} go </dev/ttyS0
exec </dev/null >/dev/null 2>&1
echo "guest: begins" >/dev/ttyS0
{does}
echo "guest: {name}" >/dev/ttyS0
while :; do sleep 1000; done
"""

# Machine code for a vCPU, in the guest's kernel or at its first instruction.
SPIN_OFF = bytes.fromhex("FAEBFE")  # cli; jmp to itself
HALT_OFF = bytes.fromhex("FAF4EBFD")  # cli; hlt; jmp to the hlt
SPIN_ON = bytes.fromhex("FBEBFE")  # sti; jmp to itself, which the kernel calls a soft lockup


@dataclass(frozen=True)
class Loader:
    """A program that a VM boots instead of a kernel.

    Attributes:
        words: QEMU's arguments; `{place}` is the directory of the files, `{root}` the host's root.
        steps: texts on the screen or the serial port, each with the keys that are then pressed.
        waking: a key that is pressed every 2 s until the first of `steps` is shown, because a firmware loses keys.
        at: the place of its code at that time.
        vcpu: the state of the first vCPU by its registers, a letter of vcpus.py.
        firmware: the first instructions, which replace the firmware.
        letter: the letter that ends the heartbeat of tests/data/heartbeat.S, which is then the boot sector.
        accel: the accelerator, as QEMU names it.
    """

    words: str = ""
    steps: tuple[tuple[str, str], ...] = ()
    waking: str = ""
    at: range = range(0)
    vcpu: str = ""
    firmware: bytes = b""
    letter: str | None = None
    accel: str = "tcg,thread=multi"


_MENU = "-boot menu=on,splash-time=60000"
_GRUB = "-boot a -drive file={place}/grub-rescue-floppy.img,if=floppy,format=raw,readonly=on"
_STAYS = ("GNU GRUB", "down")  # so that the menu boots nothing by itself
_OWN = "-bios {root}/firmware"
_SECTOR = range(0x7C00, 0x7E00)
_RESET = range(0xFFF0, 0x10000)
_MEMTEST = range(0x100000, 0x200000)
_FIRMWARE_BYTES = 1 << 16
_HEARTBEAT = Path(__file__).parents[1] / "data/heartbeat.S"
BROKEN = "a firmware that KVM can't emulate"
BOOTS = {
    "a boot sector": Loader(at=_SECTOR),
    "a firmware that halts": Loader(_OWN, at=_RESET, vcpu="h", firmware=HALT_OFF),
    "GRUB's menu": Loader(_GRUB, (_STAYS, ("command-line", ""))),
    "OVMF's menu": Loader(f"{_MENU} -bios {{place}}/OVMF.fd", (("Select Entry", ""),), waking="esc"),
    "memtest86+": Loader("-kernel {place}/memtest86+x64.bin", at=_MEMTEST, vcpu="s"),
    "a firmware that halts, KVM": Loader(_OWN, at=_RESET, vcpu="h", firmware=HALT_OFF, accel="kvm"),
    "a firmware that spins, KVM": Loader(_OWN, at=_RESET, vcpu="s", firmware=SPIN_OFF, accel="kvm"),
    # Its first instruction jumps into the display's memory, where KVM can't run code.
    BROKEN: Loader(_OWN, firmware=bytes.fromhex("FAEA000000A0"), accel="kvm"),
    "answers, KVM": Loader(letter="", accel="kvm"),
    "answers no more and is idle, KVM": Loader(letter="i", accel="kvm"),
    "answers no more and spins, KVM": Loader(letter="k", accel="kvm"),
    "answers no more and spins with interrupts off, KVM": Loader(letter="s", accel="kvm"),
    "answers no more and halts with interrupts off, KVM": Loader(letter="h", accel="kvm"),
}


def kernel_place() -> Path:
    """Return the directory in which `./dev test` puts the kernel, its modules and busybox."""
    return Path(sys.prefix) / "guest"


File = tuple[str, int, bytes]


def _initrd(does: str) -> bytes:
    files: list[File] = []
    if "chrt" in DOES[does]:
        files += _of_this_machine("/usr/bin/chrt")
    limit = "-t 5" if does == "reboots" else ""  # so that this guest reboots again and again
    return _pack(
        _INIT.format(modules=" ".join(MODULES), does=DOES[does], name=does, limit=limit), *MODULES, files=files
    )


def _pack(init: str, *modules: str, files: Sequence[File] = ()) -> bytes:
    """Return the archive (cpio, newc) that the kernel unpacks. A few MB need no compression."""
    place = kernel_place()
    entries: list[File] = [(name, stat.S_IFDIR | 0o755, b"") for name in ("bin", "dev", "proc", "sys", "lib64")]
    entries += [_program("bin/busybox", (place / "busybox").read_bytes()), _program("init", init.encode())]
    entries += [_program(f"{name}.ko", lzma.decompress((place / f"{name}.ko.xz").read_bytes())) for name in modules]
    return b"".join(_cpio(*entry) for entry in (*entries, *files, ("TRAILER!!!", 0, b"")))


def _program(name: str, data: bytes) -> File:
    return name, stat.S_IFREG | 0o755, data


def _assemble(source: Path, sector: Path) -> None:
    """Write the boot sector of an assembler's source."""
    built = sector.with_suffix(".o")
    subprocess.run(["as", "-o", built, source], check=True)
    subprocess.run(["ld", "-m", "elf_x86_64", "-Ttext=0x7c00", "--oformat=binary", "-o", sector, built], check=True)


def _of_this_machine(program: str) -> list[File]:
    """Return a program that busybox lacks and its libraries, all in the loader's directory."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    libraries = [(f"lib64/{Path(path).name}", Path(path)) for path in re.findall(r"(/\S+) \(", listed)]
    copies = [*libraries, (f"bin/{Path(program).name}", Path(program))]
    return [_program(name, path.read_bytes()) for name, path in copies]


def _cpio(name: str, mode: int, data: bytes) -> bytes:
    fields = (1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return b"".join(part + bytes(-len(part) % 4) for part in (head, data))


class Guest:
    """VM 102 of a host. Its word names the commands of its kernel in DOES, or a loader in BOOTS."""

    def __init__(self, world: World, does: str, *, card: str = "", options: Sequence[str] = ()) -> None:
        self.world, self._options = world, options
        self.does, self._card, self._loader = does, card, BOOTS.get(does)
        self._console, self._log = world.root / "console", world.root / "console.log"
        if self._loader is None:
            (world.root / "initrd").write_bytes(_initrd(does))
        elif self._loader.firmware:  # the processor begins in the last 16 bytes
            first = self._loader.firmware.ljust(16, b"\0")
            (world.root / "firmware").write_bytes(bytes(_FIRMWARE_BYTES - len(first)) + first)
        elif self._loader.letter is not None:
            _assemble(_HEARTBEAT, world.root / "disk.raw")
        os.truncate(world.root / "disk.raw", DISK_BYTES)
        (world.root / "vm.json").write_text(json.dumps(self._command()))

    def _command(self) -> list[str]:
        root, place = self.world.root, kernel_place()
        pidfile, qmp = (root / f"run/qemu-server/{VMID}.{kind}" for kind in ("pid", "qmp"))
        accel = self._loader.accel if self._loader else "tcg,thread=multi"
        machine = f"-name devvm -accel {accel} -smp 2 -nodefaults -vga std -display none -daemonize"
        command = [str(self.world.qemu), *machine.split(), "-pidfile", str(pidfile)]
        for monitor in (qmp, self.world.second_monitor):
            command += ["-qmp", f"unix:{monitor},server=on,wait=off"]
        if self._loader:
            command += self._loader.words.format(place=place, root=root).split()
        else:
            command += ["-kernel", f"{place}/vmlinuz", "-initrd", f"{root}/initrd"]
            command += ["-append", _LINE]
        command += ["-m", "256"]
        command += ["-chardev", f"socket,id=console,path={self._console},server=on,wait=off,logfile={self._log}"]
        command += ["-serial", "chardev:console", "-drive", f"file={root}/disk.raw,if=virtio,format=raw,cache=unsafe"]
        command += ["-device", "virtio-balloon-pci,id=balloon0,addr=0x3"]  # first, or another device takes its slot
        if self._card:
            command += ["-netdev", f"tap,id=net0,ifname={self._card},script=no,downscript=no"]
            command += ["-device", "virtio-net-pci,netdev=net0"]
        return [*command, *self._options]

    def boot(self) -> None:
        """Start the VM as qemu-server does, and return once its guest is in its condition."""
        self.start()
        if self._loader:
            self._await_loader(self._loader)
            return
        self._await_kernel()
        self._await_answer()
        self.tell("go\n")
        self.until_says("begins")

    def _await_answer(self) -> None:
        until(lambda: self.stats()["last-update"], "the guest's first answer", _BOOT_SECONDS)

    def tell(self, words: str) -> None:
        with socket.socket(socket.AF_UNIX) as console:
            console.connect(str(self._console))
            console.sendall(words.encode())

    def _await_kernel(self) -> None:
        """Return once the kernel is up. If it loses a timer at its start, as 1 of 24 did beside stress-ng, reset it."""
        stalls = 0

        def is_up() -> bool:
            nonlocal stalls
            said = self._log.read_bytes()
            if said.count(b"rcu: INFO") > stalls:
                stalls = said.count(b"rcu: INFO")
                self.world.monitor("system_reset")
            return b"guest: up" in said

        until(is_up, "the guest's kernel", _BOOT_SECONDS)

    def start(self) -> None:
        started = self.world.qm("start", str(VMID))
        assert started.returncode == 0, started.stderr
        self.have_asked_every(INTERVAL)

    def _await_loader(self, loader: Loader) -> None:
        pressed = 0.0

        def is_shown(text: str) -> bool:
            nonlocal pressed
            if loader.waking and time.monotonic() > pressed + 2:
                pressed = time.monotonic()
                self._order(f"sendkey {loader.waking}")
            return text in self._shown()

        for shown, keys in loader.steps:
            until(partial(is_shown, shown), f"{shown} on the screen", _BOOT_SECONDS)
            for key in keys.split():
                self._order(f"sendkey {key}")
        if loader.at:
            until(lambda: self._place() in loader.at, "the boot loader's code", _BOOT_SECONDS)
        if loader.letter is not None:
            self._await_answer()
            self.tell(loader.letter)

    def _shown(self) -> str:
        """Return the texts of the screen (80 letters a line) and of the serial port."""
        cells = re.findall(r"0x..(..)\b", self._order("xp /2000hx 0xb8000"))
        return bytes.fromhex("".join(cells)).decode("cp437") + self._log.read_text("utf-8", "replace")

    def _place(self) -> int:
        [place] = re.findall(r"\b[ER]IP=([0-9a-f]+)", self._order("info registers"))
        return int(place, 16)

    def _order(self, line: str) -> str:
        return str(self.world.monitor("human-monitor-command", **{"command-line": line}))

    def until_says(self, word: str) -> None:
        """Return once the guest has said a word on its console."""
        until(
            lambda: f"guest: {word}".encode() in self._log.read_bytes(), f"{word} on the guest's console", _BOOT_SECONDS
        )

    def have_asked_every(self, seconds: int) -> None:
        self.world.monitor("qom-set", path=BALLOON, property="guest-stats-polling-interval", value=seconds)

    def stats(self) -> dict[str, Any]:
        found = self.world.monitor("qom-get", path=BALLOON, property="guest-stats")
        assert isinstance(found, dict)
        return found

    def until_old(self, seconds: float) -> None:
        """Return once the guest's last answer is this old."""
        until(
            lambda: time.time() - self.stats()["last-update"] >= seconds,
            f"{seconds} s without an answer",
            _BOOT_SECONDS,
        )

    def have_vcpus_run(self, code: bytes, *vcpus: int) -> None:
        """Make these vCPUs, or all, run this machine code for ever, in the place of the guest's panic()."""
        [place] = re.findall(rb"panic is at ([0-9a-f]+)", self._log.read_bytes())

        def sent() -> bool:
            with Gdb(self.world) as gdb:
                return gdb.run_in_kernel(code, int(place, 16), vcpus)

        until(sent, "a moment with these vCPUs in the kernel")


def plug_in(world: World) -> str:
    """Make a tap for the VM's network card and return its name. The tap leads nowhere.

    The host sees it as qemu-server names it. It gets no address, because Chromium cancels the requests of all pages
    when an address of its machine changes.
    """
    name = f"bg{os.getpid()}"
    subprocess.run(["ip", "tuntap", "add", name, "mode", "tap"], check=True)
    subprocess.run(["ip", "link", "set", name, "addrgenmode", "none"], check=False)  # fails where there is no IPv6
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    (world.root / f"sys/class/net/tap{VMID}i0").symlink_to(f"/sys/class/net/{name}")
    return name


def unplug(card: str) -> None:
    """Remove the tap again."""
    subprocess.run(["ip", "link", "delete", card], check=True)
