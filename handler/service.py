"""What the routes share: the configuration in force, the roads to the hosts, the verbs under way, and how it all is."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

from . import audit
from .agents.pve.words import VERSION
from .chat.service import ChatService
from .config.model import Config, Vm, is_vm_name
from .config.problems import ConfigError, Problem, list_problems
from .proxmox.host import Host
from .proxmox.outcome import Asked, Message, Unreached
from .proxmox.request import PveRequest
from .proxmox.run import Run, SentIds
from .threads import run_in_thread

READ_SECONDS = 10.0  # for the configuration and its files

Load = Callable[[], Config]
Found = TypeVar("Found")


class Service:
    """The running handler.

    `load` reads the configuration again; `hung_up` asks for that. The configuration and the roads change together,
    between two steps of the event loop, so that no request sees one without the other.
    """

    def __init__(self, config: Config, load: Load) -> None:
        self.config = config
        self.stopping = asyncio.Event()
        self.hung_up = asyncio.Event()
        self.chatting = ChatService()
        self._load = load
        self._rejected_since: float | None = None
        self._hosts: dict[str, Host] = {}
        self._sent = SentIds()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Connect to the hosts; must be called in the event loop."""
        self._use(self.config)
        self._spawn(self.chatting.use(self.config))
        self._spawn(self._reload_when_asked())
        self._spawn(self._stop_turns())

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stop_turns(self) -> None:
        """End the turns as soon as the handler is told to stop, so that their streams have a last line."""
        await self.stopping.wait()
        await self.chatting.stop()

    async def stop(self) -> None:
        await self.chatting.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(host.close() for host in self._hosts.values()))

    # --- the configuration ---

    async def _reload_when_asked(self) -> None:
        while True:
            await self.hung_up.wait()
            self.hung_up.clear()  # one that comes from here on asks for another reading
            try:
                config = await run_in_thread(self._load, READ_SECONDS)
            except Exception as error:  # whatever it is, the configuration that works stays
                self._reject(error)
            else:
                self._rejected_since = None
                self._use(config)
                self._spawn(self.chatting.use(config))
                audit.note("reload", **in_force(config))

    def _reject(self, error: Exception) -> None:
        self._rejected_since = self._rejected_since or time.time()
        problem = Problem("(file)", f"can't be read: {error or type(error).__name__}", "mend it and reload (SIGHUP)")
        problems = error.problems if isinstance(error, ConfigError) else [problem]
        audit.note("reload-rejected", problems=list_problems(problems))

    def _use(self, config: Config) -> None:
        """Put a configuration in force: open, keep and close roads. Keeps one whose VM says what it said before, but
        not one whose key was turned down: a reload is a person's word that it may be tried again."""
        self.config = config
        old, self._hosts = self._hosts, {}
        for name, vm in config.vms.items():
            host = old.get(name)
            if host is not None and host.vm == vm and host.health != "key-not-accepted":
                self._hosts[name] = old.pop(name)
            else:
                self._hosts[name] = Host(vm)
                self._hosts[name].start()
        for host in old.values():
            self._spawn(host.finish())

    def run(self, asked: Asked, request: PveRequest, vm: Vm, began: float) -> Run:
        """Begin a verb and track it until it ends, whoever watches and whatever is reloaded."""
        host = self._hosts[vm.name]
        run = Run(host, asked, request, vm, began, self._sent)
        host.track(run.task)
        return run

    def run_on_host(self, vm: Vm, work: Callable[[Host], Coroutine[Any, Any, Found]]) -> asyncio.Task[Found]:
        """Begin some work with a VM's host. The connection stays until the work ends, whatever is reloaded. Raise
        Unreached for a VM that a reload took away."""
        host = self._hosts.get(vm.name)
        if host is None:
            raise Unreached(
                "not-configured",
                f"{vm.name} is not configured any more; nothing was sent",
                "see /health for the VMs that are",
            )
        return host.track(asyncio.create_task(work(host)))

    async def read(self, vm: Vm, line: str) -> list[Message]:
        """Return what a VM's host answers to a reading line; raise Unreached or Lost."""
        return await self.run_on_host(vm, lambda host: host.read(line))

    # --- what is so ---

    def health(self) -> dict[str, object]:
        return {
            "ok": True,
            "time": _spelled(time.time()),
            "version": VERSION,
            "config": self._config_health(),
            "vms": [self._vm_health(vm) for vm in self.config.vms.values()] + self._vms_off(),
            "chat": self.chatting.state,
            "chat_isolated": self.chatting.isolated,
        }

    def _config_health(self) -> str:
        count = len(self.config.problems)
        found = [f"rejected since {_spelled(self._rejected_since)}"] if self._rejected_since else []
        found += [f"degraded: {count} problem{'s' * (count > 1)}"] if count else []
        return "; ".join(found) or "ok"

    def _vms_off(self) -> list[dict[str, object]]:
        """Return the VMs whose entry has a fault; not those whose name is the fault, for that may be any text."""
        off = {name: vmid for name, vmid in self.config.vms_off.items() if is_vm_name(name)}
        return [{"name": name, "vmid": vmid, "proxmox": "config-error", "since": None} for name, vmid in off.items()]

    def _vm_health(self, vm: Vm) -> dict[str, object]:
        host = self._hosts[vm.name]
        at = _spelled(host.since) if host.since else None
        return {"name": vm.name, "vmid": vm.vmid, "proxmox": host.health, "since": at}


def _spelled(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def in_force(config: Config) -> dict[str, object]:
    """Return what of a configuration a note can say: its names, and everything that is wrong with it."""
    callers = [caller.name for caller in config.callers]
    return {"vms": list(config.vms), "callers": callers, "problems": list_problems(config.problems)}
