"""What `breakglass doctor` must check, and the settings and keys that it may use."""

import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from ..base.findings import Finding, error, ok, warning
from ..client import Signer
from ..config.model import Config, Vm

KEEP_CLOCK = "run timedatectl set-ntp true, which needs a program such as systemd-timesyncd or chrony"
CONFIGURATION, KEYS, HANDLER, CHAT, ALERTS = "configuration", "keys", "handler", "chat", "alerts"

_SECRET = re.compile(
    r"(hosts\..+\.key|vms\.(.+\.|d/.+: )guest_key|sessions\.secret"
    r"|callers\.(.+\.|d/.+: )(secret|grafana_secret|token))(_file)?"
)


@dataclass(frozen=True)
class Visit:
    """One run of doctor.

    `config` is None if no handler would start with the file; `path` is None without a file. `signer` is None if no
    handler's URL or no signing key is known. `vm` is the name of the only VM to look at, if it is not empty. `samples`
    are payloads of monitoring systems, by source. The check of the hosts fills `owners` with the host that has each VM,
    or with its first host if that is not known. `units` has what systemd says of Breakglass's units.
    """

    path: Path | None
    config: Config | None
    problems: Sequence[Finding]
    signer: Signer | None
    url: str
    vm: str
    samples: Mapping[str, Sequence[bytes]]
    now: float  # Unix time
    environment: Mapping[str, str] = field(repr=False)
    owners: dict[str, str] = field(default_factory=dict)
    units: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def vms(self) -> list[Vm]:
        """The VMs to check."""
        found = self.config.vms.values() if self.config else ()
        return [vm for vm in found if self.vm in ("", vm.name)]

    def problems_of(self, place: str) -> list[Finding]:
        """Return the problems of the configuration that belong to one place, as findings about it."""
        found = [each for each in self.problems if _place_of(each.place) == place]
        # A colon follows a place that is a file, because the file is not the subject of the sentence.
        sentences = [f"{each.place}{':' * each.place.startswith(('/', '('))} {each.sentence}" for each in found]
        return [replace(each, place=place, sentence=text) for each, text in zip(found, sentences, strict=True)]


def _place_of(setting: str) -> str:
    if _SECRET.fullmatch(setting):
        return KEYS
    table = setting.partition(".")[0].partition("[")[0]
    return table if table in (CHAT, ALERTS) else CONFIGURATION


HANDLER_UNIT, CHAT_UNITS = (
    "breakglass.service",
    ("breakglass-chat.socket", "breakglass-chat@0.service"),
)  # an instance, because systemd knows no template
_UNIT_SECONDS = 3.0
_PROPERTIES = "Id,LoadState,UnitFileState,LimitNOFILE,Environment"


def read_units() -> dict[str, dict[str, str]]:
    """Return what systemd says of the units that it knows, by property. Without systemd, there are none.

    Only root can ask systemd on a machine without D-Bus, so this is read before doctor becomes the handler's user.
    """
    command = [shutil.which("systemctl") or "systemctl", "show", "-p", _PROPERTIES, HANDLER_UNIT, *CHAT_UNITS]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_UNIT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    units = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in ran.stdout.split("\n\n")]
    return {unit.get("Id", ""): unit for unit in units if unit.get("LoadState") in ("loaded", "masked")}


Look = Callable[[Visit, list[Finding]], Awaitable[None]]  # adds to the list, which is kept even if a look is cut off


def about(place: str) -> tuple[partial[Finding], partial[Finding], partial[Finding]]:
    """Return three functions that create findings about a place: ok, warning and error."""
    return partial(ok, place), partial(warning, place), partial(error, place)
