"""Waits for the guest's return after a verb, which is its first heartbeat after the verb's end."""

import time
from collections.abc import Callable
from datetime import datetime

from ..client import Event, HandlerError, NoAnswer, Signer, VerbCall, new_id
from ..client import call as send

BRINGS_UP = ("start", "reset", "cycle")
RETURN_SECONDS = 90.0  # the same as on the page
_EVERY_SECONDS = 2.0  # the interval at which QEMU asks the guest
_MOST_UNKNOWN = 3  # consecutive answers without a heartbeat, because one answer of a busy host may come too late
_LOOK = ", so look at the console"


def await_guest(
    signer: Signer, vm: str, done: Event, begin: Callable[[], None] = lambda: None, seconds: float = RETURN_SECONDS
) -> str:
    """Return one sentence that says when the guest's kernel answered, or why that is not known.

    `done` is the verb's answer; `begin` is called if this function must wait for the guest. It waits for at most
    `seconds`.
    """
    until, is_first, unknown = time.monotonic() + seconds, True, 0
    while True:
        is_over = time.monotonic() >= until
        try:
            status = send(signer, new_id(), VerbCall("status", vm), lambda _: None)
        except (HandlerError, NoAnswer) as error:
            return f"whether the guest is back is not known, because a status got no answer: {error}"
        unknown = unknown + 1 if status.get("outcome") == "done" and status.get("heartbeat") is None else 0
        if told := tell_return(done, status, is_first, is_over or unknown == _MOST_UNKNOWN):
            return told
        if is_first:
            begin()
        is_first = False
        time.sleep(_EVERY_SECONDS)


def tell_return(done: Event, status: Event, is_first: bool, is_over: bool) -> str:
    """Return what a status says about the guest's return, or an empty text if it must be asked again. Pure.

    At the first look, the guest may have answered earlier, so the seconds are then an upper limit.
    """
    if status.get("outcome") != "done":
        return f"whether the guest is back is not known, because status is {status['outcome']}" if is_over else ""
    if status.get("state") != "running":
        return f"the VM is {status['state']} now"
    beat = status.get("heartbeat")
    if not isinstance(beat, dict):
        return f"the guest's heartbeat is not known{_LOOK}" if is_over else ""
    seconds = _seconds_between(done.get("started"), beat.get("at"))
    if seconds >= 0 and beat.get("state") == "fresh":  # an older beat may be from before the guest hung
        return f"the guest's kernel answers, {'at most ' if is_first else ''}{seconds:.0f} s after the {done['verb']}"
    return f"{beat.get('says')}{_LOOK}" if is_over or beat.get("state") == "none" else ""


def _seconds_between(first: object, second: object) -> float:
    """Return the seconds between two times of the host, less than 0 if one is missing."""
    try:
        return (datetime.fromisoformat(str(second)) - datetime.fromisoformat(str(first))).total_seconds()
    except (ValueError, TypeError):
        return -1.0
