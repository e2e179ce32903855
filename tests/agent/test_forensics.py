"""A capture of a real QEMU in each state, and of a host whose commands hang, are missing or print too much."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from breakglass.agents.pve.forensics.evidence import parse_evidence
from breakglass.agents.pve.forensics.verdict import verdict_of
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import Answer, execute, set_constants
from ..support.failing_tools import misbehave
from ..support.pve_host import under_ha
from ..support.selection import sampled
from ..support.signals import signal_process
from ..support.stages import memory, until

# If every command hangs, each gets the shortest time with which a probe is started at all.
IMPATIENT = {
    "PERL_SECONDS": 1.5,
    "_LEAST_PERL_SECONDS": 1.0,
    "LIST_SECONDS": 1.0,
    "STATUS_SECONDS": 1.0,
    "BLOCK_LAYER_SECONDS": 1.0,
    "JOURNAL_SECONDS": 1.0,
}
SILENT_QEMU = {"QMP_SECONDS": 0.5, "QMP_STEP_SECONDS": 0.5}


def kept(world: World, answer: Answer, name: str) -> Any:
    """Return a JSON file that the capture kept."""
    return json.loads((world.root / f"run/breakglass/{VMID}/jobs/{answer.trailer['job']}/{name}").read_text())


def manifest(world: World, answer: Answer) -> dict[str, dict[str, Any]]:
    return {entry["probe"]: entry for entry in kept(world, answer, "manifest.json")}


def install(world: World, name: str, script: str) -> None:
    """Put a command of that name first on the host's PATH."""
    (world.bin / name).write_text(f"#!/bin/sh\n{script}\n")
    (world.bin / name).chmod(0o755)


# --- each state, with a real QEMU ---

EXPECTED = {
    "guest-panicked": ("qemu-guest-panicked", "reset"),
    "idle": ("guest-silent", ""),
    "healthy": ("healthy", ""),
    "paused": ("qemu-paused", "start"),
    "io-error": ("qemu-io-error", "start"),
    "disk-frozen": ("disk-frozen", "cycle"),
    "qemu-wedged": ("qemu-wedged", "cycle"),
    "stopped": ("qemu-stopped", "start"),
    "stopped-locked": ("stopped-locked", ""),
}


@pytest.mark.slow
@pytest.mark.real("qemu")
@pytest.mark.parametrize("scenario", sampled(EXPECTED, "disk-frozen", "qemu-wedged"))
def test_a_real_qemu_in_each_state_gets_its_verdict(place: Callable[[str], World], scenario: str) -> None:
    """The verdict is in the result and in the output, and the recorded evidence leads to it again.

    After the advised verb, QEMU says that the VM is running.
    """
    world = place(scenario)
    if scenario == "qemu-wedged":
        set_constants(world, **SILENT_QEMU)
    answer = execute(world, "forensics")
    verdict = answer.trailer["verdict"]
    assert (answer.code, verdict["code"], verdict["advice"]) == (0, *EXPECTED[scenario])
    assert f"verdict: {verdict['sentence']}" in answer.stdout.splitlines()
    assert verdict_of(parse_evidence(kept(world, answer, "evidence.json")["evidence"])).code == verdict["code"]
    if verdict["advice"] and scenario != "qemu-wedged":  # test_signals.py has the whole ladder
        helped = execute(world, verdict["advice"])
        assert (helped.code, helped.trailer["state"], helped.trailer["verdict"]) == (0, "running", None)


@pytest.mark.all
@pytest.mark.slow
@pytest.mark.real("qemu")
def test_an_ide_disk_is_never_called_frozen(short_dir: Path) -> None:
    """The requests of an IDE disk can't be watched. The verdict says so, although the disk is really frozen."""
    world = World(short_dir, scenario="disk-frozen")
    command = world.root / "vm.json"
    command.write_text(command.read_text().replace("if=virtio", "if=ide,id=virtio0"))
    world.begin()
    verdict = execute(world, "forensics").trailer["verdict"]
    assert (verdict["code"], verdict["advice"]) == ("guest-silent", "")
    assert "can't be watched" in verdict["sentence"]
    world.close()


# --- hosts that answer in part ---


