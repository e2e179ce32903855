"""The chain of jobs: the real agent's lines, cut and missing lines, and all tampering that it must reveal."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from breakglass.agents.pve.host.cluster import node_name
from breakglass.agents.pve.host.paths import Host
from breakglass.agents.pve.jobs import chain_file
from breakglass.agents.pve.jobs.chain_file import NO_HASH, link_hash, make_link
from breakglass.agents.pve.jobs.verify import verify_chain
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import Session, execute, processes, set_constants
from ..support.chain import chain_files, read_links
from ..support.full import small_disk
from ..support.hung import unserved_fuse
from ..support.rows import each_row
from ..support.stages import await_agents, lose_run, memory, until

pytestmark = pytest.mark.real("qemu")

NODE, BOOT = node_name(), "this-boot"
Lines = list[bytes]
Change = Callable[[Lines], Lines]


def is_copied(world: World) -> bool:
    run, archive = chain_files(world)
    return archive.exists() and archive.read_bytes().endswith(run.read_bytes().splitlines(keepends=True)[-1])


def chain_of(world: World) -> dict[str, Any]:
    """Return the report of `history` about the chain."""
    found: dict[str, Any] = execute(world, "history").trailer["chain"]
    return found


# --- its lines ---


def test_a_job_that_acts_leaves_two_lines(world: World) -> None:
    """Each line has the SHA-256 of the one before, and answers have the head. Refused or reading requests add none.

    `history` and `check` verify them.
    """
    first, second = (execute(world, f"reset id=chained-{n} by=operator").trailer["chain"] for n in (1, 2))
    refused = execute(world, "start id=chained-3 last=none").trailer
    assert (refused["outcome"], "chain" in refused) == ("refused", False)
    execute(world, "forensics")
    run, archive = chain_files(world)
    lines, links = run.read_bytes().splitlines(), read_links(run)
    hashes = [link_hash(line) for line in lines]
    assert [link["prev"] for link in links] == ["0" * 64, *hashes[:-1]]
    assert [(link["n"], link["vm"], link["node"]) for link in links] == [(n, VMID, NODE) for n in range(1, 6)]
    acts = [("begins", "chained-1"), ("ends", "chained-1"), ("begins", "chained-2"), ("ends", "chained-2")]
    assert [(link["event"], link["job"]) for link in links[1:]] == acts
    assert {(link["verb"], link["by"]) for link in links[1:]} == {("reset", "operator")}
    assert [links[2][name] for name in ("outcome", "exit_code", "state", "code")] == ["done", 0, "running", None]
    assert [(at["node"], at["n"], at["head"]) for at in (first, second)] == [(NODE, 3, hashes[2]), (NODE, 5, hashes[4])]
    until(lambda: is_copied(world), "the copy")
    assert archive.read_bytes() == run.read_bytes()
    found = execute(world, "history")
    sound = {"node": NODE, "n": 5, "head": hashes[4], "broken": "", "notes": [], "since": 1}
    assert found.trailer["chain"] == sound | {"hashes": [each[:16] for each in hashes]}
    assert f"verifies: line 5, head {hashes[4]}" in found.stdout
    assert checked(world).startswith("ok: ")
    run.write_bytes(joined(edited(4, by="x")(lines)))
    broken = execute(world, "history").trailer
    assert broken["chain"]["broken"].startswith("line 4 ")
    assert any("is broken" in warning for warning in broken["warnings"])
    assert checked(world).startswith(f"warning: VM {VMID}: ")


def checked(world: World) -> str:
    """Return the finding of `check` about the chain."""
    agent = world.forced_command()
    command = [*agent[: agent.index("serve")], "check", "--root", str(world.root)]
    ran = subprocess.run(command, env=world.environment, capture_output=True, text=True)
    [line] = [line for line in ran.stdout.splitlines() if "chain of jobs" in line]
    return line


# --- tampering ---


def keep(lines: Lines) -> Lines:
    return lines


def edited(number: int, **changes: object) -> Change:
    """Change fields of a line."""

    def change(lines: Lines) -> Lines:
        line = json.dumps(json.loads(lines[number - 1]) | changes, separators=(",", ":")).encode()
        return [*lines[: number - 1], line, *lines[number:]]

    return change


def rehashed(number: int, **changes: object) -> Change:
    """Change fields of a line, and write its new hash into the next line."""

    def change(lines: Lines) -> Lines:
        lines = edited(number, **changes)(lines)
        return edited(number + 1, prev=link_hash(lines[number - 1]))(lines)

    return change


def links(vm: int = VMID, node: str = NODE) -> Lines:
    """Return an intact chain of four jobs."""
    made: Lines = []
    acts = [{"job": f"job-{job}", "verb": "reset", "event": event} for job in range(4) for event in ("begins", "ends")]
    for number, fields in enumerate([{"event": "starts", "why": "first", "boot": BOOT}, *acts], 1):
        prev = link_hash(made[-1]) if made else NO_HASH
        made.append(make_link(Host(vm), node, number, prev, dict(fields)))
    return made


def inserted(lines: Lines) -> Lines:
    """Forge a line that fits behind the one before it."""
    line = make_link(Host(VMID), NODE, 5, link_hash(lines[3]), {"job": "forged-1", "verb": "reset", "event": "begins"})
    return [*lines[:4], line, *lines[4:]]


def joined(lines: Lines) -> bytes:
    return b"".join(line + b"\n" for line in lines)


BY_THE_HEAD = ""  # the chain is intact, so only a head that was kept elsewhere reveals it
# A change to /run's file, whether the archive's copy has it too or instead, and the words that report it.
TAMPERED: list[tuple[Change, str, str]] = [
    (lambda lines: lines[1:], "both", "lines before 2"),
    (lambda lines: lines[:4] + lines[5:], "both", "line 6 follows line 4"),
    (lambda lines: lines[:-1], "both", BY_THE_HEAD),
    (lambda lines: lines[:-1], "run", "ends with line 8"),
    (edited(4, by="operator2"), "both", "line 5 does"),
    (lambda lines: [*lines[:3], b"x" * 300, *lines[4:]], "both", "line after 3"),
    (inserted, "both", "line 5 follows line 5"),
    (lambda lines: links(vm=103), "both", "line 1 is of VM 103"),
    (rehashed(4, by="operator2"), "both", "line 6 does"),
    (rehashed(8, by="operator2"), "run", "line 8 is"),
    (edited(9, state="stopped"), "archive", "line 9 is"),
    (lambda lines: [], "run", "is gone"),
    (lambda lines: [*lines, *links()[:3]], "both", "starts after line 9"),
]


@each_row(("change", "where", "found"), TAMPERED)
def test_each_tampering_is_found(change: Change, where: str, found: str) -> None:
    """The report says at which line the chain is broken. A hash that was cut from its end is missing."""
    sound = links()
    run, archive = (joined(change(sound) if where in (name, "both") else sound) for name in ("run", "archive"))
    state = verify_chain(run, archive, VMID, NODE, BOOT)
    assert found in state.broken
    assert bool(state.broken) == bool(found)
    assert found or link_hash(sound[-1])[:16] not in state.hashes
    assert verify_chain(joined(sound), joined(sound), VMID, NODE, BOOT).broken == ""


def test_no_byte_can_be_changed() -> None:
    """If any bit is flipped in both files, the chain is broken or has another head."""
    sound = joined(links())
    for place in range(len(sound)):
        changed = sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :]
        state = verify_chain(changed, changed, VMID, NODE, "")
        assert state.broken or state.head != link_hash(links()[-1]), place


# --- a reboot, and an archive that is silent or full ---


def reboot(world: World, job_id: str, name: str) -> None:
    """Lose /run, as a boot does, after a job was archived."""
    until(lambda: is_copied(world), "the copy")
    until(lambda: not processes(world, job_id), "the end of the archiving")
    lose_run(world)
    set_constants(world, f"replace(boot_id=lambda: {name!r})")


@pytest.mark.all
def test_a_chain_goes_on_after_a_reboot(world: World) -> None:
    """The first line in /run has the hash of the archive's last one, and says that the host has booted."""
    execute(world, "reset id=job-before-1")
    reboot(world, "job-before-1", "the-second-boot")
    assert chain_of(world)["broken"] == ""
    execute(world, "reset id=job-after-1")
    run, archive = chain_files(world)
    assert [(link["n"], link["event"]) for link in read_links(run)] == [(4, "boots"), (5, "begins"), (6, "ends")]
    assert read_links(run)[0]["prev"] == link_hash(archive.read_bytes().splitlines()[2])
    until(lambda: is_copied(world), "the copy")
    found = chain_of(world)
    assert (found["n"], found["broken"], found["notes"], len(found["hashes"])) == (6, "", [], 6)
    await_agents(world)
    run.unlink()  # the host has not booted since
    assert "/run's file is gone" in chain_of(world)["broken"]
    execute(world, "reset id=job-after-2")
    assert "before line 7" in chain_of(world)["notes"][0]


