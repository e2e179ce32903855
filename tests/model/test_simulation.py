"""The handler's own code in a simulated world keeps the promises, and a mistake in that code is found."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from unittest.mock import patch

import pytest

from breakglass.base.errors import Unreached
from breakglass.config.model import Vm
from breakglass.proxmox import places
from breakglass.proxmox.host import HostConnection
from breakglass.proxmox.outcome import Message
from breakglass.proxmox.places import Destination, Places

from .simulation import history

SEEDS = 150  # the last mistake is found by seed 67


def test_histories_keep_the_promises() -> None:
    """One seed is one history, the same each time. `python -m tests.model.simulation 0 10000` runs more of them."""
    assert {seed: broken for seed in range(60) if (broken := history(seed)[0])} == {}
    first, second = ([history(seed)[1].said for seed in range(9)] for _ in "12")
    assert first == second


def knows_no_id(host: HostConnection, result: Message) -> places._Place:
    return replace(read_place(host, result), has_id=False)


async def asks_as_for_a_new_id(
    self: Places, vm: Vm, hosts: Sequence[HostConnection], msg_id: str, changes: bool, repeated: bool
) -> Destination:
    return await find(self, vm, hosts, msg_id, changes, repeated=False)


async def forgets_what_it_sent(self: HostConnection, first_loss: float, reason: str, is_final: bool = False) -> None:
    raise Unreached("timeout", reason, "")


read_place, find = places._read_place, Places.find


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mistake", "promise"),
    [
        ("places._read_place", knows_no_id, "A has acted 2 times"),
        ("places.Places.find", asks_as_for_a_new_id, "A has acted 2 times"),
        ("host.HostConnection._pause_or_give_up", forgets_what_it_sent, "B is unreached, and a line was sent"),
        ("request.SentIds.take_back", lambda self, msg_id: True, "A is unreached, and a line was sent"),
    ],
)
def test_a_mistake_of_the_handler_is_found(name: str, mistake: Callable[..., object], promise: str) -> None:
    with patch(f"breakglass.proxmox.{name}", mistake):
        assert any(promise in history(seed)[0] for seed in range(SEEDS))
