"""An id that this handler has sent before is never answered with `nothing was sent`."""

from breakglass.proxmox.request import SentIds


def test_a_flood_of_ids_is_bounded() -> None:
    """Only the newest ids are kept, and an id that is sent again is the newest. A forgotten id counts as sent.

    If one of two attempts was not sent, the other one still counts.
    """
    sent = SentIds(limit=2)
    for each in ("first", "second", "first", "third"):
        sent.add(each)
    assert [sent.take_back(each) for each in ("first", "second", "third")] == [False, False, True]
    assert sent.take_back("first")
