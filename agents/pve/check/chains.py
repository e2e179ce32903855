"""Verifies the chain of jobs of each VM that this host has a record of, in /run and in the archive."""

import os
from collections.abc import Iterator
from functools import partial

from ..host.bounded import ask_or_none
from ..host.paths import Host
from ..jobs.verify import describe_chain, read_chain
from .findings import Finding, ok, warning
from .reading import FILE_SECONDS

_CHAIN_HINT = (
    "someone may have edited the record of jobs: read The chain of jobs in breakglass docs runbook, at the handler"
)
_CHAIN_NAME = "chain-"


def check_chains(host: Host) -> Iterator[Finding]:
    """Judge each chain in /run and in the archive. A broken one stops no rescue, so it is a warning."""
    places = [host.path("/run/breakglass"), host.path("/var/lib/breakglass")]
    answers = [ask_or_none(partial(_find_chains, place), FILE_SECONDS) for place in places]
    for vmid, node in sorted({(int(vmid), str(node)) for found in answers for vmid, node in found or ()}):
        state = read_chain(Host(vmid, host.root), node, is_silent=answers[1] is None)
        what = f"VM {vmid}: {describe_chain(state)}"
        yield warning(what, _CHAIN_HINT) if state.broken else ok("; ".join([what, *state.notes]))


def _find_chains(place: str) -> list[tuple[str, str]]:
    """Return the VM and the node of each chain below a directory."""
    if not os.path.isdir(place):
        return []
    vms = [name for name in os.listdir(place) if name.isdigit()]
    files = [(vmid, name) for vmid in vms for name in os.listdir(f"{place}/{vmid}")]
    return [
        (vmid, name.removeprefix(_CHAIN_NAME))
        for vmid, name in files
        if name.startswith(_CHAIN_NAME) and "." not in name
    ]
