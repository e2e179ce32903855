"""A status after a verb says when the guest's kernel answered first, or why that is not known."""

from breakglass.cli.guest_return import tell_return
from breakglass.client import Event

from ..support.rows import each_row

DONE: Event = {"verb": "start", "started": "2026-11-27T03:00:05Z", "outcome": "done"}
WAIT = ""
NOT_KNOWN = "the guest's heartbeat is not known, so look at the console"
NO_DEVICE: Event = {"state": "none", "at": None, "says": "no heartbeat is available: the VM has no balloon device"}
NO_DRIVER: Event = {
    "state": "unloaded",
    "at": None,
    "says": "no heartbeat is available: its system has not loaded the driver",
}
AWAITED: Event = {
    "state": "awaited",
    "at": None,
    "says": "the guest's kernel has not answered yet since the last reset",
}
OLD: Event = {"state": "lost", "at": "2026-11-27T03:00:04Z", "says": "the guest's kernel has not answered for 90 s"}
HUNG: Event = {"state": "late", "at": "2026-11-27T03:00:46Z", "says": "the guest's kernel has not answered for 3000 s"}
FRESH: Event = {"state": "fresh", "at": "2026-11-27T03:00:46Z", "says": "the guest's kernel answered 2 s ago"}

# For each kind of status: the messages at once, later, and at the end.
ROWS: dict[str, tuple[Event, tuple[str, ...]]] = {
    "answers": (
        {"heartbeat": FRESH},
        (
            "the guest's kernel answers, at most 41 s after the start",
            *["the guest's kernel answers, 41 s after the start"] * 2,
        ),
    ),
    "no balloon device": ({"heartbeat": NO_DEVICE}, (f"{NO_DEVICE['says']}, so look at the console",) * 3),
    "no driver yet": ({"heartbeat": NO_DRIVER}, (WAIT, WAIT, f"{NO_DRIVER['says']}, so look at the console")),
    "not yet": ({"heartbeat": AWAITED}, (WAIT, WAIT, f"{AWAITED['says']}, so look at the console")),
    "an answer from before": ({"heartbeat": OLD}, (WAIT, WAIT, f"{OLD['says']}, so look at the console")),
    "an answer long ago": ({"heartbeat": HUNG}, (WAIT, WAIT, f"{HUNG['says']}, so look at the console")),
    "nothing known": ({"heartbeat": None}, (WAIT, WAIT, NOT_KNOWN)),
    "an older host agent": ({}, (WAIT, WAIT, NOT_KNOWN)),
    "a time that is none": ({"heartbeat": {"at": 7, "says": "?"}}, (WAIT, WAIT, "?, so look at the console")),
    "off again": ({"state": "stopped", "heartbeat": None}, ("the VM is stopped now",) * 3),
    "out of reach": (
        {"outcome": "unreached", "state": "unknown"},
        (WAIT, WAIT, "whether the guest is back is not known, because status is unreached"),
    ),
}


@each_row("name", ROWS)
def test_a_status_after_a_verb_tells_of_the_guest(name: str) -> None:
    said, expected = ROWS[name]
    status: Event = {"outcome": "done", "state": "running", **said}
    when = ((True, False), (False, False), (False, True))
    assert tuple(tell_return(DONE, status, is_first, is_over) for is_first, is_over in when) == expected
