"""The chain of jobs on a host of the tests."""

import json
from pathlib import Path
from typing import Any

from breakglass.agents.pve.host.cluster import node_name
from breakglass.agents.pve.host.paths import Host
from breakglass.agents.pve.jobs.chain_file import chain_paths
from breakglass.demo.proxmox.world import VMID, World


def chain_files(world: World, node: str = "") -> tuple[Path, Path]:
    """Return the chain's file in /run, and its copy in the archive."""
    run, archive = chain_paths(Host(VMID, str(world.root)), node or node_name())
    return Path(run), Path(archive)


def read_links(path: Path) -> list[dict[str, Any]]:
    """Return the object in each line of a chain's file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def links_of(world: World, job_id: str) -> list[str]:
    """Return the events of a job in the chain's file in /run."""
    run, _ = chain_files(world)
    return [link["event"] for link in read_links(run) if link.get("job") == job_id] if run.exists() else []
