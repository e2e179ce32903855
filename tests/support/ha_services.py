"""A stand-in for HA on a cluster of one node: `ha-manager`, its files, and its two services, pve-ha-crm and pve-ha-lrm.

Rules: pve-ha-manager 5.2.0 (HA/CRM.pm, HA/Manager.pm, HA/LRM.pm, HA/Tools.pm, HA/Resources/PVEVM.pm, API2/HA/*.pm,
CLI/ha_manager.pm, HA/Config.pm). A request returns at once, even if no service runs: `set` changes resources.cfg, and
`crm-command` adds a line to a queue. Each service works in rounds of 10 s, needs its lock, and writes the time of the
round. A service that dies leaves its files unchanged, and its lock for two minutes. SIGTERM ends a service as
`systemctl stop` does.

It runs as its own program, isolated as the stand-ins of Proxmox's commands are (`handler/demo/proxmox/`).
"""

import json
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from breakglass.base.isolated import isolated_command
from breakglass.demo.proxmox import qm, tasks
from breakglass.demo.proxmox.plugin import load_plugin
from breakglass.demo.proxmox.processes import ROOT, Died, name_of, name_perl, name_process, processes_of, wait_for_end
from breakglass.demo.proxmox.times import LEAST_FOR_QEMU, SECONDS, burn, seconds
from breakglass.demo.proxmox.vm import Vm, remove

Json = dict[str, object]
Service = dict[str, Any]  # of the manager's service_status

SECONDS |= {
    # pve-ha-manager 5.2.0: LRM.pm and CRM.pm, one round; Env/PVE2.pm, the lifetime of a lock that is not renewed
    "ha-round": 10.0,
    "ha-lock": 120.0,
    "ha-clock": 0.0,  # the clock of HA's services is ahead by this; not scaled
}
_INACTIVE = ("stopped", "freeze", "error", "request_start")  # Tools.pm, count_active_services
_TAKES = {"started": "start", "request_stop": "stop", "stopped": "stop"}


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
        """Return the state that resources.cfg requests of each service."""
        sections = re.findall(r"^(\w+): (\S+)\n((?:\t.*\n?)*)", read_file(self.resources), re.MULTILINE)
        found = {f"{kind}:{name}": re.search(r"\tstate (\S+)", lines) for kind, name, lines in sections}
        return {sid: state[1] if state else "started" for sid, state in found.items()}

    def request(self, sid: str, state: str) -> None:
        """Request a state of a service in resources.cfg."""
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


# --- ha-manager ---


def give_ha_manager(place: Path, root: Path) -> None:
    """Put the command `ha-manager` of the host at `root` into a directory."""
    command = shlex.join(program(str(root), "ha-manager"))
    (place / "ha-manager").write_text(f'#!/bin/sh\n{ROOT}={shlex.quote(str(root))} exec {command} "$@"\n')
    (place / "ha-manager").chmod(0o755)


def run_ha_manager(root: str, command: str, words: list[str]) -> int:
    """Run `set SID --state STATE` or `crm-command stop SID SECONDS` and return the exit code."""
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


# --- its services ---


class Lock:
    """A lock of pmxcfs that a service renews in each round. It is free again when a dead service's lifetime is over."""

    def __init__(self, ha: Ha, name: str) -> None:
        self.path, self.lifetime, self.is_held = f"{ha.locks}/{name}", seconds(ha.root, "ha-lock"), False

    def take(self) -> bool:
        """Take or renew the lock; tell whether it is held."""
        if self.is_held:
            os.utime(self.path)
            return True
        try:
            if time.time() - os.stat(self.path).st_mtime < self.lifetime:
                return False
            os.rmdir(self.path)
        except FileNotFoundError:
            pass
        os.makedirs(self.path)
        self.is_held = True
        return True

    def release(self) -> None:
        """Free the lock for the next service."""
        if self.is_held:
            os.rmdir(self.path)


