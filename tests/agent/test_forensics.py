"""A capture of a real QEMU in each state, and of a host whose commands hang, are missing or print too much."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from breakglass.agents.pve.forensics.evidence import parse_evidence
from breakglass.agents.pve.forensics.verdict import verdict_of
from breakglass.agents.pve.words import DEADLINES
from breakglass.demo.proxmox.kernel import DRIVERS, _list_drivers, find_kernel
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import READS, Answer, execute, set_constants
from ..support.failing_tools import misbehave
from ..support.hung import unserved_fuse, vm_on_frozen_storage
from ..support.pve_host import no_quorum, under_ha
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


@pytest.fixture
def world(world: World) -> World:
    """A host whose captures take their two samples quickly, because no test here is about the samples."""
    set_constants(world, SAMPLES_APART=0.3)
    return world


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
@pytest.mark.parametrize("scenario", sampled(EXPECTED, "healthy", "qemu-wedged"))
def test_a_real_qemu_in_each_state_gets_its_verdict(place: Callable[[str], World], scenario: str) -> None:
    """The verdict is in the result and in the output, and the recorded evidence leads to it again."""
    world = place(scenario)
    if scenario == "qemu-wedged":
        set_constants(world, **SILENT_QEMU)
    answer = execute(world, "forensics")
    verdict = answer.trailer["verdict"]
    assert (answer.code, verdict["code"], verdict["advice"]) == (0, *EXPECTED[scenario])
    assert f"verdict: {verdict['sentence']}" in answer.stdout.splitlines()
    assert verdict_of(parse_evidence(kept(world, answer, "evidence.json")["evidence"])).code == verdict["code"]


@pytest.mark.slow
@pytest.mark.real("qemu")
@pytest.mark.parametrize(
    ("scenario", "verb"),
    sampled([("guest-panicked", "reset"), ("io-error", "start"), ("disk-frozen", "cycle")], ("disk-frozen", "cycle")),
)
def test_the_advised_verb_helps(place: Callable[[str], World], scenario: str, verb: str) -> None:
    """After the advised verb, QEMU says that the VM is running. The verb's own output has the verdict."""
    world = place(scenario)
    answer = execute(world, verb)
    assert (answer.code, answer.trailer["state"], answer.trailer["verdict"]) == (0, "running", None)
    assert "verdict: " in answer.stdout
    assert verdict_of(parse_evidence(kept(world, answer, "evidence.json")["evidence"])).code == EXPECTED[scenario][0]


@pytest.mark.all
@pytest.mark.slow
@pytest.mark.real("guest")
@pytest.mark.parametrize(
    ("scenario", "code", "words"),
    [
        ("guest-panicked", "qemu-guest-panicked", "last words: Kernel panic - not syncing: Attempted"),
        ("guest-hung", "guest-hung", "every vCPU"),
        ("idle", "guest-alive", "answered"),
    ],
)
def test_the_demos_linux_guest_gets_its_verdict(short_dir: Path, scenario: str, code: str, words: str) -> None:
    """A panicked, a hung and an idle one are not confused, and after a reset its kernel answers again."""
    world = World(short_dir, scenario=scenario, kernel=find_kernel())
    try:
        world.begin()
        verdict = execute(world, "forensics").trailer["verdict"]
        assert (verdict["code"], words in f"{verdict}") == (code, True), verdict
        assert execute(world, "reset").code == 0
        until(lambda: execute(world, "forensics").trailer["verdict"]["code"] == "guest-alive", "the heartbeat", 180)
    finally:
        world.close()


@pytest.mark.parametrize("missing", ["", "virtio_pci", "pvpanic-mmio", "virtio_balloon"])
def test_the_demos_kernel_can_show_its_panic(tmp_path: Path, missing: str) -> None:
    """Of a kernel without such a driver, none is taken. The driver of the bus may be a part of the kernel's image."""
    has = [driver for driver in DRIVERS if driver != missing]
    (tmp_path / "modules.dep").write_text("".join(f"{driver}.ko: virtio.ko\n" for driver in [*has, "virtio"]))
    found = [path.stem for path in _list_drivers(tmp_path)]
    assert found == (["virtio", *has] if missing in ("", "virtio_pci") else [])


@pytest.mark.real("guest")
def test_another_machines_kernel_does_not_run_in_the_demo() -> None:
    """The guest's processor is an x86-64."""
    program = "from breakglass.demo.proxmox.kernel import find_kernel; print(find_kernel() is None)"
    said = [subprocess.check_output([*how.split(), sys.executable, "-c", program]) for how in ("", "setarch i686")]
    assert said == [b"False\n", b"True\n"]


@pytest.mark.all
@pytest.mark.slow
@pytest.mark.real("qemu")
def test_reset_does_not_mend_a_frozen_disk(place: Callable[[str], World]) -> None:
    """The same QEMU keeps the same dead connection to its disk, so a cycle is advised."""
    world = place("disk-frozen")
    assert execute(world, "reset").code == 0
    assert world.monitor("query-block")[0]["inserted"]["bps"] == 1  # type: ignore[index]


