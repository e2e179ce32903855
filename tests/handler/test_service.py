"""The running handler, where a reload comes between two steps of one request."""

import pytest

from breakglass.config.model import Address, Config, Vm
from breakglass.proxmox.outcome import Unreached
from breakglass.service import Service


async def test_a_vm_that_a_reload_took_away_is_not_reached() -> None:
    """Who still asks for it is told that nothing was sent; it is no defect of ours."""
    vm = Vm("devvm", 102, Address("breakglass", "192.0.2.10"), "key")
    config = Config((), {}, ())
    service = Service(config, lambda: config)
    service.ready.set()
    with pytest.raises(Unreached) as gone:
        await service.read(vm, "status vm=102")
    assert (gone.value.code, "nothing was sent" in gone.value.message) == ("not-configured", True)
