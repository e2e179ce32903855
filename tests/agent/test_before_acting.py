"""The evidence that a verb takes before it acts. It is brief, or longer if a disk or thread hangs, and can refuse."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from breakglass.agents.pve.forensics import capture
from breakglass.agents.pve.forensics.capture import ensure_evidence
from breakglass.agents.pve.host.paths import Host, boottime
from breakglass.agents.pve.jobs.job import Job
from breakglass.agents.pve.jobs.store import JobStore, Record
from breakglass.demo.proxmox.world import VMID, World

OWN_COMMANDS = ("qm", "pvesh", "pvesm", "pvecm", "pveversion", "ha-manager", "zpool", "lvs", "df", "journalctl")


@pytest.fixture(autouse=True)
def path_of_the_host(monkeypatch: pytest.MonkeyPatch, short_dir: Path) -> None:
    """Put the host's commands first in PATH, as its agent does."""
    places = [short_dir / "0", short_dir]
    monkeypatch.setenv("PATH", ":".join([*(f"{place}/bin" for place in places), os.environ["PATH"]]))


@pytest.fixture(autouse=True)
def time_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow more time than the product, because on a busy machine the last questions would be left out."""
    monkeypatch.setattr(capture, "EVIDENCE_SECONDS", 35.0)


def job_of(world: World, name: str = "j1") -> Job:
    """Claim an id for a reset, with this process as its job."""
    host = Host(VMID, str(world.root))
    store = JobStore(host)
    store.prepare()
    no_process = 0  # when a host closes, it ends the processes of its jobs
    record = Record(name, "reset", "test", "", "2026-01-01T00:00:00Z", boottime(), name, no_process, no_process)
    assert store.claim(record)
    return Job(host, store, record)


def file_of(job: Job, name: str) -> Any:
    return json.loads(Path(job.store.path(job.record.id, name)).read_text())


def probes(job: Job) -> list[str]:
    return [entry["probe"] for entry in file_of(job, "manifest.json")]


def test_a_brief_look_starts_none_of_proxmoxs_commands(world: World) -> None:
    """They are Perl programs that take a second each, and a reset does not destroy their evidence."""
    job = job_of(world)
    verdict = ensure_evidence(job)
    assert verdict is not None
    assert verdict.code in ("guest-silent", "healthy")
    commands = {entry["command"].partition(" ")[0] for entry in file_of(job, "manifest.json")}
    assert {"tasks", "version", "kernel", "services"}.isdisjoint(probes(job))  # these are on disks, which may hang
    assert commands.isdisjoint(OWN_COMMANDS)
    assert {"threads", "query-status", "cluster", "configuration", "screen"} <= set(probes(job))
    assert probes(job).count("threads") == 1


@pytest.mark.all
@pytest.mark.slow
@pytest.mark.real("qemu")
def test_a_frozen_disk_is_watched_for_longer(place: Callable[[str], World], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds, but not half a second, distinguish a slow disk from a frozen one. A dead storage is named."""
    world = place("disk-frozen")
    (world.bin / "pvesm").write_text("#!/bin/sh\necho Volid Format Type Size VMID\n")
    (world.bin / "pvesm").chmod(0o755)
    job = job_of(world)
    verdict = ensure_evidence(job)
    assert verdict is not None
    assert (verdict.code, verdict.advice) == ("disk-frozen", "cycle")
    assert probes(job).count("queues") == probes(job).count("threads") == 2
    assert "storage local" in probes(job)
    assert file_of(job, "evidence.json")["evidence"]["queue_seconds"] >= 1.5
    (world.bin / "pvesm").write_text("#!/bin/sh\nsleep 100\n")
    monkeypatch.setattr(capture, "REUSE_SECONDS", 0.0)
    verdict = ensure_evidence(job_of(world, "j2"))
    assert verdict is not None
    assert verdict.code == "storage-hung"