@pytest.mark.all
def test_status_names_the_state_at_once(world: World) -> None:
    """The quick verdict comes from the state alone, and does not mention health."""
    verdict = execute(world, "status").trailer["verdict"]
    assert (verdict["code"], verdict["advice"]) == ("qemu-running", "")
    execute(world, "stop")
    assert execute(world, "status").trailer["verdict"]["advice"] == "start"


@pytest.mark.all
def test_a_process_that_a_stop_left_is_seen(world: World) -> None:
    """A process lives in the scope of a stopped VM, so no start is advised."""
    execute(world, "stop")
    scope = world.root / f"sys/fs/cgroup/qemu.slice/{VMID}.scope/cgroup.procs"
    scope.parent.mkdir(parents=True, exist_ok=True)
    scope.write_text(f"{os.getpid()}\n")
    for verb in ("status", "forensics"):
        verdict = execute(world, verb).trailer["verdict"]
        assert (verdict["code"], verdict["advice"]) == ("leftover", "")


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


@pytest.mark.all
@pytest.mark.slow
@pytest.mark.real("qemu", "fsfreeze")
@pytest.mark.parametrize("qemu_answers", sampled([True, False], False))
def test_a_thread_that_waits_for_storage_forbids_a_cycle(short_dir: Path, qemu_answers: bool) -> None:
    """A real QEMU writes to a frozen file system. One of its threads waits in the kernel, and nothing can end it."""
    with vm_on_frozen_storage(short_dir) as world:
        if not qemu_answers:
            set_constants(world, **SILENT_QEMU)
            signal_process(world.pid, signal.SIGSTOP)
        answer = execute(world, "forensics")
        verdict = answer.trailer["verdict"]
        assert (verdict["code"], verdict["advice"]) == ("storage-hung", "")
        assert "waits uninterruptibly" in verdict["evidence"][0]


# --- hosts that answer in part ---


def test_every_probe_is_in_the_manifest(world: World) -> None:
    """The manifest has each probe's question, command, end and duration. The picture is last."""
    answer = execute(world, "forensics")
    entries = kept(world, answer, "manifest.json")
    assert entries[-1]["probe"] == "screen"
    assert {"host", "threads", "waiting", "lock file", "query-status", "qm status", "cluster", "kernel", "df"} | {
        *("configuration", "members", "version", "tasks", "rrddata", "storage local", "pvesm")
    } <= {entry["probe"] for entry in entries}
    assert {entry["outcome"] for entry in entries} <= {"ok", "failed", "timed out", "absent"}
    assert manifest(world, answer)["qm status"]["command"] == f"qm status {VMID} --verbose"
    assert all(f"== {entry['probe']} ({entry['outcome']}, " in answer.stdout for entry in entries)
    archived = world.root / f"var/lib/breakglass/{VMID}/jobs/{answer.trailer['job']}"
    until(memory(world, "jobs", answer.trailer["job"], "archived").exists, "the copy")
    assert "verdict" in json.loads((archived / "evidence.json").read_text())


@pytest.mark.all
@pytest.mark.slow
def test_hung_commands_are_findings(world: World) -> None:
    """Every qm and storage command hangs and ignores SIGTERM. Each is reported late, and a picture is taken."""
    misbehave(world.root, hang="all")
    others = {"EVIDENCE_SECONDS": 60.0, "CLUSTER_SECONDS": 30.0, "READ_SECONDS": 30.0}
    set_constants(world, **IMPATIENT, **others, DEADLINES=DEADLINES | READS | {"forensics": 90.0})
    for name in ("pvesm", "zpool", "lvs", "df", "journalctl"):
        install(world, name, "echo first words; trap '' TERM; while :; do sleep 100; done")
    answer = execute(world, "forensics")
    probes = manifest(world, answer)
    late = {name for name, entry in probes.items() if entry["outcome"] == "timed out"}
    assert late | {"pvesm"} == {
        "qm status",
        "storage local",
        "pvesm",
        "zpool",
        "lvs",
        "df",
        "kernel",
        "services",
        "journal",
    } | (
        late & {"rrddata"}  # with few processors, there is no time left for the last ones
    )
    assert "first words" in answer.stdout
    assert answer.trailer["state"] == "running"
    assert probes["screen"]["outcome"] in ("ok", "failed")  # the stand-in for QEMU draws no picture


# The same, with the VM's own storage inactive.
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
@pytest.mark.parametrize(
    ("pvesm", "says"),
    [("sleep 100", "gave no answer in [0-9.]+ s"), (OWN_INACTIVE, "does not answer")],
    ids=["late", "inactive"],
)
def test_a_frozen_disk_on_dead_storage_is_not_cycled(place: Callable[[str], World], pvesm: str, says: str) -> None:
    """The storage of the VM's own disk does not answer. A start would block, so no cycle is advised."""
    world = place("disk-frozen")
    set_constants(world, **IMPATIENT if pvesm.startswith("sleep") else {})
    install(world, "pvesm", pvesm)
    verdict = execute(world, "forensics").trailer["verdict"]
    assert (verdict["code"], verdict["advice"]) == ("storage-hung", "")
    line = f"storage local, which has disks of this VM, {says}"
    assert any(re.fullmatch(line, each) for each in verdict["evidence"])


