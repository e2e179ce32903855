"""A sealed signing key that waits for a device, as the command makes it, and the link that opens it."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from breakglass.config import pairing

from .browser import Stage
from .service import ACCOUNT


@dataclass
class Offer:
    """The key's file in sessions.dir, and its link."""

    directory: Path
    id: str
    one_time_key: bytes
    link: str

    @property
    def fragment(self) -> str:
        return self.link[self.link.index("#") :]

    @property
    def state(self) -> str:
        return pairing.find_state(str(self.directory), self.id)


def offer(stage: Stage, caller: str = "operator", seconds: float = 600) -> Offer:
    """Leave the signing key of a caller for a device."""
    service = stage.service
    directory = getattr(service, "sessions", service.directory / "var/sessions")
    pairing_id, one_time_key = pairing.new_pairing()
    sealed = pairing.seal(one_time_key, pairing_id, caller, service.secrets[caller])
    pairing.leave(str(directory), pairing_id, caller, sealed, time.time() + seconds)
    place = directory / pairing.DIRECTORY
    for path in (place, place / pairing_id) if ACCOUNT else ():
        shutil.chown(path, ACCOUNT)
    for above in (directory, directory.parent):
        above.chmod(above.stat().st_mode | 0o011)
    return Offer(directory, pairing_id, one_time_key, pairing.pairing_link(stage.url, pairing_id, one_time_key, caller))
