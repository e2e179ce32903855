"""A stand-in for `ha-manager` and the services behind it: the manager (CRM) and the node's LRM.

Words and rules: pve-ha-manager 5.2.0 (API2/HA/Resources.pm, HA/Config.pm, HA/Manager.pm, HA/Resources/PVEVM.pm). A
request returns at once. The manager changes its status in its next round. The LRM begins the task in its own round, 9
to 20 s after the request in the original's time.
"""

import json
import os
import re
import sys
import time

from ...isolated import isolated_command
from . import qm
from .errors import Died
from .plugin import load_plugin
from .processes import leave_behind, name_perl, name_process
from .times import burn, seconds
from .vm import Vm

MANAGERS_SHARE = 10 / 12  # of the time from the request to the LRM's task


class Ha:
    """HA's files below the root of one host, for one VM."""

    def __init__(self, root: str, sid: str) -> None:
        self.root, self.sid = root, sid
        self.vmid = sid.partition(":")[2]
        self.resources = f"{root}/etc/pve/ha/resources.cfg"
        self.manager = f"{root}/etc/pve/ha/manager_status"

    def read_state(self) -> str:
        """Return the VM's state in the manager's status."""
        try:
            with open(self.manager, encoding="utf-8") as file:
                return str(json.load(file)["service_status"][self.sid]["state"])
        except (OSError, ValueError, KeyError):
            return ""

    @property
    def disarm(self) -> dict[str, str]:
        """How HA is disarmed: its `mode`, freeze or ignore, and its `state`; empty while it is armed."""
        found = self._status().get("disarm")
        return found if isinstance(found, dict) else {}

    def _status(self) -> dict[str, object]:
        try:
            with open(self.manager, encoding="utf-8") as file:
                status: dict[str, object] = json.load(file)
                return status
        except (OSError, ValueError):
            return {}

    def write_state(self, state: str) -> None:
        """Write the VM's state into the manager's status."""
        status = {"master_node": "demo", "node_status": {"demo": "online"}} | self._status()
        status["service_status"] = {self.sid: {"node": "demo", "state": state, "uid": "x"}}
        with open(f"{self.manager}.new", "w", encoding="utf-8") as file:
            json.dump(status, file)
        os.replace(f"{self.manager}.new", self.manager)

    def request(self, state: str) -> None:
        """Write the state that the resource is to have."""
        with open(self.resources, encoding="utf-8") as file:
            text = re.sub(r"\tstate \S+", f"\tstate {state}", file.read())
        with open(f"{self.resources}.new", "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(f"{self.resources}.new", self.resources)

    def refuse(self, state: str) -> str:
        """Return why a request is refused, or an empty text."""
        if not os.stat(f"{self.root}/etc/pve/local").st_mode & 0o200:
            return "unable to open file '/etc/pve/ha/crm_commands.tmp.1' - Permission denied"
        if self.read_state() == "error" and state != "disabled":
            return f"service '{self.sid}' in error state, must be disabled and fixed first"
        return ""


def act(ha: Ha, verb: str, limit: str) -> None:
    """Do what follows a request: the manager's next round, then the LRM's."""
    tools = load_plugin(ha.root)
    tools.before(ha.root, "pve-ha-lrm", [verb, ha.vmid])
    late = seconds(ha.root, "ha-round")
    time.sleep(late * MANAGERS_SHARE)
    if ha.disarm:
        return
    tools.do_step("manager", ha.root, int(ha.vmid), verb, lambda: run_manager(ha, verb))
    time.sleep(late * (1 - MANAGERS_SHARE))
    tools.do_step("lrm", ha.root, int(ha.vmid), verb, lambda: run_lrm(ha, verb, limit))


def run_manager(ha: Ha, verb: str) -> None:
    """Do the manager's round: only a stop changes anything. The status is written last, as by Manager.pm."""
    if verb == "stop":
        ha.request("stopped")
        ha.write_state("request_stop")


def run_lrm(ha: Ha, verb: str, limit: str) -> None:
    """Do the LRM's round: run the task and write its result into the manager's status."""
    ha.write_state({"stop": "stopped", "start": "started"}[verb] if run_task(ha, verb, limit) == 0 else "error")


def run_task(ha: Ha, verb: str, limit: str) -> int:
    """Run the task and return its exit code (PVEVM.pm: a stop with a time limit is a shutdown that ends by force)."""
    from . import tasks

    vm, words = Vm(ha.root, int(ha.vmid)), []
    if verb == "stop" and limit != "0":
        verb, words = "shutdown", ["--timeout", limit, "--forceStop", "1"]
    try:
        return tasks.run(vm, verb, words, from_ha=True)
    except Died as error:
        return error.code


def main() -> int:
    """Run `ROOT status | set SID --state STATE | crm-command stop SID SECONDS`."""
    root, command, *words = sys.argv[1:]
    if command == "act":
        sid, verb, limit = words
        name_process(["pve-ha-lrm"], "pve-ha-lrm")
        act(Ha(root, sid), verb, limit)
        return 0
    name_perl("ha-manager", command, *words)
    burn(root)
    load_plugin(root).before(root, "ha-manager", [command, *words])
    try:
        qm.reach_pmxcfs(root)
    except Died as error:
        print(error, file=sys.stderr)
        return error.code
    return answer(root, command, words)


def answer(root: str, command: str, words: list[str]) -> int:
    """Run one command of `ha-manager` and return its exit code."""
    limit = "0"
    match command, words:
        case "set", [sid, "--state", state]:
            ha, verb = Ha(root, sid), "start" if state == "started" else ""
        case "crm-command", ["stop", sid, limit]:
            ha, state, verb = Ha(root, sid), "stopped", "stop"
        case "status", _:
            print_status(Ha(root, "vm:102"))
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
        leave_behind([*isolated_command("demo.proxmox.ha"), root, "act", ha.sid, verb, limit])
    return 0


def print_status(ha: Ha) -> None:
    """Print what `ha-manager status` prints."""
    disarm = ha.disarm
    how = f"{disarm['state']}, resource mode: {disarm['mode']}" if disarm else "armed"
    print(f"quorum OK\nmaster demo (active)\nfencing {how} (CRM watchdog active)\nlrm demo (active)")
    if state := ha.read_state():
        print(f"service {ha.sid} (demo, {'ignore' if disarm.get('mode') == 'ignore' else state})")
