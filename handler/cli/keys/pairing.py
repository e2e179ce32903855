"""`keys new NAME --pair` and `keys rotate NAME --pair`: gives a device its new signing key by a link that opens once.

The command waits until a device has fetched the key. It revokes the key by itself if no device has fetched the key in
time, if the key was requested twice, or if the command is interrupted. Only this process and its output have the key
and the link.
"""

import argparse
import contextlib
import os
import select
import signal
import sys
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from ...base.findings import ConfigError
from ...config import pairing
from ...config.own_files import EditError, add_entry, add_secret, take_back
from ...config.pairing import FETCHED, GONE, TWICE, read_pairing_place
from ...config.sources import own_file
from ..account import PR_SET_DUMPABLE, find_account, prctl
from ..output import DONE, FAILED, INTERRUPTED, CommandError, complain, drop_output, reason, remark, say
from ..reloading import reload_handler
from .configuration import new_signing_key
from .pairing_child import KeyDirectory
from .pairing_link import draw_qr, find_page, find_sessions

_POLL_SECONDS = 0.3


class Grant(NamedTuple):
    """How a caller's entry gets a new signing key, and what a person is told.

    `by_hand` is the command that revokes the key if this command can't. `paired` is the text at the end.
    """

    add: Callable[[str], object]
    by_hand: str
    paired: str


def pair_new(arguments: argparse.Namespace, file: Path, entry: Mapping[str, object]) -> int:
    """Pair a device as a new caller, whose entry has no secret yet. Return the exit code."""
    name = arguments.name
    grant = Grant(
        lambda signing_key: add_entry(file, "callers", name, {"secret": signing_key, **entry}),
        f"breakglass keys revoke {name}",
        f"{name} is paired.",
    )
    return _pair(arguments, file, grant)


def pair_rotate(arguments: argparse.Namespace, file: Path) -> int:
    """Pair a device with an additional signing key of a caller. The other keys stay valid. Return the exit code."""
    name = arguments.name
    grant = Grant(
        lambda signing_key: add_secret(file, name, signing_key),
        f"remove the newest secret from {own_file(file, 'callers', name)}, and reload the handler",
        f"{name} is paired. The older keys are still accepted. To end them: breakglass keys rotate {name} --drop-old",
    )
    return _pair(arguments, file, grant)


def _pair(arguments: argparse.Namespace, file: Path, grant: Grant) -> int:
    place = read_pairing_place(file)
    url = find_page(arguments.url, place.urls)
    account = find_account(file, arguments.user)
    directory = find_sessions(place, arguments.pid)
    prctl(PR_SET_DUMPABLE, 0)  # so that other processes of this user can't read the key
    with _Ending() as ending, KeyDirectory(directory, account) as keys:
        return _Pairing(arguments, file, grant, url, keys, ending).run()


class _Ending:
    """Records the signals that end a command, so that it can clean up first. `number` is the last signal, or 0."""

    number = 0

    def __enter__(self) -> "_Ending":
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
        # nohup, for example, has SIGHUP ignored
        ours = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._note) for number in ours}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        self.number = number


