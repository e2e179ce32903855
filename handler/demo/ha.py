"""A stand-in for `ha-manager` and for what stands behind it: the manager (CRM) and the node's LRM.

Words and rules: pve-ha-manager (API2/HA/Resources.pm, HA/Config.pm, HA/Manager.pm). A request returns at once; the
manager then changes the state that is requested and the LRM calls `qm`. `<root>/ha.json` makes it misbehave:
{"deaf": true} takes requests and does nothing, {"takes": true} changes the requested state and does no more,
{"moves": NODE} starts the VM on another node.
"""

import json
import os
import re
import sys
import time

from .modes import hang_with_all
from .script import script

ROUND_SECONDS = 0.3  # ten seconds in the original


class Ha:
    """HA's files below the root of one host, for one VM."""

    def __init__(self, root: str, sid: str) -> None:
        self.root, self.sid = root, sid
        self.vmid = sid.partition(":")[2]
        self.resources = f"{root}/etc/pve/ha/resources.cfg"
        self.manager = f"{root}/etc/pve/ha/manager_status"

    def seen(self) -> str:
        try:
            with open(self.manager, encoding="utf-8") as file:
                return str(json.load(file)["service_status"][self.sid]["state"])
        except (OSError, ValueError, KeyError):
            return ""

    def see(self, state: str) -> None:
        status = {self.sid: {"node": "demo", "state": state, "uid": "x"}}
        with open(f"{self.manager}.new", "w", encoding="utf-8") as file:
            json.dump({"master_node": "demo", "node_status": {"demo": "online"}, "service_status": status}, file)
        os.replace(f"{self.manager}.new", self.manager)

    def request(self, state: str) -> None:
        with open(self.resources, encoding="utf-8") as file:
            text = re.sub(r"\tstate \S+", f"\tstate {state}", file.read())
        with open(f"{self.resources}.new", "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(f"{self.resources}.new", self.resources)

    def mode(self) -> dict[str, object]:
        try:
            with open(f"{self.root}/ha.json", encoding="utf-8") as file:
                found: dict[str, object] = json.load(file)
                return found
        except FileNotFoundError:
            return {}

    def refuse(self, state: str) -> str:
        """Return why a request is refused, or nothing."""
        if not os.stat(f"{self.root}/etc/pve/local").st_mode & 0o200:
            return "unable to open file '/etc/pve/ha/crm_commands.tmp.1' - Permission denied"
        if self.seen() == "error" and state != "disabled":
            return f"service '{self.sid}' in error state, must be disabled and fixed first"
        return ""


def act(ha: Ha, verb: str) -> None:
    """Be the manager's next round and the LRM's: what follows a request, some time later."""
    time.sleep(ROUND_SECONDS)
    mode = ha.mode()
    if mode.get("deaf"):
        return
    if verb == "stop":
        ha.see("request_stop")
        ha.request("stopped")
    if mode.get("takes"):
        return
    if verb == "start" and mode.get("moves"):
        move(ha, str(mode["moves"]))
        return
    import subprocess

    ended = subprocess.run([*script("qm"), ha.root, verb, ha.vmid, "--from-ha"])
    done = {"stop": "stopped", "start": "started"}[verb]
    ha.see(done if ended.returncode == 0 else "error")


def move(ha: Ha, node: str) -> None:
    """Move the configuration to another node, as a recovery or a rebalancing start does."""
    there = f"{ha.root}/etc/pve/nodes/{node}/qemu-server"
    os.makedirs(there, exist_ok=True)
    os.rename(f"{ha.root}/etc/pve/qemu-server/{ha.vmid}.conf", f"{there}/{ha.vmid}.conf")
    with open(f"{ha.root}/etc/pve/.vmlist", "w", encoding="utf-8") as file:
        json.dump({"version": 2, "ids": {ha.vmid: {"node": node, "type": "qemu", "version": 1}}}, file)


def follow(ha: Ha, verb: str) -> None:
    """Leave `act` to a process that nobody waits for."""
    import subprocess

    command = [*script("ha"), ha.root, "act", ha.sid, verb]
    null = subprocess.DEVNULL
    subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True)


def main() -> int:
    """`ROOT status | set SID --state STATE | crm-command stop SID 0`."""
    root, command, *words = sys.argv[1:]
    hang_with_all(root)
    match command, words:
        case "act", [sid, verb]:
            act(Ha(root, sid), verb)
            return 0
        case "set", [sid, "--state", state]:
            ha, verb = Ha(root, sid), "start" if state == "started" else ""
        case "crm-command", ["stop", sid, _]:
            ha, state, verb = Ha(root, sid), "stopped", "stop"
        case "status", _:
            ha = Ha(root, "vm:102")
            print("quorum OK\nmaster demo (active)\nlrm demo (active)")
            print(f"service {ha.sid} (demo, {ha.seen()})" if ha.seen() else "", end="\n" if ha.seen() else "")
            return 0
        case _:
            print("ERROR: unknown command", file=sys.stderr)
            return 255
    if reason := ha.refuse(state):
        print(reason, file=sys.stderr)
        return 255
    if command == "set":
        ha.request(state)
    if verb:
        follow(ha, verb)
    return 0