@pytest.mark.all
def test_a_chain_that_cannot_be_written_stops_no_verb(world: World) -> None:
    """The answer then has no head, and says why. The job is still copied to the archive."""
    run, archive = chain_files(world)
    for path in (run, archive):
        path.mkdir(parents=True)
    answer = execute(world, "reset id=unwritten-1").trailer
    assert (answer["outcome"], answer["chain"]) == ("done", None)
    assert [event for event in ('"begins"', '"ends"') if event not in "".join(answer["warnings"])] == []
    assert chain_of(world)["broken"].endswith("Is a directory")
    until((archive.parent / "jobs/unwritten-1/result.json").exists, "the copy")


# --- lines that are cut off, and lines that are missing ---


@pytest.mark.all
def test_a_long_chain_is_cut(world: World) -> None:
    """/run keeps the newest half after a line that says so. The archive has the rest, up to its own bound."""
    set_constants(world, RUN_BYTES=2000)
    with Session(world) as session:
        for number in range(8):
            session.ask(f"reset id=job-many-{number}")
            until(lambda: is_copied(world), "the copy")
        run, archive = chain_files(world)
        assert run.stat().st_size < 2700
        first = read_links(run)[0]
        assert (first["event"], first["n"]) == ("cut", read_links(run)[1]["n"] - 1)
        assert first["prev"] == link_hash(archive.read_bytes().splitlines()[first["n"] - 1])
        found = session.ask("history")["chain"]
        assert (found["n"], found["broken"], found["since"], len(found["hashes"])) == (17, "", 1, 17)
    set_constants(world, ARCHIVE_BYTES=3000)
    execute(world, "reset id=job-many-8")
    until(lambda: is_copied(world) and read_links(archive)[0]["event"] == "cut", "the cut")
    found = chain_of(world)
    assert (found["n"], found["broken"], found["since"]) == (19, "", read_links(archive)[0]["n"] + 1)


