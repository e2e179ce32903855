"""A status after a verb says when the guest's kernel answered first, or why that is not known."""

from breakglass.cli.guest_return import tell_return
from breakglass.client import Event

from ..support.rows import each_row

DONE: Event = {"verb": "start", "started": "2026-11-27T03:00:05Z", "outcome": "done"}
WAIT, LOOK = "", ", so look at the console"
OLD, FRESH = ({"at": at, "says": "words"} for at in ("2026-11-27T03:00:04Z", "2026-11-27T03:00:46Z"))
LATER = "the guest's kernel answers, 41 s after the start"

# For each kind of status: the messages at once, later, and at the end.
ROWS: dict[str, tuple[Event, tuple[str, ...]]] = {
    "answers": (
        {"heartbeat": FRESH | {"state": "fresh", "says": "the guest's kernel answered 2 s ago"}},
        ("the guest's kernel answers, at most 41 s after the start", LATER, LATER),
    ),
    "no balloon device": ({"heartbeat": {"state": "none", "at": None, "says": "words"}}, (f"words{LOOK}",) * 3),
    "a fresh answer from before": ({"heartbeat": OLD | {"state": "fresh"}}, (WAIT, WAIT, f"words{LOOK}")),
    "an answer from before": ({"heartbeat": OLD | {"state": "lost"}}, (WAIT, WAIT, f"words{LOOK}")),
    "nothing known": ({"heartbeat": None}, (WAIT, WAIT, f"the guest's heartbeat is not known{LOOK}")),
    "off again": ({"state": "stopped", "heartbeat": None}, ("the VM is stopped now",) * 3),
}


@each_row("name", ROWS)
def test_a_status_after_a_verb_tells_of_the_guest(name: str) -> None:
    said, expected = ROWS[name]
    status: Event = {"outcome": "done", "state": "running", **said}
    when = ((True, False), (False, False), (False, True))
    assert tuple(tell_return(DONE, status, is_first, is_over) for is_first, is_over in when) == expected
