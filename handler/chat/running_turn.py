"""One turn whose runner this handler started: the handler's end of the runner's socket."""

import asyncio
import socket
from collections.abc import Callable

from ..claude.runner import CANCEL, STOP
from .launcher import Waitable


class RunningTurn:
    """A turn under way.

    `changed` is set, and replaced, when the log grows or the runner ends. `collected` is set once the runner has ended
    and its log is complete. `on_end` is called when the runner has closed its socket.
    """

    def __init__(
        self,
        caller: str,
        metadata: dict[str, str],
        process: Waitable,
        control: socket.socket,
        on_end: Callable[[], object],
    ) -> None:
        self.caller = caller
        self.metadata = metadata
        self.process = process
        self.changed = asyncio.Event()
        self.collected = asyncio.Event()
        self._control = control
        self._on_end = on_end
        control.setblocking(False)
        asyncio.get_running_loop().add_reader(control, self._read_control)

    def _read_control(self) -> None:
        try:
            data = self._control.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._on_end()
        self.notify()

    def notify(self) -> None:
        """Wake each reader of the log."""
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def stop(self) -> None:
        """End the turn quickly, because the handler is stopping."""
        self._send(STOP)

    def cancel(self) -> None:
        """End the turn on request. This needs no disk."""
        self._send(CANCEL)

    def _send(self, command: bytes) -> None:
        try:
            self._control.send(command)
        except OSError:  # the runner has ended
            pass


async def wait_for_change(changed: asyncio.Event | None, seconds: float) -> None:
    """Return when there may be something new to read: after `seconds`, where another handler writes it."""
    if changed is None:
        await asyncio.sleep(seconds)
        return
    try:
        async with asyncio.timeout(1.0):
            await changed.wait()
    except TimeoutError:
        pass
