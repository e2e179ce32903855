"""The verb `screen`: the console's picture without a capture, at most once a second for all requests together.

A separate process, the painter, has QEMU draw the picture. For one more second it gives the picture to each asker on
this host, on any connection. Painter and askers meet at a socket in the abstract namespace: only one process can have
its name, it needs no directory, and it vanishes with its process. Every user of the host can know the name, so each end
checks that the other end belongs to the same user.
"""

import base64
import json
import os
import socket
import struct
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace

from ..host.paths import Host
from ..host.process import spawn_detached
from ..host.qmp import QmpError, QmpSilent
from ..host.vmstate import describe_sources, observe, vm_state
from ..jobs.result import Result, Verdict
from ..jobs.store import JobStore
from ..words import DEADLINE, DONE
from .guest_agent import guest_agent_state
from .picture import draw_picture
from .text_screen import read_text_screen

APART_SECONDS = 1.0  # between two pictures
DRAW_SECONDS = 2.0
TEXT_SECONDS = 0.2  # the least time for reading the text
LIVE_BYTES = 256 * 1024  # of a PNG, which takes 6 s on a line of 400 kbit/s; 64 of them fit into a session's buffer
GUEST_SECONDS = 0.5  # for asking the guest agent, after a check of at most 1 s whether the guest has one
ASK_SECONDS = 9.0  # for a whole answer, of which QEMU's state takes at most 5 s
PAUSES = (0.005, 0.25)  # the first and the longest pause before the painter is looked for again

_ASKERS = 64  # the most askers that wait for the painter at once; others try again
_UCRED = struct.Struct("iII")  # unix(7): pid, uid, gid


@dataclass(frozen=True)
class Look:
    """What the painter saw.

    Attributes:
        state: see vmstate.vm_state.
        about: a line about the picture, or why there is none.
        png: the picture in base64, None without one.
        at: when, by the host's clock.
        guest: see guest_agent_state.
        text: the lines of a console in text mode.
    """

    state: str
    about: str
    png: str | None
    at: str
    guest: str
    text: list[str] = field(default_factory=list)


def answer_screen(host: Host) -> tuple[str, Result]:
    """Return a picture that was drawn at most a second before the request, or why there is none."""
    try:
        look = _ask_painter(host, time.monotonic() + ASK_SECONDS)
    except OSError as error:  # no process or no memory is left, or another user has taken the socket's name
        look = _make_look("unknown", str(error))
    if look is None:
        late = Verdict("deadline", f"the host drew no picture in {ASK_SECONDS:g} s", "status")
        return late.sentence, Result(DEADLINE, stage="screen", verdict=late)
    verdict = _explain_no_picture(look) if look.png is None else None
    text = verdict.sentence if verdict else look.about
    extra: dict[str, object] = {
        "screen_png": look.png,
        "started": look.at,
        "guest": look.guest or None,
        "screen_text": look.text or [],
    }
    screen, last = look.png is not None, JobStore(host).last
    return f"{look.state}: {text}", Result(DONE, look.state, last, "screen", verdict, screen=screen, extra=extra)


def _explain_no_picture(look: Look) -> Verdict:
    if look.state == "stopped":
        sentence = "no QEMU of this VM runs on this host, so there is no picture"
    elif look.state == "wedged":
        sentence = "QEMU's monitor is silent, so there is no picture: collect evidence"
    else:
        sentence = "there is no picture of the console now"
    return Verdict("no-picture", sentence, "forensics" if look.state == "wedged" else "", (look.about,))


# --- the askers --------------------------------------------------------------------------------------------------


def _ask_painter(host: Host, until: float) -> Look | None:
    """Return what the painter saw, None if it does not answer in time. Start a painter if there is none."""
    pause, longest = PAUSES
    while (left := until - time.monotonic()) > 0:
        _start_painter(host)
        with suppress(ConnectionError, BlockingIOError), _new_socket() as client:
            client.settimeout(left)
            client.connect(_painter_name(host))
            _check_user(client)
            try:
                _, fds, _, _ = socket.recv_fds(client, 1, 1)
            except TimeoutError:
                return None
            if fds:
                return _receive_look(fds[0])
        time.sleep(pause)  # the painter has just ended, or does not listen yet, or too many ask it
        pause = min(2 * pause, longest)
    return None


def _receive_look(fd: int) -> Look:
    """Return what is in the painter's memory; a painter of another version may know fewer fields, or more."""
    try:
        fields = json.loads(os.pread(fd, os.fstat(fd).st_size, 0))
        return Look(**{name: fields.get(name) for name in Look.__dataclass_fields__})
    finally:
        os.close(fd)


def _start_painter(host: Host) -> None:
    """Start a painter unless there is one. From here on it owns the name."""
    with _new_socket() as listener:
        try:
            listener.bind(_painter_name(host))
        except OSError:
            return
        listener.listen(_ASKERS)
        spawn_detached(host.log, "paint", lambda: _paint(host, listener), listener.fileno())


def _new_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _painter_name(host: Host) -> str:
    """Return the painter's socket name, which is short enough because it is as long as the monitor's path."""
    return f"\0{host.qmp}"


def _check_user(peer: socket.socket) -> None:
    """Raise PermissionError where the other end belongs to another user."""
    _, uid, _ = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if uid != os.geteuid():
        raise PermissionError(f"a process of the user {uid} has the socket of the picture")


# --- the painter -------------------------------------------------------------------------------------------------


def _paint(host: Host, listener: socket.socket) -> None:
    """Draw the picture once, and hand it to each asker until a second after that."""
    try:
        look = _look_at_screen(host)
    except Exception as error:  # the painter continues, because without a painter each asker would start one at once
        look = _make_look("unknown", f"{type(error).__name__}: {error}")
    picture = os.memfd_create("breakglass-screen", os.MFD_CLOEXEC)
    with os.fdopen(picture, "wb") as file:
        file.write(json.dumps(asdict(look)).encode())
        file.flush()
        ends = time.monotonic() + APART_SECONDS
        while True:
            listener.settimeout(max(0.0, ends - time.monotonic()))
            try:
                client, _ = listener.accept()
            except OSError:  # the time is over, and every asker has the picture
                return
            with client, suppress(OSError):
                _check_user(client)
                socket.send_fds(client, [b"\n"], [picture])


def _look_at_screen(host: Host) -> Look:
    """Return the VM's state and, where QEMU answers, its picture and what the guest agent says."""
    facts = observe(host)
    state = vm_state(facts)
    if state in ("stopped", "wedged", "unknown"):
        return _make_look(state, describe_sources(facts))
    try:
        until = time.monotonic() + DRAW_SECONDS
        png, about = draw_picture(host, until, LIVE_BYTES)
        look = _make_look(state, about, base64.b64encode(png).decode())
        look = replace(look, text=read_text_screen(host, about, max(TEXT_SECONDS, until - time.monotonic())))
    except (QmpSilent, QmpError, OSError, ValueError) as error:
        look = _make_look(state, str(error))
    return replace(look, guest=guest_agent_state(host, GUEST_SECONDS)) if state == "running" else look


def _make_look(state: str, about: str, png: str | None = None) -> Look:
    return Look(state, about, png, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "")
