"""Sealed signing keys that wait for devices, and the settings that `keys --pair` needs."""

import base64
import json
import os
import re
import secrets
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..base.findings import ConfigError
from ..base.new_files import write_new
from .load import parse_toml
from .model import is_caller_name
from .server import read_server
from .sources import read_file

# --- Hand a sealed signing key to a device, once, through `sessions.dir/pairing/`. All functions block ---
#
# The file `ID` is a waiting key, `ID.fetched` a key that was handed out, and `ID.twice` a key that was requested again.
# A rename decides which request gets the key, so only one of two requests gets the key, even if two handlers share the
# directory. The handler can't decrypt the key that it hands out, because the one-time key is only in the link.

SECONDS = 600.0  # a key waits
DIRECTORY = "pairing"
PAIRED, PAIRED_TWICE, PAIR_UNKNOWN = "paired", "paired-twice", "pair-unknown"  # outcomes in the log
WAITING, FETCHED, TWICE, GONE = "waiting", "fetched", "twice", "gone"  # states of a key, for the command
GRACE_SECONDS = 60.0  # after `until`, the command can still see the state of its key for this long
ABANDONED_SECONDS = 3600.0  # a file without a time is removed when it is this old

_ID = re.compile(r"[A-Za-z0-9_-]{16}", re.ASCII)
_OURS = re.compile(r"(\.new-)?[A-Za-z0-9_-]{16}(\.fetched|\.twice)?", re.ASCII)
_SEALED = re.compile(r"[A-Za-z0-9_-]{60,400}", re.ASCII)
_MOST_BYTES = 2048  # of a file
# these flags follow no link, and do not wait for the writer of a pipe
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class Fetched:
    """The result of a request: the sealed key of a caller if `paired`, otherwise why not."""

    outcome: str
    caller: str = ""
    sealed: str = ""
    why: str = ""


# --- making ---


def new_pairing() -> tuple[str, bytes]:
    """Return a new id and a new one-time key."""
    return secrets.token_urlsafe(12), secrets.token_bytes(16)


def seal(one_time_key: bytes, pairing_id: str, caller: str, signing_key: str) -> str:
    """Return a signing key's text, encrypted for this id and this caller."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # imported here, because a handler never seals a key

    nonce, bound_to = secrets.token_bytes(12), f"breakglass-pair-v1:{pairing_id}:{caller}".encode()
    return as_base64url(nonce + AESGCM(one_time_key).encrypt(nonce, signing_key.encode(), bound_to))


def pairing_link(url: str, pairing_id: str, one_time_key: bytes, caller: str) -> str:
    """Return the link to the page with the one-time key. `url` ends with a slash."""
    return f"{url}#pair={pairing_id}.{as_base64url(one_time_key)}&as={caller}"


def as_base64url(data: bytes) -> str:
    """Return bytes in base64url without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


# --- the side of the command, which runs as the handler's user ---


def leave(directory: str, pairing_id: str, caller: str, sealed: str, until: float) -> None:
    """Store a sealed key in sessions.dir, atomically, until a Unix time. Raises OSError."""
    os.makedirs(directory, 0o700, exist_ok=True)
    place = f"{directory}/{DIRECTORY}"
    try:
        os.mkdir(place, 0o700)
    except FileExistsError:
        pass
    tidy(directory, time.time())
    new = f"{place}/.new-{pairing_id}"
    fields = {"v": 1, "caller": caller, "until": until, "sealed": sealed}
    try:
        write_new(Path(new), json.dumps(fields), -1, -1, 0o600)
        os.rename(new, f"{place}/{pairing_id}")
    except BaseException:
        Path(new).unlink(missing_ok=True)
        raise


def find_state(directory: str, pairing_id: str) -> str:
    """Return the state of a key: `waiting`, `fetched`, `twice` or `gone`. Raises OSError."""
    found = (state for name, state in _names(directory, pairing_id) if os.path.lexists(name))
    return next(found, GONE)


def withdraw(directory: str, pairing_id: str) -> str:
    """Remove a key in any state, and return that state. No handler hands it out after that."""
    for name, state in _names(directory, pairing_id):
        try:
            os.unlink(name)
        except FileNotFoundError:  # a request may have just renamed the file, so look at the next name
            continue
        return state
    return GONE


