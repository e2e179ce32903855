"""An id that this handler has sent before is never answered with `nothing was sent`."""

from breakglass.proxmox.request import SentIds


def test_a_flood_of_ids_is_bounded() -> None:
    """Only the newest ids are kept. If one of two attempts was not sent, the other one still counts."""
    sent = SentIds(limit=2)
    for each in ("a", "b", "b", "c"):  # "a" is forgotten, so it counts as sent
        sent.add(each)
    assert [sent.take_back(each) for each in ("a", "b", "b", "c")] == [False, False, True, True]


def test_an_attempt_makes_its_id_the_newest() -> None:
    """An id that is sent again is remembered as the newest. A forgotten id counts as sent before."""
    sent = SentIds(limit=2)
    for msg_id in ("first", "second", "first", "third"):
        sent.add(msg_id)
    assert not sent.take_back("first")  # its other attempt is known
    assert not sent.take_back("second")  # forgotten, so there may be other attempts
    assert sent.take_back("third")
