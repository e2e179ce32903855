"""The logs of a Proxmox host: the journal by a stand-in for journalctl, the task log, the cluster's and dpkg's."""

import json
import os
import sys
import time
from pathlib import Path

from breakglass.demo.proxmox.world import VMID, World

# Behaves as systemd 257's journalctl, which was tried with a real journald. A match of another field narrows the
# result, one of the same field widens it, and + begins a new set. With a pattern, the newest entry comes first, and an
# empty result is an error. It refuses options that it does not know.
_JOURNALCTL = """#!{python} -IS
import json, re, sys, time
words, groups, options = sys.argv[1:], [dict()], dict()
while words:
    word = words.pop(0)
    if word in ("-n", "-o", "--since", "--grep"):
        options[word] = words.pop(0)
    elif word == "+":
        groups.append(dict())
    elif "=" in word and word[0] != "-":
        name, _, value = word.partition("=")
        groups[-1].setdefault(name, set()).add(value)
    elif word == "-k":
        groups[-1].setdefault("_TRANSPORT", set()).add("kernel")
    elif word not in ("-q", "--no-pager", "--utc") and not word.startswith("-u"):
        sys.exit("journalctl: unrecognized option '" + word + "'")
since = time.time() - 3600 * int(options["--since"][1:-1]) if "--since" in options else 0
lines = []
for entry in json.load(open({path!r})):
    fits = any(all(entry.get(name) in values for name, values in group.items()) for group in groups)
    fits = fits and re.search(options.get("--grep", ""), entry["MESSAGE"])
    if fits and entry["at"] >= since and options["-o"] == "short-unix":
        mark = "" if entry["_TRANSPORT"] == "kernel" else "[77]"
        lines.append("%.6f pve1 %s%s: %s" % (entry["at"], entry["SYSLOG_IDENTIFIER"], mark, entry["MESSAGE"]))
lines = lines[-int(options["-n"]):]
print(*(lines[::-1] if "--grep" in options else lines), sep="\\n", end="\\n" if lines else "")
sys.exit("--grep" in options and not lines)
"""


def journal(world: World, *entries: tuple[float, str, str], uid: int = 0) -> None:
    """Give the host a journal. An entry has its age in minutes, its writer and its message."""
    path = world.root / "journal.json"
    known = json.loads(path.read_text()) if path.exists() else []
    for ago, name, message in entries:
        transport = (
            {"_TRANSPORT": "kernel"} if name == "kernel" and not uid else {"_TRANSPORT": "syslog", "_UID": str(uid)}
        )
        known.append({"at": time.time() - 60 * ago, "SYSLOG_IDENTIFIER": name, "MESSAGE": message, **transport})
    path.write_text(json.dumps(sorted(known, key=lambda entry: entry["at"])))
    command = world.bin / "journalctl"
    command.write_text(_JOURNALCTL.format(python=sys.executable, path=str(path)))
    command.chmod(0o755)


def upid(kind: str, ago: float, node: str = "demo") -> str:
    """Return the UPID of a task, such as `vzdump:102`, that began this many minutes ago."""
    return f"UPID:{node}:0000ABCD:0001E240:{int(time.time() - 60 * ago):08X}:{kind}:root@pam:"


def ended(kind: str, ago: float, status: str = "OK") -> str:
    """Return the index line of a task that ran for a minute and ended this many minutes ago."""
    return f"{upid(kind, ago + 1)} {int(time.time() - 60 * ago):08X} {status}"


def task_log(world: World, *lines: str, name: str = "index") -> None:
    """Append lines to a file of the task log."""
    path = world.root / f"var/log/pve/tasks/{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def cluster_log(world: World, *entries: tuple[float, str, str]) -> None:
    """Write the cluster's log, newest first. An entry has its age in minutes, its node and its message."""
    data = [
        {"uid": 1, "time": int(time.time() - 60 * ago), "pri": 6, "tag": "pvedaemon", "pid": 1, "node": node}
        | {"user": "root@pam", "msg": message}
        for ago, node, message in sorted(entries)
    ]
    (world.root / "etc/pve/.clusterlog").write_text(json.dumps({"data": data}))


def dpkg_log(world: World, *entries: tuple[float, str], name: str = "dpkg.log") -> None:
    """Write one of dpkg's logs in local time, with its other lines. An entry has its age in minutes and its text."""
    lines = []
    for ago, words in entries:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - 60 * ago))
        package, version = words.split()[1], words.split()[-1]
        lines += [f"{at} startup archives unpack", f"{at} {words}", f"{at} status unpacked {package} {version}"]
    path = world.root / f"var/log/{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def edited(world: World, name: str, ago: float) -> None:
    """Set a host file's time, as if it was edited this many minutes ago."""
    path = world.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (time.time() - 60 * ago,) * 2)


def quiet_logs(world: World) -> list[Path]:
    """Empty every log, and make no file look edited for days. Return the files to remove later."""
    node = world.root / "etc/pve/nodes/demo/qemu-server"
    for path in (node / f"{VMID}.conf", world.root / "etc/pve/storage.cfg"):
        edited(world, str(path.relative_to(world.root)), 3000)
    journal(world)
    dpkg_log(world)
    names = ("journal.json", "var/log/dpkg.log", "var/log/dpkg.log.1", "etc/pve/.clusterlog", "etc/network/interfaces")
    return [world.bin / "journalctl", *(world.root / name for name in names)]