def test_a_capture_of_a_host_that_answers(world: World) -> None:
    """The manifest has each probe's command and end, the output has its text, and no secret is kept.

    The configuration is as `qm config` shows it: without cloud-init's password and without snapshots. The files of
    /etc/pve have the members, HA's last status and the version, as three of Proxmox's commands would print them.
    """
    secret, path = "$5$not.for.a.log", world.root / f"etc/pve/qemu-server/{VMID}.conf"
    text = f"{path.read_text()}cipassword: {secret}\n\n[PENDING]\nmemory: 64\n\n[before]\nmemory: 16\n"
    path.write_text(text.replace("[before]", f"[before]\ncipassword: {secret}"))
    under_ha(world)
    members = {"nodename": "demo", "cluster": {"name": "c", "quorate": 1}, "nodelist": {"demo": {"id": 1, "online": 1}}}
    (world.root / "etc/pve/.members").write_text(json.dumps(members))
    version = world.root / "usr/share/perl5/PVE/pvecfg.pm"
    version.parent.mkdir(parents=True)
    version.write_text("sub version_text {\n    return '9.2.11/abcdef';\n}\n")
    install(world, "df", f"yes {'0123456789' * 4} | head -n 20000; echo the end")
    # any user of the host can write to the journal under any name, so only the kernel's and root's entries are read
    matches = (
        "_TRANSPORT=kernel + SYSLOG_IDENTIFIER=zed SYSLOG_IDENTIFIER=pve-ha-crm SYSLOG_IDENTIFIER=pve-ha-lrm _UID=0"
    )
    line = "pve1 kernel: nfs: server nas not responding, still trying"
    install(world, "journalctl", f'case "$*" in *" {matches}") echo "$(date +%s).0 {line}" ;; esac')

    answer = execute(world, "forensics")
    entries, lines = kept(world, answer, "manifest.json"), answer.stdout.splitlines()
    assert entries[-1]["probe"] == "screen"
    assert {"host", "threads", "waiting", "lock file", "query-status", "qm status", "cluster", "kernel", "df"} | {
        *("configuration", "members", "version", "tasks", "rrddata", "storage local", "pvesm")
    } <= {entry["probe"] for entry in entries}
    assert {entry["outcome"] for entry in entries} <= {"ok", "failed", "timed out", "absent"}
    assert manifest(world, answer)["qm status"]["command"] == f"qm status {VMID} --verbose"
    assert all(f"== {entry['probe']} ({entry['outcome']}, " in answer.stdout for entry in entries)
    # what the files of the host say
    assert {"cluster c, quorate 1", "demo: online", "cipassword: **********", "memory: 64"} <= set(lines)
    assert "memory: 16" not in lines
    said = ["mode active, written", "pve-manager/9.2.11/abcdef", "HA starts it"]
    assert [text for text in said if text not in answer.stdout] == []
    evidence = kept(world, answer, "evidence.json")["evidence"]
    assert [evidence[name] for name in ("ha", "ha_seen", "pending")] == ["started", "started", ["memory"]]
    assert "NFS server nas" in "".join(answer.trailer["verdict"]["evidence"])
    # almost a megabyte of one probe leaves room for the others
    assert len(answer.stdout) < 300_000
    assert "[cut to the last 65536 characters]" in answer.stdout
    assert {"the end", f"verdict: {answer.trailer['verdict']['sentence']}"} <= set(lines)
    # the archive has the same
    until(memory(world, "jobs", answer.trailer["job"], "archived").exists, "the copy")
    archived = world.root / f"var/lib/breakglass/{VMID}/jobs/{answer.trailer['job']}"
    assert "verdict" in json.loads((archived / "evidence.json").read_text())
    files = [path for path in [*archived.iterdir(), *memory(world).rglob("*")] if path.is_file()]
    assert [path for path in files if secret.encode() in path.read_bytes()] == []


# --- the evidence that a verb takes before it acts ---

PROXMOX_COMMANDS = {"qm", "pvesh", "pvesm", "pvecm", "pveversion", "ha-manager", "zpool", "lvs", "df", "journalctl"}