class _Pairing:
    """One key on its way to a device."""

    def __init__(
        self, arguments: argparse.Namespace, file: Path, grant: Grant, url: str, keys: KeyDirectory, ending: _Ending
    ) -> None:
        self._arguments, self._file, self._grant, self._name = arguments, file, grant, arguments.name
        self._url, self._keys, self._ending = url, keys, ending
        self._signing_key = new_signing_key()
        self._id, self._one_time_key = pairing.new_pairing()
        self._reads_input, self._is_confirmed = sys.stdin is not None, False

    def run(self) -> int:
        """Pair the device. Return the exit code after the key was fetched once or revoked."""
        sealed = pairing.seal(self._one_time_key, self._id, self._name, self._signing_key)
        try:
            self._grant.add(self._signing_key)
        except EditError as error:
            raise CommandError(error.message, error.hint, FAILED) from None
        why = "the command failed"
        try:
            why = self._hand_over(sealed)
        except CommandError as error:
            why = f"{error.message} / {error.hint}"
        except OSError as error:
            why = f"the output can't be written: {reason(error)}"
        finally:
            if why:
                self._revoke(why)
        if not why:
            say(self._grant.paired)
        if not why and not self._is_confirmed:
            remark("Enter was not pressed; if that was not your device, end its key:", self._grant.by_hand)
        return INTERRUPTED if why and self._ending.number else FAILED if why else DONE

    def _hand_over(self, sealed: str) -> str:
        """Return why the key must be revoked, or an empty text if a device fetched it once."""
        if not reload_handler(self._arguments) and self._reads_input and sys.stdin.isatty():
            say("Reload the handler, then press Enter here.")
            while not self._is_enter_pressed():
                if self._ending.number or not self._reads_input:
                    return "it was interrupted"
        until, end = time.time() + pairing.SECONDS, time.monotonic() + pairing.SECONDS
        self._keys.call("leave", self._id, self._name, sealed, until)
        self._show_link(until)
        was_fetched = False
        while time.monotonic() < end and not self._ending.number:
            state = self._keys.call("find_state", self._id)
            if state == TWICE:
                # a missing file does not prove the end, because an NFS client can see a new name a minute late
                return _explain(state)
            if state == FETCHED and not was_fetched:
                was_fetched = True
                self._forget_input()
                self._ask()
            self._is_confirmed = self._is_enter_pressed() and was_fetched
            if self._is_confirmed:
                break
        return "it was interrupted" if self._ending.number else _explain(self._keys.call("withdraw", self._id))

    def _show_link(self, until: float) -> None:
        link = pairing.pairing_link(self._url, self._id, self._one_time_key, self._name)
        clock = time.strftime("%H:%M", time.localtime(until))
        is_drawn = draw_qr(link)
        say(f"{'Scan this, or open' if is_drawn else 'Open'} this link on {self._name}'s device, until {clock}:")
        say(link)
        if not is_drawn and sys.stdout.isatty():
            remark("the terminal is too narrow for the QR code")
        say("It opens once. Ctrl-C revokes the key.")

    def _ask(self) -> None:
        name, clock = self._name, time.strftime("%H:%M:%S")
        say(f'{name}\'s device fetched the key at {clock}. If it says "Paired as {name}", press Enter;')
        say("if it says anything else, or is not yours, press Ctrl-C, which revokes the key.")

    def _is_enter_pressed(self) -> bool:
        """Wait for a moment, and return whether a line was typed."""
        if not self._reads_input:
            time.sleep(_POLL_SECONDS)
            return False
        if not select.select([sys.stdin], [], [], _POLL_SECONDS)[0]:
            return False
        try:
            data = os.read(sys.stdin.fileno(), 4096)
        except OSError:  # the terminal was closed
            data = b""
        self._reads_input = data != b""
        return b"\n" in data

    def _forget_input(self) -> None:
        """Discard what was typed before the question."""
        with contextlib.suppress(termios.error, OSError, ValueError):
            termios.tcflush(sys.stdin, termios.TCIFLUSH)

    def _revoke(self, why: str) -> None:
        """Revoke the key, and say so."""
        name = self._name
        if self._ending.number == signal.SIGHUP:
            drop_output()  # the terminal was closed
        with contextlib.suppress(CommandError):  # without its entry in the configuration, the key is useless
            self._keys.call("withdraw", self._id)
        try:
            take_back(self._file, name, self._signing_key)
        except (EditError, ConfigError, OSError) as error:
            _complain_if_possible(
                f"{why}. The new key of {name} is NOT revoked: {error}", f"do it now: {self._grant.by_hand}"
            )
            return
        _complain_if_possible(f"{why}. The new key of {name} is revoked and is no longer in the configuration")
        try:
            is_told = reload_handler(self._arguments)
        except CommandError as error:
            _complain_if_possible(f"the handler accepts the key until it reloads: {error.message}", error.hint)
        except OSError:  # of the output
            pass
        else:
            if not is_told:
                _complain_if_possible("the handler accepts the key until you have done that")


def _explain(state: str) -> str:
    """Return why a key in this state must be revoked, or an empty text if it was fetched once."""
    return {
        FETCHED: "",
        TWICE: "the key was asked for twice",
        GONE: "the key's file was removed",
    }.get(state, "no device fetched the key in time")


def _complain_if_possible(message: str, hint: str = "") -> None:
    with contextlib.suppress(OSError):
        complain(message, hint)
