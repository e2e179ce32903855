"""How the handler is run, and the commands that start, reload and restart it and show its log.

This is the only module that names them, because a container and a plain process have neither systemctl nor journalctl.
"""

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

UNITS = ("/etc/systemd/system/breakglass.service", "/usr/lib/systemd/system/breakglass.service")
PROGRAMS = ("breakglass", "handler")  # "handler" is the folder that the Procfile starts
_BOOTED = "/run/systemd/system"  # sd_booted(3)


class Manager(NamedTuple):
    """The command for each purpose. `log` can also be a phrase that stands after "in"."""

    start: str
    reload: str
    restart: str
    log: str
    is_systemd: bool = False


_SYSTEMD = Manager(
    start="systemctl start breakglass",
    reload="systemctl reload breakglass",
    restart="systemctl restart breakglass",
    log="journalctl -u breakglass",
    is_systemd=True,
)
_CONTAINER = Manager(
    start="podman start breakglass",
    reload="podman kill --signal HUP breakglass",
    restart="podman restart breakglass",
    log="podman logs breakglass",
)
# No handler runs here: it has ended, or it runs on another machine.
_ELSEWHERE = Manager(
    start="systemctl start breakglass (without systemd: breakglass serve)",
    reload="systemctl reload breakglass (without systemd: kill -HUP PID)",
    restart="systemctl restart breakglass (without systemd: kill PID; breakglass serve)",
    log="journalctl -u breakglass (without systemd: the output of breakglass serve)",
)
_ROLLOUT = "kubectl -n breakglass rollout restart deployment/breakglass"
_KUBERNETES = Manager(_ROLLOUT, _ROLLOUT, _ROLLOUT, "kubectl -n breakglass logs deployment/breakglass")


def find_manager(is_booted: bool, commands: Mapping[int, Sequence[str]], environment: Mapping[str, str]) -> Manager:
    """Return how the handler is run: by systemd, as process 1 of a container, as a plain process, or not here. Pure.

    Args:
        is_booted: whether systemd runs this machine and has the handler's unit.
        commands: the words of each process's command line, by its id.
        environment: the variables of this process.
    """
    if is_booted:
        return _SYSTEMD
    handlers = [pid for pid, words in commands.items() if is_handler(words)]
    if 1 in handlers:
        return _KUBERNETES if "KUBERNETES_SERVICE_HOST" in environment else _CONTAINER
    if not handlers:
        return _ELSEWHERE
    pid = handlers[0] if len(handlers) == 1 else "PID"
    start = "breakglass serve"
    return Manager(start, f"kill -HUP {pid}", f"kill {pid}; {start}", f"the output of {start}")


def is_handler(words: Sequence[str]) -> bool:
    """Tell whether a command line starts a handler."""
    return any(os.path.basename(program) in PROGRAMS and word == "serve" for program, word in pairwise(words))


@functools.cache
def manager() -> Manager:
    """Return how the handler is run, as far as this machine shows it."""
    is_booted = os.path.isdir(_BOOTED) and any(map(os.path.exists, UNITS))
    return find_manager(is_booted, {} if is_booted else dict(_read_commands()), os.environ)


def _read_commands() -> Iterator[tuple[int, list[str]]]:
    for place in Path("/proc").glob("[0-9]*"):
        try:
            yield int(place.name), (place / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:  # it has just ended
            continue
