"""What one hostile host costs the others: an honest host's status while it attacks, and the handler's memory."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from breakglass.demo.proxmox.world import World

from ..support.hostile import ATTACKS, hostile_host
from ..support.service import Service
from ..support.sshd import Sshd
from .client import Keeping, millis, resident_kib, timed

SECONDS = 10.0
SAID = {
    "tiny": "lines of {} without a request for it",
    "bigjson": "a line of 15 MiB of JSON",
    "flood": "an answer without an end",
    "small": "an answer of short lines without an end",
}
TITLES = {
    f"hostile_{attack}_{figure}": f"a hostile host, {SAID[attack]}: {said}"
    for attack in ATTACKS
    for figure, said in (
        ("status", "another host's status, median, ms (wanted: under 50)"),
        ("worst", "the same, worst, ms (wanted: under 1000)"),
        ("mib", "resident memory, most, MiB (wanted: under 90)"),
    )
}


def hostile_figures(world: World, sshd: Sshd, directory: Path) -> dict[str, float]:
    """Return the figures of each attack, from the handler's start on."""
    found: dict[str, float] = {}
    with hostile_host(directory / "evil") as evil:
        for attack in ATTACKS:
            evil.attack(attack)
            service = Service(
                world.directory, port=sshd.port, key=sshd.power_key, host_key=[sshd.host_key], extra=evil.tables
            )
            with ThreadPoolExecutor(1) as pool:
                try:
                    pool.submit(service.pve, "status", vm="evilvm")
                    samples, resident = _sample(service)
                finally:
                    service.stop()
            name = f"hostile_{attack}"
            found[f"{name}_status"], found[f"{name}_worst"] = millis(samples), round(max(samples) * 1000, 1)
            found[f"{name}_mib"] = round(resident / 1024, 1)
    return found


def _sample(service: Service) -> tuple[list[float], int]:
    """Return the seconds of each status, and the most KiB that were resident."""
    keeping, samples, resident = Keeping(service), list[float](), 0
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        samples += timed(keeping.status, 1, warm=0)
        resident = max(resident, resident_kib(service.process.pid))
    return samples, resident
