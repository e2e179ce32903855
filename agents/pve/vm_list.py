"""The VMs that an SSH key serves, which is the value of `--vms` in its forced command. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

EVERY_VM = "all"
_LIST = re.compile(r"[1-9][0-9]{0,8}(?:-[1-9][0-9]{0,8})?(?:,[1-9][0-9]{0,8}(?:-[1-9][0-9]{0,8})?)*", re.ASCII)
LIST_CHARS = 8192  # sshd does not read longer lines
_LAST = 10**9 - 1  # the highest VMID that Proxmox gives


@dataclass(frozen=True)
class VmList:
    """VM numbers as ranges, both ends included, in order and not adjacent."""

    ranges: tuple[tuple[int, int], ...]

    def __contains__(self, vmid: int) -> bool:
        return any(first <= vmid <= last for first, last in self.ranges)

    def __str__(self) -> str:
        if self.is_every:
            return EVERY_VM
        return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in self.ranges)

    @property
    def is_every(self) -> bool:
        """Tell whether the list is `all`."""
        return self.ranges == ((1, _LAST),)

    @property
    def only(self) -> int | None:
        """The one VM of the list, None for several."""
        first, last = self.ranges[0]
        return first if len(self.ranges) == 1 and first == last else None

    def with_vm(self, vmid: int) -> "VmList":
        """Return the list with one more VM."""
        return _merge([*self.ranges, (vmid, vmid)])


def parse_vm_list(text: str) -> VmList:
    """Return the list that a text like "102,110-119" or "all" names; raise ValueError for any other text."""
    if text == EVERY_VM:
        return VmList(((1, _LAST),))
    if len(text) > LIST_CHARS or not _LIST.fullmatch(text):
        raise ValueError(f'"{text[:40]}" is not a list of VMs, like 102,110-119 or all')
    ranges = []
    for word in text.split(","):
        first, _, last = word.partition("-")
        ranges.append((int(first), int(last or first)))
    if backward := [f"{first}-{last}" for first, last in ranges if first > last]:
        raise ValueError(f"{backward[0]} is not a range: write the lower number first")
    return _merge(ranges)


def list_of(vmids: Iterable[int]) -> VmList:
    """Return the list of these VMs."""
    return _merge([(vmid, vmid) for vmid in vmids])


def _merge(ranges: list[tuple[int, int]]) -> VmList:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return VmList(tuple(merged))