class Crm:
    """The manager."""

    def __init__(self, ha: Ha) -> None:
        self.ha, self.lock = ha, Lock(ha, "ha_manager_lock")
        self.uids = 0

    def is_over(self, ends: bool) -> bool:
        """Tell whether the service has ended after SIGTERM. It ends at once and releases its lock."""
        return ends

    def do_round(self, ends: bool) -> None:
        """Read the queue, change the state of each service, and write the status (Manager.pm, manage)."""
        if not self.ha.is_quorate() or not self.lock.take():
            return
        status, requested = self.ha.read_status(self.ha.manager), self.ha.requested()
        found = status.get("service_status")
        services: dict[str, Service] = found if isinstance(found, dict) else {}
        lrm = self.ha.read_status(self.ha.lrm)
        self._add_and_remove(services, requested)
        self._take_commands(services)
        for sid, service in services.items():
            while self._change(sid, service, requested.get(sid, "disabled"), lrm):
                pass
        status |= {"master_node": "demo", "service_status": services, "timestamp": read_clock()}
        status.setdefault("node_status", {"demo": "online"})
        replace_file(self.ha.manager, json.dumps(status))

    def _add_and_remove(self, services: dict[str, Service], requested: dict[str, str]) -> None:
        for sid, state in requested.items():
            if sid not in services and state != "ignored":
                services[sid] = {"state": "request_start" if state == "started" else "request_stop", "node": "demo"}
                services[sid]["uid"] = self._new_uid()
        for sid in [sid for sid in services if requested.get(sid, "ignored") == "ignored"]:
            del services[sid]

    def _take_commands(self, services: dict[str, Service]) -> None:
        """Take the lines of the queue, and empty it."""
        with self.ha.locked():
            lines = read_file(self.ha.queue).splitlines()
            if lines:
                replace_file(self.ha.queue, "")
        for line in lines:
            match line.split():
                case ["stop", sid, limit] if sid in services:
                    services[sid]["cmd"] = ["stop", limit]

    def _change(self, sid: str, service: Service, requested: str, lrm: dict[str, Any]) -> bool:
        """Change a service's state; tell whether it changed."""
        before, result = service["state"], lrm.get("results", {}).get(service.get("uid"))
        code = None if result is None else result["exit_code"]
        match before:
            case "request_start":
                self._enter(service, "started")
            case "started":
                self._change_started(sid, service, requested, code)
            case "request_stop" if code is not None:
                self._enter(service, "stopped" if code == 0 else "error")
            case "stopped":
                service.pop("cmd", None)
                if requested == "started":
                    self._enter(service, "request_start")
            case "freeze" if lrm.get("mode") == "active":
                self._enter(service, "started" if requested == "started" else "request_stop")
            case "error" if requested == "disabled":
                self._enter(service, "stopped")
        if lrm.get("mode") == "restart" and service["state"] in ("started", "stopped", "request_stop"):
            self._enter(service, "freeze")
        return bool(service["state"] != before)

    def _change_started(self, sid: str, service: Service, requested: str, code: int | None) -> None:
        if requested != "started":
            self._enter(service, "request_stop")
        elif command := service.pop("cmd", None):
            stop = partial(self._stop, sid, service, command[1])
            load_plugin(self.ha.root).do_step("manager", self.ha.root, int(sid.partition(":")[2]), "stop", stop)
        elif code == 0:
            service.pop("failed", None)
            service["uid"] = self._new_uid()  # so that the LRM starts the VM again after its end
        elif code is not None:
            service["failed"] = service.get("failed", 0) + 1
            if service["failed"] > 1:  # max_relocate is reached, and there is no other node
                self._enter(service, "error")
            else:
                service["uid"] = self._new_uid()

    def _stop(self, sid: str, service: Service, limit: str) -> None:
        self._enter(service, "request_stop", timeout=limit)
        self.ha.request(sid, "stopped")

    def _enter(self, service: Service, state: str, **more: str) -> None:
        service.pop("timeout", None)
        service |= {"state": state, "uid": self._new_uid(), **more}

    def _new_uid(self) -> str:
        self.uids += 1
        return f"{os.getpid()}-{self.uids}"


class Lrm:
    """The node's LRM. Its tasks are children, so that its rounds continue."""

    def __init__(self, ha: Ha) -> None:
        self.ha, self.lock = ha, Lock(ha, "ha_agent_demo_lock")
        self.mode, self.state = "active", "wait_for_agent_lock"
        self.tasks: dict[str, tuple[int, Service]] = {}  # the process and the service, by sid
        self.results: dict[str, Service] = {}
        self.tries: dict[str, int] = {}

    def is_over(self, ends: bool) -> bool:
        """Tell whether the service has ended after SIGTERM. It ends once HA's manager has frozen the services here."""
        return ends and not self.tasks and not self._active()

    def do_round(self, ends: bool) -> None:
        """Do what the manager's status asks for, and write the LRM's own status (LRM.pm, work)."""
        if not self.ha.is_quorate():
            return
        self.mode = "restart" if ends else "active"
        if self.state == "wait_for_agent_lock" and self._active() and self.lock.take():
            self.state = "active"
        if self.state == "active" and self.lock.take():
            for sid in list(self.tasks):
                self._collect(sid)
            for sid, service in self._services().items() if not ends else ():
                self._begin(sid, service)
        status = {"state": self.state, "mode": self.mode, "results": self.results, "timestamp": read_clock()}
        replace_file(self.ha.lrm, json.dumps(status))

    def _services(self) -> dict[str, Service]:
        found = self.ha.read_status(self.ha.manager).get("service_status")
        return found if isinstance(found, dict) else {}

    def _active(self) -> bool:
        return any(service["state"] not in _INACTIVE for service in self._services().values())

    def _begin(self, sid: str, service: Service) -> None:
        """Begin the task of a service. A stop is done again in each round, even if it has succeeded."""
        uid, verb = service.get("uid"), _TAKES.get(service["state"])
        if sid in self.tasks or not uid or not verb or (uid in self.results and service["state"] != "stopped"):
            return
        if not os.path.exists(f"{self.ha.root}/etc/pve/qemu-server/{sid.removeprefix('vm:')}.conf"):
            return
        vm = Vm(self.ha.root, int(sid.partition(":")[2]))
        if (vm.pid is not None) == (verb == "start"):
            self._keep_result(sid, service, 0)
        elif pid := os.fork():
            self.tasks[sid] = (pid, service)
        else:
            os._exit(run_task(vm, verb, service.get("timeout", "60")))

    def _collect(self, sid: str) -> None:
        """Keep the result of a task that has ended."""
        pid, service = self.tasks[sid]
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            del self.tasks[sid]
            self._keep_result(sid, service, os.waitstatus_to_exitcode(status))

    def _keep_result(self, sid: str, service: Service, code: int) -> None:
        """Keep a result for the manager. A failed start is first tried once more here (max_restart)."""
        self.tries[sid] = self.tries.get(sid, 0) + 1 if code and service["state"] == "started" else 0
        if self.tries[sid] != 1:
            self.tries[sid] = 0
            self.results = {service["uid"]: {"sid": sid, "state": service["state"], "exit_code": code}}