def _names(directory: str, pairing_id: str) -> tuple[tuple[str, str], ...]:
    """Return the possible files of a key with their states, in the order of the states."""
    path = f"{directory}/{DIRECTORY}/{pairing_id}"
    return (path, WAITING), (f"{path}.{FETCHED}", FETCHED), (f"{path}.{TWICE}", TWICE)


# --- the handler's side ---


def is_pairing_id(text: str) -> bool:
    """Return whether a text has the form of a key's id, which becomes a file name."""
    return _ID.fullmatch(text) is not None


def fetch_once(directory: str, pairing_id: str, deadline: float) -> Fetched:
    """Hand out a key. After `deadline` (time.monotonic()), the request is over and no key is used up."""
    try:
        place = os.open(f"{directory}/{DIRECTORY}", _OPEN | os.O_DIRECTORY)
        try:
            return _fetch(place, pairing_id, deadline)
        finally:
            os.close(place)
    except OSError as error:
        return Fetched(PAIR_UNKNOWN, why=os.strerror(error.errno or 0))


def _fetch(place: int, pairing_id: str, deadline: float) -> Fetched:
    try:
        found = _read(place, pairing_id)
    except FileNotFoundError:
        return _note_second_request(place, pairing_id)
    if found is None:
        return Fetched(PAIR_UNKNOWN, why="damaged")
    caller, until, sealed = found
    if time.time() >= until:
        return Fetched(PAIR_UNKNOWN, caller, why="expired")
    if time.monotonic() >= deadline:
        return Fetched(PAIR_UNKNOWN, caller, why="too late")
    try:
        os.rename(pairing_id, f"{pairing_id}.{FETCHED}", src_dir_fd=place, dst_dir_fd=place)
    except FileNotFoundError:  # another request, another handler or the command took the file first
        return _note_second_request(place, pairing_id)
    return Fetched(PAIRED, caller, sealed)


def _note_second_request(place: int, pairing_id: str) -> Fetched:
    try:
        os.rename(f"{pairing_id}.{FETCHED}", f"{pairing_id}.{TWICE}", src_dir_fd=place, dst_dir_fd=place)
    except FileNotFoundError:
        return Fetched(PAIR_UNKNOWN, why="unknown")
    found = _read(place, f"{pairing_id}.{TWICE}")
    return Fetched(PAIRED_TWICE, "" if found is None else found[0])


def _read(place: int, name: str) -> tuple[str, float, str] | None:
    """Return the caller, the end and the sealed key in a file; None if it is damaged. Raises OSError."""
    fd = os.open(name, _OPEN, dir_fd=place)
    try:
        status = os.fstat(fd)
        data = os.read(fd, _MOST_BYTES) if stat.S_ISREG(status.st_mode) and status.st_size <= _MOST_BYTES else b""
    finally:
        os.close(fd)
    try:
        fields = json.loads(data)
        caller, until, sealed = fields["caller"], float(fields["until"]), fields["sealed"]
        is_good = fields["v"] == 1 and is_caller_name(caller) and _SEALED.fullmatch(sealed)
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None
    return (caller, until, sealed) if is_good else None


def tidy(directory: str, now: float) -> None:
    """Remove expired keys and incomplete files. `now` is a Unix time."""
    try:
        place = os.open(f"{directory}/{DIRECTORY}", _OPEN | os.O_DIRECTORY)
    except OSError:
        return
    try:
        for name in os.listdir(place):
            if _OURS.fullmatch(name):
                _remove_old(place, name, now)
    finally:
        os.close(place)


def _remove_old(place: int, name: str, now: float) -> None:
    try:
        found = _read(place, name)
    except OSError:
        found = None
    try:
        ended = found[1] + GRACE_SECONDS if found else ABANDONED_SECONDS + os.lstat(name, dir_fd=place).st_mtime
        if now > ended:
            os.unlink(name, dir_fd=place)
    except OSError:  # the file was just renamed or removed, or is a directory
        pass


# --- Read the settings that `keys --pair` needs, but no secret and no other file ---


class PairingPlace(NamedTuple):
    """The page's addresses, and sessions.dir."""

    urls: tuple[str, ...]
    sessions_dir: str


def read_pairing_place(path: Path) -> PairingPlace:
    """Return the place. Raises ConfigError if the file can't be read, or [server] or sessions.dir is faulty."""
    top = parse_toml(read_file(path)[0], lambda _: "")
    server, directory = read_server(top), top.get_table("sessions").get_str("dir", "var/sessions")
    if top.problems:
        raise ConfigError(top.problems)
    return PairingPlace(server.urls, directory)
