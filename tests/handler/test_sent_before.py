"""An id that this handler has sent before is never answered with `nothing was sent`."""

from breakglass.proxmox.request import SentIds


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
