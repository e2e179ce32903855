"""Stand-ins for the commands beside `qm` that only tell: pvesh, pvecm, pveversion. All but the last need /etc/pve."""

import json
import os
import sys
import time

from .modes import hang_with_all
from .script import script


def pvesh(root: str, words: list[str]) -> int:
    """`pvesh get PATH --output-format json`, for the two paths that a capture asks."""
    path = words[1].split("/")
    if path[-1] == "rrddata":
        now = int(time.time()) // 60 * 60
        rows = [{"time": now - 60 * ago, "diskwrite": 4096 if ago > 5 else 0} for ago in range(60, 0, -1)]
        print(json.dumps(rows))
        return 0
    import subprocess

    command = [*script("qm"), root, "status", path[4], "--verbose"]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if ended.returncode == 0:
        lines = [line.partition(": ") for line in ended.stdout.splitlines()]
        said: dict[str, object] = {key: value for key, _, value in lines}
        managed = os.path.exists(f"{root}/etc/pve/ha/resources.cfg")
        print(json.dumps(said | {"ha": {"managed": int(managed)}}))
    return ended.returncode


def pvecm(root: str, words: list[str]) -> int:
    if not os.path.exists(f"{root}/etc/pve/ha"):
        missing = "Error: Corosync config '/etc/pve/corosync.conf' does not exist - is this node part of a cluster?"
        print(missing, file=sys.stderr)
        return 255
    quorate = os.stat(f"{root}/etc/pve/local").st_mode & 0o200
    print(f"Quorum information\n------------------\nQuorate:          {'Yes' if quorate else 'No'}")
    return 0


def pveversion(root: str, words: list[str]) -> int:
    print("pve-manager/9.1.4/5ac30304265fbd8e (running kernel: 6.17.4-1-pve)")
    return 0


def main() -> int:
    """`ROOT NAME WORDS`."""
    root, name, *words = sys.argv[1:]
    if name != "pveversion":
        hang_with_all(root)
    return {"pvesh": pvesh, "pvecm": pvecm, "pveversion": pveversion}[name](root, words)