def read_clock() -> int:
    """Return the time that a service writes."""
    return int(time.time() + SECONDS["ha-clock"])


def run_task(vm: Vm, verb: str, limit: str) -> int:
    """Run a task and return its exit code. A stop with a time limit is a shutdown, and ends by force (PVEVM.pm)."""
    words = ["--timeout", limit, "--forceStop", "1"] if verb == "stop" and limit != "0" else []
    codes: list[int] = []

    def work() -> None:
        codes.append(tasks.run(vm, "shutdown" if words else verb, words, from_ha=True))

    try:
        load_plugin(vm.root).do_step("lrm", vm.root, vm.vmid, verb, work)
    except Died as error:
        return error.code
    return sum(codes)


def program(*words: str) -> list[str]:
    """Return the command line that runs `main` with these arguments."""
    *isolated, begin = isolated_command("")[:4]
    with_package = begin.partition("; from ")[0]
    return [*isolated, f"{with_package}; import runpy; runpy.run_path({__file__!r}, run_name='__main__')", *words]


def leave_behind(argv: list[str]) -> None:
    """Start a command in its own session without waiting for it."""
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    defaults = [signal.SIGPIPE, signal.SIGTERM]
    os.posix_spawnp(argv[0], argv, os.environ, file_actions=null, setsid=True, setsigdef=defaults)


def main() -> int:
    """Run `ROOT ha-manager …`, `ROOT systemctl start|stop UNIT...`, or `ROOT serve UNIT`, one of HA's services."""
    root, command, *words = sys.argv[1:]
    if command == "ha-manager":
        return run_ha_manager(root, words[0], words[1:])
    if command == "serve":
        serve(root, words[0])
        return 0
    verb, *units = words
    for unit in units:
        if unit not in UNITS or verb not in ("start", "stop"):
            print(f"Unit {unit}.service not found.", file=sys.stderr)
            return 5
        running = find_service(root, unit)
        if verb == "start" and not running:
            leave_behind(program(root, "serve", unit))
            until = time.monotonic() + LEAST_FOR_QEMU
            while not find_service(root, unit) and time.monotonic() < until:
                time.sleep(0.01)
        for pid in running if verb == "stop" else ():
            with suppress(ProcessLookupError):  # a child that had the service's name for a moment
                os.kill(pid, signal.SIGTERM)
                wait_for_end(pid, None)
    return 0


def find_service(root: str, unit: str) -> list[int]:
    """Return the processes of a service."""
    return [pid for pid in processes_of(root) if name_of(pid) == unit]


def serve(root: str, unit: str) -> None:
    """Run a service until SIGTERM ends it, or until its host is gone."""
    load_plugin(root).before(root, unit, [])
    ends: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        ends.append(number)

    signal.signal(signal.SIGTERM, end)
    pidfile = f"{root}/run/{unit}.pid"
    with open(pidfile, "w", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
    name_process([unit], unit)  # from here on, a signal may come
    service = UNITS[unit](Ha(root))
    while os.path.isdir(root) and not service.is_over(bool(ends)):
        try:
            service.do_round(bool(ends))
        except (OSError, Died):  # its files are missing or another process has the lock, so it waits for the next round
            pass
        time.sleep(seconds(root, "ha-round"))
    service.lock.release()
    remove(pidfile)


UNITS: dict[str, type[Crm] | type[Lrm]] = {"pve-ha-crm": Crm, "pve-ha-lrm": Lrm}

if __name__ == "__main__":
    sys.exit(main())
