"""Stand-ins for Proxmox's other commands, which are read-only: pvesh, pvecm, pvesm, pveversion.

All but pveversion need /etc/pve.
"""

import os
import sys
import time

from .plugin import load_plugin
from .processes import Died, name_perl
from .times import burn


def pvesh(root: str, words: list[str]) -> int:
    """Run `pvesh get PATH --output-format json`, for the two paths that a capture reads."""
    import json

    from . import qm
    from .vm import Vm

    path = words[1].split("/")
    if path[-1] == "rrddata":
        now = int(time.time()) // 60 * 60
        rows = [{"time": now - 60 * ago, "diskwrite": 4096 if ago > 5 else 0} for ago in range(60, 0, -1)]
        print(json.dumps(rows))
        return 0
    vm = Vm(root, int(path[4]))
    vm.config()
    fields = {
        key: value if isinstance(value, dict) else str(value) for key, value in qm.verbose(vm, *vm.state()).items()
    }
    print(json.dumps(fields | {"ha": {"managed": int(vm.under_ha())}}))
    return 0


def pvecm(root: str, words: list[str]) -> int:
    """Run `pvecm status`."""
    if not os.path.exists(f"{root}/etc/pve/ha"):
        missing = "Error: Corosync config '/etc/pve/corosync.conf' does not exist - is this node part of a cluster?"
        print(missing, file=sys.stderr)
        return 255
    quorate = os.stat(f"{root}/etc/pve/local").st_mode & 0o200
    print(f"Quorum information\n------------------\nQuorate:          {'Yes' if quorate else 'No'}")
    return 0


def pvesm(root: str, words: list[str]) -> int:
    """Run `pvesm status [--storage ID]` or `pvesm list ID --vmid VMID --content images`.

    `status` tries every storage, one after the other, and prints the requested one (pve-storage 9.1.7,
    API2/Storage/Status.pm). `list` tries only that one.
    """
    known = storages(root)
    only = words[1] if words[0] == "list" else words[words.index("--storage") + 1] if "--storage" in words else ""
    if only and only not in known:
        unknown = "400 Parameter verification failed.\nstorage: No such storage.\npvesm status  [OPTIONS]"
        raise Died(f"storage '{only}' does not exist" if words[0] == "list" else unknown)
    if words[0] == "list":
        return list_volumes(root, only, words[words.index("--vmid") + 1])
    print_status(known, {name: is_online(root, name) for name in known}, only)
    return 0


def list_volumes(root: str, name: str, vmid: str) -> int:
    """Print the VM's volumes on one storage."""
    if not is_online(root, name):
        return 255
    volume = f"{name}:{vmid}/vm-{vmid}-disk-0.raw"
    print(f"{'Volid':{len(volume)}} {'Format':7} {'Type':6} {'Size':>10} VMID")
    print(f"{volume} {'raw':7} {'images':6} {1 << 20:>10} {vmid}")
    return 0


def print_status(known: dict[str, str], answers: dict[str, bool], only: str) -> None:
    """Print the table of `pvesm status`."""
    shown = {only: known[only]} if only else known
    width = max(map(len, shown)) + 1
    sizes = ("Total (KiB)", "Used (KiB)", "Available (KiB)")
    print(f"{'Name':{width}} {'Type':>10} {'Status':>10} {sizes[0]:>15} {sizes[1]:>15} {sizes[2]:>15} {'%':>8}")
    for name, kind in sorted(shown.items()):
        active = answers[name]
        total, used = (98497780, 12345678) if active else (0, 0)
        share = used * 100 / total if total else 0
        state = "active" if active else "inactive"
        print(f"{name:{width}} {kind:>10} {state:>10} {total:>15} {used:>15} {total - used:>15} {share:7.2f}%")


def storages(root: str) -> dict[str, str]:
    """Return the configured storages with their types."""
    with open(f"{root}/etc/pve/storage.cfg", encoding="utf-8") as file:
        heads = [line.split(": ") for line in file.read().splitlines() if line[:1].strip()]
    return {name: kind for kind, name in heads}


def is_online(root: str, name: str) -> bool:
    """Tell whether a storage answers."""
    if load_plugin(root).is_online(root, name):
        return True
    print(f"storage '{name}' is not online", file=sys.stderr)
    return False


def pveversion(root: str, words: list[str]) -> int:
    """Run `pveversion`."""
    print("pve-manager/9.1.4/5ac30304265fbd8e (running kernel: 6.17.4-1-pve)")
    return 0


def main() -> int:
    """Run `ROOT NAME WORDS`."""
    root, name, *words = sys.argv[1:]
    name_perl(name, *words)
    burn(root)
    try:
        if name != "pveversion":
            from .qm import reach_pmxcfs

            load_plugin(root).before(root, name, words)
            reach_pmxcfs(root)
        return {"pvesh": pvesh, "pvecm": pvecm, "pvesm": pvesm, "pveversion": pveversion}[name](root, words)
    except Died as error:
        print(error, file=sys.stderr)
        return error.code
