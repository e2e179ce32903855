"""A stand-in for `ha-manager`, and the files of HA below the root of one host.

Words and rules: pve-ha-manager 5.2.0 (API2/HA/Resources.pm, API2/HA/Status.pm, CLI/ha_manager.pm, HA/Config.pm). A
request returns at once, whether HA's services run or not: `set` changes resources.cfg, and `crm-command` adds a line to
a queue. The services are the tests' (`tests/support/ha_services.py`): the demo's VM is not under HA.
"""

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from . import qm
from .plugin import load_plugin
from .processes import Died, name_perl
from .times import burn

Json = dict[str, object]


class Ha:
    """HA's files on a host. The node is called demo."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.resources = f"{root}/etc/pve/ha/resources.cfg"
        self.queue = f"{root}/etc/pve/ha/crm_commands"
        self.manager = f"{root}/etc/pve/ha/manager_status"
        self.lrm = f"{root}/etc/pve/nodes/demo/lrm_status"
        self.locks = f"{root}/etc/pve/priv/lock"

    def is_quorate(self) -> bool:
        """Tell whether this node may write to /etc/pve."""
        return bool(os.stat(f"{self.root}/etc/pve/local").st_mode & 0o200)

    def requested(self) -> dict[str, str]:
        """Return the state that is requested of each service, in resources.cfg."""
        sections = re.findall(r"^(\w+): (\S+)\n((?:\t.*\n?)*)", read_file(self.resources), re.MULTILINE)
        found = {f"{kind}:{name}": re.search(r"\tstate (\S+)", lines) for kind, name, lines in sections}
        return {sid: state[1] if state else "started" for sid, state in found.items()}

    def request(self, sid: str, state: str) -> None:
        """Write the state that a service is to have."""
        section = rf"(^{sid.replace(':', ': ')}\n(?:\t.*\n)*?\tstate )\S+"
        replace_file(self.resources, re.sub(section, rf"\g<1>{state}", read_file(self.resources), flags=re.MULTILINE))

    def add_command(self, line: str) -> None:
        """Add a line to the manager's queue, where it stays until a manager reads it."""
        with self.locked():
            replace_file(self.queue, f"{read_file(self.queue)}{line}\n")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of HA's configuration (Cluster.pm, cfs_lock_domain)."""
        until = time.monotonic() + 10
        while True:
            try:
                os.makedirs(f"{self.locks}/domain-ha")
                break
            except FileExistsError:
                if time.monotonic() > until:
                    raise Died("cfs-lock 'domain-ha' error: got lock request timeout") from None
                time.sleep(0.02)
        try:
            yield
        finally:
            os.rmdir(f"{self.locks}/domain-ha")

    def read_status(self, path: str) -> Json:
        """Return the status that a service last wrote."""
        try:
            found = json.loads(read_file(path))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def read_state(self, sid: str) -> str:
        """Return a service's state in the manager's status."""
        services = self.read_status(self.manager).get("service_status")
        return str(services[sid]["state"]) if isinstance(services, dict) and sid in services else ""

    def refuse(self, sid: str, state: str) -> str:
        """Return why a request is refused, or an empty text."""
        if not self.is_quorate():
            return "unable to open file '/etc/pve/ha/crm_commands.tmp.1' - Permission denied"
        if self.read_state(sid) == "error" and state != "disabled":
            return f"service '{sid}' in error state, must be disabled and fixed first"
        return ""


def replace_file(path: str, text: str) -> None:
    """Replace a file so that no reader sees half of it."""
    draft = f"{path}.{os.getpid()}"
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(draft, path)


def read_file(path: str) -> str:
    """Return the text of a file, empty if there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def main() -> int:
    """Run `ROOT status | set SID --state STATE | crm-command stop SID SECONDS`."""
    root, command, *words = sys.argv[1:]
    name_perl("ha-manager", command, *words)
    burn(root)
    load_plugin(root).before(root, "ha-manager", [command, *words])
    try:
        qm.reach_pmxcfs(root)
        return answer(Ha(root), command, words)
    except Died as error:
        print(error, file=sys.stderr)
        return error.code


def answer(ha: Ha, command: str, words: list[str]) -> int:
    """Run one command of `ha-manager` and return its exit code."""
    match command, words:
        case "set", [sid, "--state", state]:
            line = ""
        case "crm-command", ["stop", sid, limit]:
            state, line = "stopped", f"stop {sid} {limit}"
        case "status", _:
            print_status(ha, time.time())
            return 0
        case _:
            print("ERROR: unknown command", file=sys.stderr)
            return 255
    if reason := ha.refuse(sid, state):
        print(reason, file=sys.stderr)
        return 255
    if line:
        ha.add_command(line)
    else:
        ha.request(sid, state)
    return 0


def print_status(ha: Ha, now: float) -> None:
    """Print what `ha-manager status` prints: a time that is more than 30 s old is `old timestamp - dead?`."""
    manager, lrm = ha.read_status(ha.manager), ha.read_status(ha.lrm)
    quorum = "OK" if ha.is_quorate() else "No quorum on node 'demo'!"
    print(f"quorum {quorum}")
    print(f"master {manager.get('master_node')} ({_age_word(manager, now)}, {_local_time(manager)})")
    disarm = manager.get("disarm")
    armed = "armed" if _age_word(manager, now) == "active" else "standby"
    how = f"{disarm['state']}, resource mode: {disarm['mode']}" if isinstance(disarm, dict) else armed
    print(f"fencing {how}")
    print(f"lrm demo ({_lrm_word(lrm, now)}, {_local_time(lrm)})")
    for sid in ha.requested():
        ignored = isinstance(disarm, dict) and disarm["mode"] == "ignore"
        print(f"service {sid} (demo, {'ignore' if ignored else ha.read_state(sid) or 'queued'})")


def _age_word(status: Json, now: float) -> str:
    written = status.get("timestamp")
    age = now - written if isinstance(written, int) else 0.0
    return "old timestamp - dead?" if age > 30 else "detected time drift!" if age < -2 else "active"


def _lrm_word(lrm: Json, now: float) -> str:
    if "timestamp" not in lrm:
        return "unable to read lrm status"
    if (word := _age_word(lrm, now)) != "active":
        return word
    return str(lrm["state"]) if lrm.get("mode") == "active" else f"{lrm.get('mode')} mode"


def _local_time(status: Json) -> str:
    written = status.get("timestamp")
    return time.ctime(written) if isinstance(written, int) else "never"
