"""The console's picture is bounded while QEMU writes it, whatever the guest draws, and QEMU is not disturbed."""

import base64
import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from breakglass.agents.pve.forensics.picture import _seal
from breakglass.agents.pve.jobs.archive import FILE_BYTES
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import agent_processes, constants_set, execute, journal_of, received, set_constants
from ..support.full import small_disk
from ..support.noisy_screen import boot_noise
from ..support.stages import await_agents, memory, until

pytestmark = [pytest.mark.real("qemu"), pytest.mark.slow]


@pytest.fixture
def noisy(short_dir: Path) -> Iterator[World]:
    """A host whose guest has filled its screen with noise."""
    with closing(World(short_dir)) as world:
        set_constants(world, SAMPLES_APART=0.3, EVIDENCE_SECONDS=30.0, SCREEN_SECONDS=20.0)
        boot_noise(world, 1600, 1200, 16)
        yield world


def pictures_in_qemu(world: World) -> list[str]:
    """Return our descriptors that QEMU still has."""
    links = []
    for path in Path(f"/proc/{world.pid}/fd").iterdir():
        try:
            links.append(os.readlink(path))
        except FileNotFoundError:
            continue
    return [link for link in links if "breakglass-picture" in link]


def assert_undisturbed(world: World, pid: int | None) -> None:
    """Check that the same QEMU runs, answers, and keeps no descriptor of ours."""
    assert pid is not None
    assert world.pid == pid
    assert world.monitor("query-status") == {"running": True, "status": "running"}
    assert (pictures_in_qemu(world), world.monitor("query-fdsets")) == ([], [])


def assert_no_picture(world: World, job_id: str, says: str) -> None:
    """Take evidence. Check that it has no picture and everything else, and that QEMU is undisturbed."""
    pid = world.pid
    answer = execute(world, f"forensics id={job_id}")
    assert (answer.code, answer.trailer["screen"], answer.trailer["state"]) == (0, False, "running")
    assert says in answer.stdout
    job = memory(world, f"jobs/{job_id}")
    probes = {probe["probe"]: probe["outcome"] for probe in json.loads((job / "manifest.json").read_text())}
    assert (probes["screen"], (job / "screen.png").exists()) == ("failed", False)
    assert_undisturbed(world, pid)


@pytest.mark.all
@pytest.mark.real("root", "mounts")
def test_a_guest_does_not_decide_how_large_the_picture_is(noisy: World) -> None:
    """QEMU's writing ends at the limit, and noise is kept at half its size, because it takes 5.8 MB as PNG.

    If QEMU itself wrote a PNG to a full disk, libpng's abort(3) would end it.
    """
    assert execute(noisy, "forensics id=smaller-picture").trailer["screen"] is True
    png = memory(noisy, "jobs/smaller-picture/screen.png").read_bytes()
    assert (len(png) <= FILE_BYTES, decode(png)) == (True, (800, 600))
    assert base64.b64decode(execute(noisy, "job id=smaller-picture").trailer["whole_job"]["screen_png"]) == png
    with constants_set(noisy, RAW_BYTES=1024 * 1024):
        assert_no_picture(noisy, "large-picture", "QEMU had to stop")
    await_agents(noisy)
    with small_disk(noisy.root / "run/breakglass"):
        assert_no_picture(noisy, "no-room-here", "No space left on device")
        await_agents(noisy)


def decode(png: bytes) -> tuple[int, int]:
    """Return the size of a PNG with 8 bits a colour. Fail unless its data is complete, as libpng does."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = {}, 8
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at : at + 8])
        chunks[kind] = data = png[at + 8 : at + 8 + size]
        assert struct.pack(">I", zlib.crc32(kind + data)) == png[at + 8 + size : at + 12 + size]
        at += 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, bits, colours = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (bits, colours) == (8, 2)
    pixels = zlib.decompress(chunks[b"IDAT"])
    assert len(pixels) == height * (1 + 3 * width)
    assert {pixels[y * (1 + 3 * width)] for y in range(height)} == {0}  # each line is stored as it is
    return width, height


# The job is killed while QEMU draws into the descriptor.
_DIES = """
import json, os
command = find("Qmp").command
def dying(self, name, *words, **arguments):
    if name == "screendump":
        self._socket.sendall(json.dumps({"execute": name, "arguments": arguments}).encode())
        os.kill(os.getpid(), 9)
    return command(self, name, *words, **arguments)
find("Qmp").command = dying
"""


@pytest.mark.all
def test_a_job_that_is_killed_leaves_qemu_nothing(noisy: World) -> None:
    """Its guard ends the writing, makes QEMU close the descriptor, and ends itself."""
    pid = noisy.pid
    set_constants(noisy, _DIES)
    answer = execute(noisy, "forensics id=killed-while-drawing")
    assert answer.trailer["verdict"]["code"] == "job-killed"
    until(lambda: agent_processes(noisy) == [], "the end of the guard")
    assert_undisturbed(noisy, pid)
    # if the guard is killed too, the next capture removes what is left, because the fdset's number is always the same
    with constants_set(noisy, "replace(_guard=lambda *_: None)"):
        execute(noisy, "forensics id=both-were-killed")
    set_constants(noisy, 'find("Qmp").command = command')
    until(lambda: pictures_in_qemu(noisy), "a descriptor that is left")
    assert execute(noisy, "forensics id=the-next-capture").trailer["screen"] is True
    assert_undisturbed(noisy, pid)


def test_a_mapping_does_not_lift_the_limit() -> None:
    """A QEMU that was taken over can map the memory to keep it writable, but can't make it larger."""
    picture = os.memfd_create("picture", os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(picture, mmap.PAGESIZE)
        with mmap.mmap(picture, mmap.PAGESIZE):
            _seal(picture)
            with pytest.raises(PermissionError):
                os.ftruncate(picture, 2 * mmap.PAGESIZE)
    finally:
        os.close(picture)


@pytest.mark.all
def test_no_file_of_a_job_is_copied_or_shown_beyond_its_bound(world: World) -> None:
    """The previous host agent could leave a picture of 183 MiB, which `history` turned into 244 MiB of base64."""
    job = execute(world, "forensics id=left-by-another").trailer["job"]
    until(memory(world, "jobs", job, "archived").exists, "the copy")
    await_agents(world)
    archived = world.root / f"var/lib/breakglass/{VMID}/jobs" / job
    memory(world, "jobs", job, "archived").unlink()
    names = ("screen.png", "output")
    for name in names:
        (archived / name).unlink(missing_ok=True)
        with memory(world, "jobs", job, name).open("ab") as file:
            file.truncate(FILE_BYTES + 1)
    shown = execute(world, f"job id={job}").trailer["whole_job"]
    assert (shown["screen_png"], shown["output"]) == (None, "")
    with journal_of(world) as journal:
        execute(world, "reset")
        await_agents(world)
        lines = received(journal)
    for name in names:
        assert not (archived / name).exists()
        assert [line for line in lines if f"{name} of job {job} has more than {FILE_BYTES} bytes" in line]
