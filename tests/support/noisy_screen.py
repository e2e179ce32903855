"""A guest whose screen is noise of any size. Noise makes the largest picture that a guest can make its host take."""

import json
import struct

from breakglass.demo.proxmox.world import World

from .stages import until

# Own 16-bit code at 0x7C00. It reads the table after it, and writes each pair of words to the Bochs VBE's index (0x1CE)
# and data (0x1CF) port: width, height, 32 bits a pixel, enabled. Then it fills the video memory, bank after bank of
# 64 KiB at 0xA0000, with the numbers of a linear congruential generator, writes 1 to 0x7000 and halts.
#
#   cld; ax = ds = 0; si = table; cx = 5
#   set:  dx = 0x1CE; lodsw; out dx, ax; inc dx; lodsw; out dx, ax; loop set
#   es = 0xA000; bx = 0; ebp = seed
#   bank: dx = 0x1CE; ax = 5; out dx, ax; inc dx; ax = bx; out dx, ax; eax = ebp; di = 0; cx = 0x4000
#   fill: imul eax, 1664525; add eax, 1013904223; stosd; loop fill
#   ebp = eax; inc bx; cmp bx, BANKS; jb bank
#   mov byte [0x7000], 1
#   stop: hlt; jmp stop
_SET_MODE = bytes.fromhex("FC31C08ED8BE587CB90500BACE01ADEF42ADEFE2F6")
_FILL = bytes.fromhex(
    "B800A08EC031DB66BD91F44525BACE01B80500EF4289D8EF6689E831FFB900406669C00D66190066055FF36E3C66ABE2EF6689C54381FB"
)
_END = bytes.fromhex("72D2C606007001F4EBFD")
_BANK_BYTES = 64 * 1024
_DONE = "xp /1bx 0x7000"


def boot_noise(world: World, width: int, height: int, vram: int = 256) -> None:
    """Give the VM this guest and `vram` MiB of video memory, start it, and return once its screen is full of noise."""
    banks = -(-width * height * 4 // _BANK_BYTES)
    table = struct.pack("<10H", 4, 0, 1, width, 2, height, 3, 32, 4, 0x41)
    code = _SET_MODE + _FILL + struct.pack("<H", banks) + _END + table
    (world.root / "disk.raw").write_bytes(code.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
    command = world.root / "vm.json"
    words = json.loads(command.read_text())
    at = words.index("-vga")
    words[at : at + 2] = ["-device", f"VGA,vgamem_mb={vram}"]
    command.write_text(json.dumps(words))
    world.begin()
    order = {"command-line": _DONE}
    until(lambda: ": 0x01" in str(world.monitor("human-monitor-command", **order)), "a screen full of noise")
