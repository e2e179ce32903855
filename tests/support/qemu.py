"""The VM's QEMU: a second monitor whose events prove the effect of a verb, and a machine without a guest."""

import json
import re
from types import TracebackType

from breakglass.demo.proxmox.guest import connect_monitor
from breakglass.demo.proxmox.world import World

_FIRMWARE_BYTES = 1 << 16
_BOOT_SECTOR = range(0x7C00, 0x7E00)
_HALT = bytes.fromhex("FAF4EBFD")  # cli; hlt; jmp, at the reset vector in the last 16 bytes


def leave_out_guest(world: World) -> None:
    """Make the VM's CPU halt at its first instruction, from the next start on.

    Booting takes two thirds of a start's time. Tests that need a screen or a guest that reads its disk keep the guest.
    """
    if world.qemu:
        firmware, command = world.root / "firmware", world.root / "vm.json"
        firmware.write_bytes(bytes(_FIRMWARE_BYTES - 16) + _HALT.ljust(16, b"\0"))
        command.write_text(json.dumps([*json.loads(command.read_text()), "-bios", str(firmware)]))


def is_at_prompt(world: World) -> bool:
    """Tell whether the guest has booted and halts in its boot sector. It then reads its disk no more."""
    text = str(world.monitor("human-monitor-command", **{"command-line": "info registers"}))
    at, halted = re.search(r"\bEIP=([0-9a-f]+)", text), re.search(r"\bHLT=1", text)
    return bool(halted and at and int(at[1], 16) in _BOOT_SECTOR)


class Witness:
    """The second monitor of VM 102. Connect before the verb, and read its events after the verb."""

    def __init__(self, world: World) -> None:
        self._socket = connect_monitor(world.second_monitor)
        self._stream = self._socket.makefile("rw")
        self._passed: list[str] = []
        while "QMP" not in json.loads(self._stream.readline()):  # an event may come before the greeting
            pass
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: object) -> dict[str, object]:
        """Execute a command, and skip events that come before its answer."""
        self._stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._stream.flush()
        while "event" in (message := json.loads(self._stream.readline())):
            self._passed.append(message["event"])
        answer: dict[str, object] = message
        return answer

    def seen(self, event: str) -> bool:
        """Tell whether that event has come, even during an earlier command."""
        self.execute("query-status")
        return event in self._passed

    def wait(self, event: str) -> dict[str, object]:
        """Return the next event of that name."""
        while (message := json.loads(self._stream.readline())).get("event") != event:
            pass
        data: dict[str, object] = message.get("data", {})
        return data

    def __enter__(self) -> "Witness":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._socket.close()