@pytest.mark.all
@pytest.mark.slow
def test_everything_silent_ends_within_the_budget(world: World) -> None:
    """QEMU is stopped and every command hangs for longer than the budget. The capture ends with a verdict."""
    pid = world.pid
    assert pid is not None
    misbehave(world.root, hang="all")
    signal_process(pid, signal.SIGSTOP)
    set_constants(
        world, **SILENT_QEMU, EVIDENCE_SECONDS=6.0, SCREEN_SECONDS=1.0, PERL_SECONDS=600.0, _LEAST_PERL_SECONDS=1.0
    )
    answer = execute(world, "forensics")
    assert 0 < answer.trailer["seconds"] < 60
    assert (answer.trailer["state"], answer.trailer["verdict"]["code"]) == ("wedged", "qemu-wedged")
    assert manifest(world, answer)["screen"]["outcome"] == "failed"


# --- /etc/pve ---


def pve_gone(world: World) -> None:
    """Leave /etc/pve as an empty directory, as on a host without a running pmxcfs."""
    shutil.rmtree(world.root / "etc/pve")
    (world.root / "etc/pve").mkdir()


@pytest.mark.all
@pytest.mark.slow
@pytest.mark.real("fuse")
def test_a_hung_etc_pve_is_named(world: World) -> None:
    """The verdict names /etc/pve and the fix. No command is started that would hang on it."""
    with unserved_fuse(world.root / "etc/pve"):
        answer = execute(world, "forensics")
    verdict = answer.trailer["verdict"]
    assert (verdict["code"], verdict["advice"]) == ("pmxcfs-hung", "")
    assert any("systemctl restart pve-cluster" in line for line in verdict["evidence"])
    assert (
        "the host could not read what changed within 24 h from Proxmox's statistics, /etc/pve"
        in verdict["evidence"][-1]
    )
    probes = manifest(world, answer)
    assert probes["cluster"]["outcome"] == "timed out"
    assert {"qm status", "rrddata", "pvesm", "storage local"}.isdisjoint(probes)


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


def test_a_lost_quorum_is_named(world: World) -> None:
    """The VM continues to run. The verdict says in advance that a cycle would be refused."""
    no_quorum(world)
    verdict = execute(world, "forensics").trailer["verdict"]
    assert (verdict["code"], verdict["advice"]) == ("no-quorum", "")


def test_what_is_kept_has_no_password(world: World) -> None:
    """The configuration is kept as `qm config` shows it, without cloud-init's password and without snapshots."""
    hash_of_it, path = "$5$not.for.a.log", world.root / f"etc/pve/qemu-server/{VMID}.conf"
    text = f"{path.read_text()}cipassword: {hash_of_it}\n\n[PENDING]\nmemory: 64\n\n[before]\nmemory: 16\n"
    path.write_text(text.replace("[before]", f"[before]\ncipassword: {hash_of_it}"))
    answer = execute(world, "forensics")
    assert hash_of_it not in answer.stdout
    assert "cipassword: **********" in answer.stdout.splitlines()
    assert "memory: 64" in answer.stdout.splitlines()
    assert "memory: 16" not in answer.stdout.splitlines()
    assert kept(world, answer, "evidence.json")["evidence"]["pending"] == ["memory"]


def test_the_cluster_is_read_from_its_files(world: World) -> None:
    """The files have the members, HA's last status and the version, as three of Proxmox's commands would print them."""
    under_ha(world)
    members = {"nodename": "demo", "cluster": {"name": "c", "quorate": 1}, "nodelist": {"demo": {"id": 1, "online": 1}}}
    (world.root / "etc/pve/.members").write_text(json.dumps(members))
    version = world.root / "usr/share/perl5/PVE/pvecfg.pm"
    version.parent.mkdir(parents=True)
    version.write_text("sub version_text {\n    return '9.2.11/abcdef';\n}\n")
    lines = execute(world, "forensics").stdout.splitlines()
    assert {"cluster c, quorate 1", "demo: online"} <= set(lines)
    assert any(line.startswith("lrm of this node: active, mode active, written") for line in lines)
    assert any(line.startswith("pve-manager/9.2.11/abcdef") for line in lines)


def test_a_command_that_talks_too_much_is_cut(world: World) -> None:
    """If one probe prints almost a megabyte, only its end is kept, so that there is room for the others."""
    line = "0123456789" * 4
    install(world, "df", f"i=0; while [ $i -lt 20000 ]; do echo {line}; i=$((i+1)); done; echo the end")
    answer = execute(world, "forensics")
    assert len(answer.stdout) < 300_000
    assert "[cut to the last 65536 characters]" in answer.stdout
    assert "the end" in answer.stdout.splitlines()
    assert "verdict: " in answer.stdout
