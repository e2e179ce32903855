"""A client of QEMU's gdb stub, which has a guest's vCPUs run what a test wants."""

import re
import socket
from collections.abc import Sequence
from types import TracebackType

from breakglass.demo.proxmox.world import World

_RIP = 16  # in gdb's list of x86-64 registers, RIP follows the sixteen general ones
_KERNEL = 1 << 63  # the kernel uses the upper half of the addresses


class Gdb:
    """A connection. The VM is paused while it is open."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._configure(f"unix:{world.root}/gdb,server=on,wait=off")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(20)
        self._socket.connect(f"{world.root}/gdb")
        self._ahead = b""
        self._ask("?")

    def _configure(self, device: str) -> None:
        self._world.monitor("human-monitor-command", **{"command-line": f"gdbserver {device}"})

    def _ask(self, text: str) -> str:
        """Send a packet; return the answer."""
        data = text.encode()
        self._socket.sendall(b"$%s#%02x" % (data, sum(data) % 256))
        while not (found := re.search(rb"\$([^#]*)#..", self._ahead)):
            chunk = self._socket.recv(65536)
            assert chunk, "QEMU's gdb stub has gone"
            self._ahead += chunk
        self._ahead = self._ahead[found.end() :]
        self._socket.sendall(b"+")
        return found[1].decode()

    def run_in_kernel(self, code: bytes, place: int, vcpus: Sequence[int]) -> bool:
        """Overwrite a function of the kernel with `code`, and let these vCPUs, or all, continue there.

        If one of them runs a program and not the kernel, change nothing and return False.
        """
        threads = self._list_threads()
        chosen = [threads[number] for number in vcpus or range(len(threads))]
        if not all(self._read_rip(thread) & _KERNEL for thread in chosen):
            return False
        assert self._ask(f"M{place:x},{len(code):x}:{code.hex()}") == "OK"
        for thread in chosen:
            assert self._ask(f"Hg{thread}") == "OK"
            assert self._ask(f"P{_RIP:x}={place.to_bytes(8, 'little').hex()}") == "OK"
        return True

    def _list_threads(self) -> list[str]:
        found, answer = [], self._ask("qfThreadInfo")
        while answer.startswith("m"):
            found += answer[1:].split(",")
            answer = self._ask("qsThreadInfo")
        return found

    def _read_rip(self, thread: str) -> int:
        assert self._ask(f"Hg{thread}") == "OK"
        return int.from_bytes(bytes.fromhex(self._ask(f"p{_RIP:x}")), "little")

    def __enter__(self) -> "Gdb":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ask("D")  # the VM continues
        self._socket.close()
        self._configure("none")
