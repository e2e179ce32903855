"""The state that the routes share: the current configuration and the connections to the hosts."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from .agents.bundle import bundle_digest
from .base import audit
from .base.errors import Unreached
from .base.threads import run_in_thread
from .config.model import Config, Vm
from .config.warnings import check_change, describe_rejection
from .proxmox.host import HostConnection
from .proxmox.outcome import Message
from .proxmox.places import Places
from .proxmox.request import SentIds, VerbRequest
from .proxmox.run import Run

READ_SECONDS = 10.0  # for reading the configuration and its files

Load = Callable[[], Config]
Follow = Callable[[Config], Coroutine[None, None, None]]
T = TypeVar("T")


class Service:
    """The running handler.

    `load` reads the configuration again; the server sets `hung_up` to request that. When the server stops, it sets
    `stopping`, and some seconds later `answers_due`. At that time, verbs get partial answers. `rejected_since` is the
    Unix time of the first failed reload after the last successful one. The configuration and the connections change
    together in one step of the event loop, so that each request sees both from the same reload.

    This class does not know chat, because no verb needs it. `follow` applies each configuration to chat.
    `stop_following` ends chat's turns, and may be called more than once.
    """

    def __init__(
        self, config: Config, load: Load, follow: Follow, stop_following: Callable[[], Awaitable[None]]
    ) -> None:
        self.config = config
        self.stopping, self.answers_due = asyncio.Event(), asyncio.Event()
        self.hung_up = asyncio.Event()
        self._load, self._follow, self._stop_following = load, follow, stop_following
        self.rejected_since: float | None = None
        self.reloads = 0
        self.hosts: dict[str, HostConnection] = {}
        # connections from before a reload, which are kept until the new connections serve verbs
        self._before: dict[str, HostConnection] = {}
        self.places = Places()
        self._sent = SentIds()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Connect to the hosts. Call it in the event loop."""
        self._use(self.config)
        self._spawn(self._follow(self.config))
        self._spawn(self._read_own_agent())
        self._spawn(self._reload_on_hangup())
        self._spawn(self._stop_following_first())

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read_own_agent(self) -> None:
        """Read this handler's copy of the host agent, to compare the hosts' with it. No verb waits for this."""
        try:
            await run_in_thread(bundle_digest, READ_SECONDS)
        except Exception as error:
            audit.note("own-agent-unreadable", error=repr(error))

    async def _stop_following_first(self) -> None:
        """End the turns when the handler begins to stop, so that their streams have a last line."""
        await self.stopping.wait()
        await self._stop_following()

    async def stop(self) -> None:
        """End the turns and close the connections."""
        await self._stop_following()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(host.close() for host in (*self.hosts.values(), *self._before.values())))

    # --- the configuration ---

    async def _reload_on_hangup(self) -> None:
        while True:
            await self.hung_up.wait()
            self.hung_up.clear()  # a later SIGHUP requests another reload
            try:
                config = await run_in_thread(self._load, READ_SECONDS)
                check_change(self.config, config)
            except Exception as error:  # after any error, the current configuration stays in force
                self.rejected_since = self.rejected_since or time.time()
                audit.note("reload-rejected", problems=describe_rejection(error))
            else:
                self.rejected_since = None
                self._use(config)
                self._spawn(self._follow(config))
                audit.note("reload", **config.summary)
            self.reloads += 1

    def _use(self, config: Config) -> None:
        """Apply a configuration: open, keep and close connections.

        Keeps the connection of a host whose entry is unchanged. The connection is replaced if its key was not accepted
        or does not serve one of the host's VMs, because the authorized_keys line may have changed since the login. The
        old connection carries requests until the new one can.
        """
        self.config = config
        replaced, self.hosts = self.hosts, {}
        for name, host in config.hosts.items():
            last = replaced.get(name)
            vmids = [vm.vmid for vm in config.vms.values() if host in vm.hosts]
            if last is not None and last.host == host and last.serves(vmids):
                self.hosts[name] = replaced.pop(name)
            else:
                self.hosts[name] = HostConnection(host, on_answer=partial(self._swap, name))
                self.hosts[name].start(len(config.hosts))
        for connection in (*self.hosts.values(), *self._before.values(), *replaced.values()):
            here = (vm for vm in config.vms.values() if vm.may_run_at(connection.host))
            # of two entries for one number, the one with Proxmox's name counts
            connection.vms = {vm.vmid: vm for vm in sorted(here, key=lambda vm: vm.proxmox_name)}
        for name, last in replaced.items():
            self._retire(name, last)

    def _retire(self, name: str, last: HostConnection) -> None:
        """Let a replaced connection carry requests as long as the new one can't.

        The old one is not used if the address differs, because the old address may be another machine.
        """
        carrier, new = self._before.pop(name, last), self.hosts.get(name)
        if carrier is not last:
            self._spawn(last.finish())
        if new is None or str(new.host.ssh) != str(last.host.ssh):
            self._spawn(carrier.finish())
        else:
            carrier.stop_keeping()
            carrier.may_log_in = carrier.host == new.host  # never log in with settings that are no longer in force
            self._before[name] = carrier

    def _swap(self, name: str) -> None:
        """Close the old connection after its requests, if the new one works or the old one does not."""
        new, before = self.hosts.get(name), self._before.get(name)
        if new and before and (new.serves_verbs(new.host) or not before.serves_verbs(new.host)):
            self._spawn(self._before.pop(name).finish())

    # --- the hosts ---

    def run(self, request: VerbRequest, began: float) -> Run:
        """Start a verb. The connections stay until the verb ends, even after a reload."""
        hosts = self._hosts_of(request.vm)
        run = Run(partial(self.places.find, request.vm, hosts), request, self._sent, began)
        for host in hosts:
            host.track(run.task)
        return run

    def _hosts_of(self, vm: Vm) -> list[HostConnection]:
        """Return the connections to a VM's hosts that carry requests now. A reload may replace them."""
        for host in vm.hosts:
            self._swap(host.name)
        return [self._before.get(host.name) or self.hosts[host.name] for host in vm.hosts]

    def run_on_host(self, vm: Vm, work: Callable[[HostConnection], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """Start work other than a verb on the host that has a VM now. The connections stay until it ends.

        Raises Unreached if a reload removed the VM or changed its number.
        """
        now = self.config.vms.get(vm.name)
        if now is None or now.vmid != vm.vmid:
            hint = "see /health for the configured VMs"
            raise Unreached("not-configured", f"{vm.name} is no longer configured as VM {vm.vmid}", hint)
        hosts = self._hosts_of(now)

        async def find_and_work() -> T:
            return await work((await self.places.find(now, hosts)).host)

        task = asyncio.create_task(find_and_work())
        for host in hosts:
            host.track(task)
        return task

    async def read(self, vm: Vm, line: str) -> list[Message]:
        """Return the messages of a request that changes nothing; raises Unreached or Lost."""
        return await self.run_on_host(vm, lambda host: host.read(line))
