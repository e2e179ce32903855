"""Stand-ins for the commands beside `qm` that only tell: pvesh, pvecm, pveversion. All but the last need /etc/pve."""

import contextlib
import io
import os
import sys
import time


def pvesh(root: str, words: list[str]) -> int:
    """`pvesh get PATH --output-format json`, for the two paths that a capture asks."""
    import json

    from . import qm

    path = words[1].split("/")
    if path[-1] == "rrddata":
        now = int(time.time()) // 60 * 60
        rows = [{"time": now - 60 * ago, "diskwrite": 4096 if ago > 5 else 0} for ago in range(60, 0, -1)]
        print(json.dumps(rows))
        return 0
    sys.argv[1:] = [root, "status", path[4], "--verbose"]
    with contextlib.redirect_stdout(io.StringIO()) as text:
        code = qm.main()
    if code == 0:
        lines = [line.partition(": ") for line in text.getvalue().splitlines()]
        said: dict[str, object] = {key: value for key, _, value in lines}
        managed = os.path.exists(f"{root}/etc/pve/ha/resources.cfg")
        print(json.dumps(said | {"ha": {"managed": int(managed)}}))
    return code


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
        from .modes import hang_with_all

        hang_with_all(root)
    return {"pvesh": pvesh, "pvecm": pvecm, "pveversion": pveversion}[name](root, words)
