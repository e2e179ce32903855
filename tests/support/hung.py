"""File systems that hang as real ones do: a FUSE mount without a server, and a frozen ext4. Only root can make them."""

import ctypes
import os
import struct
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from breakglass.demo.proxmox.world import VMID, World

from .stages import until

libc = ctypes.CDLL(None, use_errno=True)
FORCE_AND_DETACH = 1 | 2


@contextmanager
def unserved_fuse(target: Path) -> Iterator[None]:
    """Mount a FUSE file system without a server: even stat() below it blocks."""
    fd = mount_fuse(target)
    try:
        yield
    finally:
        os.close(fd)  # every call that waits below the mount gets ENOTCONN
        libc.umount2(str(target).encode(), FORCE_AND_DETACH)


@contextmanager
def silent_fuse(target: Path) -> Iterator[None]:
    """Mount a FUSE file system whose server takes each request and never answers it, so who asks can't be killed."""
    fd = mount_fuse(target)

    def take() -> None:
        with suppress(OSError):  # the end of the mount
            unique = os.read(fd, 1 << 20)[8:16]  # of FUSE_INIT, which must be answered
            os.write(fd, struct.pack("<Ii8s4I2HI", 40, 0, unique, 7, 22, 0, 0, 12, 9, 1 << 16))
            while os.read(fd, 1 << 20):
                pass

    server = threading.Thread(target=take)
    server.start()
    try:
        yield
    finally:
        libc.umount2(str(target).encode(), FORCE_AND_DETACH)
        server.join()
        os.close(fd)


def mount_fuse(target: Path, *more: str) -> int:
    """Return the descriptor on which a server would answer. `more` are options of the mount."""
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = ",".join([f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other", *more]).encode()
    if libc.mount(b"breakglass-test", str(target).encode(), b"fuse", 0, options) != 0:
        os.close(fd)
        raise OSError(ctypes.get_errno(), "mount fuse")
    return fd


@contextmanager
def frozen_ext4(target: Path, image: Path, contents: Mapping[str, bytes] | None = None) -> Iterator[None]:
    """Mount an ext4 with these files and freeze it. A write below it sleeps uninterruptibly."""
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(target)], check=True)
    for name, data in (contents or {}).items():
        (target / name).write_bytes(data)
    subprocess.run(["fsfreeze", "-f", str(target)], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "-u", str(target)], check=True)
        subprocess.run(["umount", "-l", str(target)], check=True)


@contextmanager
def seen_by_servers(directory: Path) -> Iterator[None]:
    """Make later mounts below the directory visible in the mount namespaces of servers that already run."""
    subprocess.run(["mount", "--bind", str(directory), str(directory)], check=True)
    subprocess.run(["mount", "--make-shared", str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def thread_stats(world: World) -> Iterator[str]:
    """Yield the kernel's status of each thread of the VM's QEMU. The number of threads changes all the time."""
    for stat in Path(f"/proc/{world.pid}/task").glob("*/stat"):
        with suppress(OSError):
            yield stat.read_text()


@contextmanager
def vm_on_frozen_storage(directory: Path) -> Iterator[World]:
    """Give a host whose VM writes to a frozen file system. A thread of its real QEMU is in uninterruptible sleep."""
    directory.mkdir(exist_ok=True)
    world = World(directory, scenario="healthy")
    disk, disks = world.root / "disk.raw", world.root / "disks"
    disks.mkdir()
    code = disk.read_bytes().replace(bytes.fromhex("B80102"), bytes.fromhex("B80103"))  # write instead of read
    command = world.root / "vm.json"
    command.write_text(command.read_text().replace(str(disk), str(disks / "disk.raw")))
    with frozen_ext4(disks, directory / "ext4.img", {"disk.raw": code}):
        try:
            assert world.qm("start", str(VMID)).returncode == 0
            until(lambda: any(") D " in stat for stat in thread_stats(world)), "a write")
            yield world
        finally:
            world.close()
