"""Which request may share the answer of an earlier one."""

import asyncio
from dataclasses import replace

import pytest

from breakglass.auth.signing import Caller
from breakglass.base.errors import Unreached
from breakglass.config.model import Address, Host, Vm
from breakglass.proxmox.request import VerbRequest
from breakglass.web.reads import MOST_READS, ReadsUnderWay


class UnderWay:
    """A run that has not ended."""

    def __init__(self) -> None:
        self.task, self.answer = asyncio.get_running_loop().create_future(), None


def test_a_doctors_status_shares_no_plain_one() -> None:
    """The host would not record that it is proven."""
    vm = Vm("devvm", 102, (Host("pve1", Address("breakglass", "127.0.0.1"), ""),))
    plain = VerbRequest("status", vm, "msg_12345678", Caller("doctor", (), frozenset({"status"})), 0.0)

    async def many() -> None:
        reads = ReadsUnderWay()
        for _ in range(MOST_READS):
            reads.add(plain, UnderWay())  # type: ignore[arg-type]
        assert reads.attach(plain, 0.0) is not None
        with pytest.raises(Unreached):
            reads.attach(replace(plain, proves="doctor"), 0.0)

    asyncio.run(many())