def test_a_brief_look_starts_none_of_proxmoxs_commands(world: World) -> None:
    """They are Perl programs that take a second each, and a reset does not destroy their evidence."""
    set_constants(world, EVIDENCE_SECONDS=35.0)
    entries = kept(world, execute(world, "reset"), "manifest.json")
    names = [entry["probe"] for entry in entries]
    assert {"tasks", "version", "kernel", "services"}.isdisjoint(names)  # these are on disks, which may hang
    assert {entry["command"].partition(" ")[0] for entry in entries}.isdisjoint(PROXMOX_COMMANDS)
    assert {"threads", "query-status", "cluster", "configuration", "screen"} <= set(names)
    assert names.count("threads") == 1


# The VM's own storage is inactive.
OWN_INACTIVE = """case "$1" in
list) echo "storage 'local' is not online" >&2; exit 255 ;;
esac
echo "Name Type Status Total (KiB) Used (KiB) Available (KiB) %"
echo "local dir inactive 0 0 0 0.00%"
echo "nas nfs active 0 0 0 0.00%"
"""


@pytest.mark.all
@pytest.mark.slow
@pytest.mark.real("qemu")
def test_a_frozen_disk_on_dead_storage_is_not_cycled(place: Callable[[str], World]) -> None:
    """The storage of the VM's own disk does not answer. A start would block, so a cycle is not advised but refused.

    Two seconds, but not half a second, distinguish a slow disk from a frozen one, so a cycle watches it for longer.
    """
    world = place("disk-frozen")
    set_constants(world, EVIDENCE_SECONDS=35.0, REUSE_SECONDS=0.0)
    install(world, "pvesm", OWN_INACTIVE)
    verdict = execute(world, "forensics").trailer["verdict"]
    assert (verdict["code"], verdict["advice"]) == ("storage-hung", "")
    assert any(line.startswith("storage local, ") for line in verdict["evidence"])
    install(world, "pvesm", "sleep 100")
    answer = execute(world, "cycle")
    assert (answer.code, answer.trailer["verdict"]["code"]) == (12, "storage-hung")
    names = [entry["probe"] for entry in kept(world, answer, "manifest.json")]
    assert names.count("queues") == names.count("threads") == 2
    assert "storage local" in names
    assert kept(world, answer, "evidence.json")["evidence"]["queue_seconds"] >= 1.5


@pytest.mark.all
@pytest.mark.slow
def test_everything_silent_ends_within_the_budget(world: World) -> None:
    """QEMU is stopped, and every command hangs and ignores SIGTERM. The capture says so, and ends with a verdict."""
    misbehave(world.root, hang="all")
    for name in ("pvesm", "zpool", "lvs", "df", "journalctl"):
        install(world, name, "echo first words; trap '' TERM; while :; do sleep 100; done")
    signal_process(world.pid, signal.SIGSTOP)
    seconds = {"EVIDENCE_SECONDS": 6.0, "SCREEN_SECONDS": 1.0, "PERL_SECONDS": 600.0}
    set_constants(world, **IMPATIENT | SILENT_QEMU | seconds)
    answer = execute(world, "forensics")
    assert 0 < answer.trailer["seconds"] < 60
    assert (answer.trailer["state"], answer.trailer["verdict"]["code"]) == ("wedged", "qemu-wedged")
    probes = manifest(world, answer)
    late = {name for name, entry in probes.items() if entry["outcome"] == "timed out"}
    assert {"qm status", "zpool", "lvs", "df", "kernel", "journal"} <= late
    assert "first words" in answer.stdout
    assert probes["screen"]["outcome"] == "failed"


# --- /etc/pve ---


def pve_gone(world: World) -> None:
    """Leave /etc/pve as an empty directory, as on a host without a running pmxcfs."""
    shutil.rmtree(world.root / "etc/pve")
    (world.root / "etc/pve").mkdir()


@pytest.mark.all
def test_an_etc_pve_that_is_not_mounted_is_named(world: World) -> None:
    """Forensics and status name it, whether the VM runs or not, and advise no start."""
    pve_gone(world)
    assert execute(world, "forensics").trailer["verdict"]["code"] == "pmxcfs-not-mounted"
    assert execute(world, "status").trailer["verdict"]["code"] == "qemu-running"  # it asks only QEMU
    world.monitor("quit")
    until(lambda: world.pid is None, "the end of QEMU")
    for verb in ("forensics", "status"):
        verdict = execute(world, verb).trailer["verdict"]
        assert (verdict["code"], verdict["advice"]) == ("pmxcfs-not-mounted", "")
