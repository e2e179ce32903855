"""How long the host may take: a fixed time until its first message, then the time that it asks for, and some grace."""

from breakglass.base.budget import FIRST_SECONDS, GRACE_SECONDS, MOST_DEADLINE_SECONDS
from breakglass.proxmox.patience import Patience, backoff_seconds, first_pause, refusal_seconds

from ..support.rows import each_row

OUTPUT = {"type": "output", "stream": "stdout", "text": "x\n"}


def stage(deadline: float) -> dict[str, object]:
    return {"type": "stage", "stage": "stop", "deadline": deadline, "started": "2026-11-24T03:12:44Z"}


@each_row(
    ("messages", "until"),
    [
        ((), 100.0 + FIRST_SECONDS),
        (((stage(420), 103.0), (OUTPUT, 110.0), (stage(420), 200.0)), 103.0 + 420 + GRACE_SECONDS),
        (((stage(60), 100.0), (stage(1200), 130.0)), 100.0 + 1200 + GRACE_SECONDS),
        (((stage(86_400), 100.0),), 100.0 + MOST_DEADLINE_SECONDS + GRACE_SECONDS),
        (((OUTPUT, 110.0),), 110.0 + FIRST_SECONDS),
    ],
)
def test_the_host_tells_how_long_it_takes(messages: tuple[tuple[dict[str, object], float], ...], until: float) -> None:
    """Its first stage has the deadline, and a later one may have a later one, but none beyond the longest job.

    The first line of a read has no deadline, so the rest must come within the same time as the first line.
    """
    patience = Patience(100.0)
    for message, at in messages:
        patience.update(message, at)
    assert patience.until == until


def test_handlers_that_lost_a_host_together_do_not_come_back_together() -> None:
    """The pause grows to half a minute, and is shortened by a random part of up to half."""
    assert [backoff_seconds(failures, 1.0) for failures in (1, 2, 3, 4, 5, 6, 60)] == [1, 2, 4, 8, 15, 30, 30]
    assert [backoff_seconds(failures, 0.0) for failures in (1, 6)] == [0.5, 15]


def test_a_key_that_is_not_accepted_is_tried_rarely() -> None:
    """It is tried again after a minute or more, and at most four times in ten minutes: fail2ban bans at five."""
    logins = [0.0]
    for refusals in range(1, 50):
        logins.append(logins[-1] + refusal_seconds(refusals, 0.0))
    assert max(sum(begin <= login < begin + 600 for login in logins) for begin in logins) == 4
    assert [refusal_seconds(refusals, 1.0) for refusals in (1, 2, 3, 4, 1000)] == [90, 180, 360, 450, 450]


def test_only_many_hosts_are_connected_one_after_the_other() -> None:
    """A handler with few hosts connects at once; one with many spreads its logins over a second at most."""
    assert [first_pause(hosts, 1.0) for hosts in (1, 10, 11, 1000)] == [0, 0, 1, 1]
    assert first_pause(50, 0.25) == 0.25
