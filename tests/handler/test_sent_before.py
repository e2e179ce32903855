"""An id that this handler has sent before is never answered with `nothing was sent`."""

import pytest

from breakglass.client import new_id
from breakglass.proxmox.run import SentIds

from ..support.service import Service
from ..support.sshd import Sshd


@pytest.mark.real("sshd", "qemu")
def test_an_id_that_was_sent_before_is_unknown_when_the_host_is_gone(service: Service, sshd: Sshd) -> None:
    """A repeated id whose first attempt reached the host is answered with "may have run" when the host is gone.

    A browser can repeat a request by itself. A new id is answered with "nothing was sent", each time.
    """
    acted, new = new_id(), new_id()
    assert service.pve("reset", msg_id=acted).json["outcome"] == "done"
    sshd.stop()
    service.not_answering()
    again = service.pve("reset", msg_id=acted)
    assert (again.status, again.json["outcome"], again.json["reached"]) == (503, "unknown", None)
    assert again.json["verdict"]["sentence"].endswith('"reset" was sent before and may have run')
    assert "nothing was sent" not in again.json["verdict"]["sentence"]
    for _ in range(2):
        reply = service.pve("reset", msg_id=new)
        assert (reply.status, reply.json["outcome"], reply.json["reached"]) == (503, "unreached", False)
    assert service.pve("status", msg_id=acted).json["outcome"] == "unreached"


def test_a_flood_of_ids_is_bounded() -> None:
    """The newest are kept; one that was not sent after all is taken back, and one of two that were leaves the other."""
    sent = SentIds(limit=2)
    for each in ("a", "b", "b", "c"):  # "a" is forgotten, so it may have been sent
        sent.add(each)
    assert [sent.take_back(each) for each in ("a", "b", "b", "c")] == [False, False, True, True]


def test_an_attempt_makes_its_id_the_newest() -> None:
    """An id that is sent again is remembered as a new one, and one that was forgotten counts as sent before."""
    sent = SentIds(limit=2)
    for msg_id in ("first", "second", "first", "third"):
        sent.add(msg_id)
    assert not sent.take_back("first")  # its other attempt is known
    assert not sent.take_back("second")  # forgotten, so it may have other attempts
    assert sent.take_back("third")