@pytest.mark.all
def test_half_a_line_is_named_and_replaced(world: World) -> None:
    """After an interrupted write, the next line follows the last whole one, and says what it replaced."""
    execute(world, "reset id=job-whole-1")
    await_agents(world)  # while the job has the VM's lock, half a line counts as one that is being written
    run, _ = chain_files(world)
    with run.open("a") as file:
        file.write('{"n":4,"prev":"')
    assert "line 4 of /run's" in chain_of(world)["broken"]
    execute(world, "reset id=job-whole-2")
    assert read_links(run)[3]["torn"] == '{"n":4,"prev":"'
    found = chain_of(world)
    assert (found["broken"], ["before line 4" in note for note in found["notes"]]) == ("", [True])


@pytest.mark.all
@pytest.mark.slow
@pytest.mark.real("fuse", "root")
def test_an_archive_that_hangs_stops_no_verb(world: World) -> None:
    """After a boot, the chain starts again and says why. When the archive answers again, it has both parts."""
    execute(world, "reset id=job-before-1")
    reboot(world, "job-before-1", "the-second-boot")
    with unserved_fuse(world.root / "var/lib"):
        answer = execute(world, "reset id=in-silence-1").trailer
        assert (answer["outcome"], answer["chain"]["n"], answer["seconds"] < 20) == ("done", 3, True)
        first = read_links(chain_files(world)[0])[0]
        assert (first["n"], first["event"], first["why"]) == (1, "starts", "archive-silent")
        found = chain_of(world)
        assert (found["broken"], found["since"]) == ("", None)
        assert any("did not answer" in note for note in found["notes"])
    memory(world, "archive.json").unlink()
    execute(world, "reset id=answers-again-1")
    until(lambda: is_copied(world), "the copy")
    found = chain_of(world)
    assert (found["broken"], len(found["hashes"])) == ("", 3 + 5)
    assert [note.endswith("line 3: archive-silent") for note in found["notes"]] == [True]


@pytest.mark.slow
@pytest.mark.real("mounts", "root")
def test_a_full_disk_gets_whole_lines_or_none(tmp_path: Path) -> None:
    """A line that does not fit is removed, so that the next line follows a whole one."""
    with small_disk(tmp_path, "8k"):
        fd = chain_file.open_chain(str(tmp_path / "chain"))
        chain_file.append_links(fd, chain_file.ChainEnd(), [b"x" * 3000])
        end = chain_file.read_end(fd)
        with pytest.raises(OSError, match="No space left"):
            chain_file.append_links(fd, end, [b"y" * 6000])
        assert (tmp_path / "chain").read_bytes() == b"x" * 3000 + b"\n"
        chain_file.append_links(fd, chain_file.read_end(fd), [b"z" * 900])
