"""`python -m tests.bench.moves`: a VM with three hosts, on three nodes; and how fast the model is searched."""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from breakglass.client import new_id

from ..model.search import search
from ..model.world import ALL_GAPS, Limits, Rules
from ..support.cluster import Cluster, cluster
from ..support.service import Service
from .client import Keeping, millis, timed

STATES = 1_000_000
TITLES = {
    "moves_status": "a VM with three hosts: signed status, ms",
    "moves_reset": "a VM with three hosts: first attempt of a reset, s",
    "moves_reset_hanging": "the same while one of the others hangs, s (wanted: 1 s more)",
    "moves_again": "a repeated reset that another node knows, after a move, s",
    "moves_again_hanging": "a repeated reset while a node hangs that may know it, s (wanted: at most 4 s, and unknown)",
    "model_states_s": "1,000,000 states of the model, s (wanted: at most 60)",
}


def move_figures(directory: Path) -> dict[str, float]:
    """Return the figures; `directory` must be short."""
    with cluster(directory) as nodes, tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as own:
        service = nodes.handler(Path(own), seconds=None)
        try:
            found = _verbs(nodes, service)
        finally:
            service.stop()
    began = time.perf_counter()
    assert search(Rules(), Limits(1, 1), ALL_GAPS, most=STATES).promise == ""
    return found | {"model_states_s": round(time.perf_counter() - began, 1)}


def _verbs(nodes: Cluster, service: Service) -> dict[str, float]:
    nodes.move("pve2")
    known = new_id()
    found = {
        "moves_status": millis(timed(Keeping(service).status, 50, warm=5)),
        "moves_reset": _seconds(service, "done", msg_id=known),
    }
    nodes.move("pve3")
    found["moves_again"] = _seconds(service, "done", msg_id=known, again=True)
    with nodes.frozen("pve1"):
        found["moves_reset_hanging"] = _seconds(service, "done")
    with nodes.frozen("pve1"):
        found["moves_again_hanging"] = _seconds(service, "unknown", again=True)
    return found


def _seconds(service: Service, outcome: str, **fields: Any) -> float:
    began = time.perf_counter()
    answer = service.pve("reset", **fields).json
    assert answer["outcome"] == outcome, answer
    return round(time.perf_counter() - began, 2)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as place:
        for name, figure in move_figures(Path(place)).items():
            print(f"{TITLES[name]:<90} {figure:>10}")
    sys.exit(0)
