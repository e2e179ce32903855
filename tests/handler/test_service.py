"""The running handler: its start without a library, its sockets, and a reload between two steps of one request."""

import asyncio
import socket
from pathlib import Path

import pytest

from breakglass.base.errors import Unreached
from breakglass.cli.starting import listen
from breakglass.config.model import Address, Config, Host, Vm
from breakglass.proxmox.host import HostConnection
from breakglass.service import Load, Service

from ..support.ports import reserve_port

ROOT = Path(__file__).parent.parent.parent


async def no_chat(*_: object) -> None:
    """Apply a configuration, or stop applying it, without chat."""


def make_service(config: Config, load: Load) -> Service:
    return Service(config, load, no_chat, no_chat)


async def test_a_vm_that_a_reload_removed_is_unreached() -> None:
    """A request for it is answered with "nothing was sent", and is not logged as a defect."""
    vm = Vm("devvm", 102, (Host("pve1", Address("breakglass", "192.0.2.10"), "key"),))
    config = Config((), {}, {}, ())
    service = make_service(config, lambda: config)
    with pytest.raises(Unreached) as gone:
        await service.read(vm, "status vm=102")
    assert (gone.value.cause, "nothing was sent" in gone.value.message) == ("not-configured", True)


async def test_work_with_a_vm_that_a_reload_moved_asks_its_new_host() -> None:
    """Work for the old entry asks the VM's new host. If the number differs, it is another VM."""
    hosts = {name: Host(name, Address("breakglass", "127.0.0.1", reserve_port()), "key") for name in ("pve1", "pve2")}
    old, kept = (Vm(name, vmid, (hosts["pve1"],)) for name, vmid in (("devvm", 102), ("other", 103)))
    service = make_service(Config((), hosts, {"devvm": old, "other": kept}, ()), lambda: configs.pop())

    def moved(vmid: int) -> Config:
        return Config((), hosts, {"devvm": Vm("devvm", vmid, (hosts["pve2"],)), "other": kept}, ())

    async def name_of(host: HostConnection) -> str:
        return host.host.name

    service.start()
    try:
        for vmid in (102, 104):
            configs = [moved(vmid)]
            service.hung_up.set()
            async with asyncio.timeout(60):
                while service.config.vms["devvm"].vmid != vmid or service.config.vms["devvm"].host.name != "pve2":  # noqa: ASYNC110
                    await asyncio.sleep(0)
            if vmid == 102:
                assert await service.run_on_host(old, name_of) == "pve2"
        with pytest.raises(Unreached, match="devvm is no longer configured as VM 102"):
            service.run_on_host(old, name_of)
    finally:
        await service.stop()


async def test_answers_are_sent_without_delay() -> None:
    """An accepted connection has TCP_NODELAY. Without it, a client on a kept-alive connection waits 40 ms."""
    [listening] = listen("127.0.0.1", 0)
    no_delay = asyncio.Future[int]()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        no_delay.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async with await asyncio.start_server(accept, sock=listening):
        _, client = await asyncio.open_connection(*listening.getsockname())
        assert await no_delay == 1
        client.close()
        await client.wait_closed()
