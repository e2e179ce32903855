"""The console's picture is bounded while QEMU writes it, whatever the guest draws, and QEMU is not disturbed."""

import base64
import json
import mmap
import os
import select
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from breakglass.agents.pve.forensics.picture import _seal
from breakglass.agents.pve.jobs.archive import FILE_BYTES
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import agent_processes, constants_set, execute, journal_of, processes, set_constants
from ..support.noisy_screen import boot_noise
from ..support.selection import sampled
from ..support.stages import memory, until

pytestmark = [pytest.mark.real("qemu"), pytest.mark.slow]

# Without the limit, each capture would write 183 MiB to /run and keep QEMU's monitor busy all that time.
LARGE = (8000, 8000, 256)
SMALL = (1600, 1200, 16)


@pytest.fixture
def noisy(short_dir: Path) -> Iterator[World]:
    """A host whose VM has not been started yet, for a guest that fills its screen with noise."""
    world = World(short_dir)
    try:
        yield world
    finally:
        world.close()


def boot(world: World, width: int, height: int, vram: int, **constants: object) -> None:
    set_constants(world, SAMPLES_APART=0.3, EVIDENCE_SECONDS=30.0, SCREEN_SECONDS=20.0, **constants)
    boot_noise(world, width, height, vram)


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


def probes(job: Path) -> dict[str, str]:
    return {probe["probe"]: probe["outcome"] for probe in json.loads((job / "manifest.json").read_text())}


@pytest.mark.parametrize(("width", "height", "vram"), sampled([LARGE, SMALL], SMALL))
def test_a_guest_does_not_decide_how_large_the_picture_is(noisy: World, width: int, height: int, vram: int) -> None:
    """QEMU's writing ends at the limit. The capture says so and has everything else, and the VM continues."""
    boot(noisy, width, height, vram, **({} if vram == LARGE[2] else {"RAW_BYTES": 1024 * 1024}))
    pid = noisy.pid
    answer = execute(noisy, "forensics id=large-picture")
    assert (answer.code, answer.trailer["screen"], answer.trailer["state"]) == (0, False, "running")
    assert "MiB, and QEMU had to stop drawing" in answer.stdout
    job = memory(noisy, "jobs/large-picture")
    assert probes(job)["screen"] == "failed"
    assert not (job / "screen.png").exists()
    assert_undisturbed(noisy, pid)
    until((job / "archived").exists, "the copy")
    for place in (job, noisy.root / f"var/lib/breakglass/{VMID}/jobs/large-picture"):
        assert sum(path.stat().st_size for path in place.iterdir()) < FILE_BYTES


@pytest.mark.all
def test_a_large_picture_is_kept_smaller(noisy: World) -> None:
    """Noise takes 5.8 MB as PNG, so every second pixel in each direction is kept. The result can be decoded."""
    boot(noisy, *SMALL)
    answer = execute(noisy, "forensics id=smaller-picture")
    assert answer.trailer["screen"] is True
    assert "1600 x 1200, kept at 1/2 of the size" in answer.stdout
    png = memory(noisy, "jobs/smaller-picture/screen.png").read_bytes()
    assert len(png) <= FILE_BYTES
    width, height = decode(png)
    assert (width, height) == (800, 600)
    assert base64.b64decode(execute(noisy, "job id=smaller-picture").trailer["whole_job"]["screen_png"]) == png


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


@pytest.mark.real("root", "mounts")
def test_a_full_run_does_not_end_the_vm(noisy: World) -> None:
    """There is no room for the picture. If QEMU itself wrote a PNG to a full disk, libpng's abort(3) would end it."""
    boot(noisy, *SMALL)
    pid, place = noisy.pid, noisy.root / "run/breakglass"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], check=True)
    try:
        answer = execute(noisy, "forensics id=no-room-here")
        assert (answer.code, answer.trailer["screen"]) == (0, False)
        assert "No space left on device" in answer.stdout
        assert not memory(noisy, "jobs/no-room-here/screen.png").exists()
        assert_undisturbed(noisy, pid)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


# The job is killed once QEMU has the descriptor, or while QEMU draws into it.
_DIES = """
import json, os
command = find("Qmp").command
def dying(self, name, *words, **arguments):
    if name == "screendump":
        {before}
        os.kill(os.getpid(), 9)
    return command(self, name, *words, **arguments)
find("Qmp").command = dying
"""
_SENT = 'self._socket.sendall(json.dumps({"execute": name, "arguments": arguments}).encode())'


@pytest.mark.all
@pytest.mark.parametrize(
    ("before", "size"), sampled([(_SENT, LARGE), (_SENT, SMALL), ("pass", SMALL)], (_SENT, SMALL)), ids=str
)
def test_a_job_that_is_killed_leaves_qemu_nothing(noisy: World, before: str, size: tuple[int, int, int]) -> None:
    """Its guard ends the writing, makes QEMU close the descriptor, and ends itself."""
    boot(noisy, *size)
    pid = noisy.pid
    set_constants(noisy, _DIES.format(before=before))
    answer = execute(noisy, "forensics id=killed-while-drawing")
    assert answer.trailer["verdict"]["code"] == "job-killed"
    until(lambda: agent_processes(noisy) == [], "the end of the guard")
    assert_undisturbed(noisy, pid)


@pytest.mark.all
def test_the_next_capture_removes_what_an_earlier_one_has_left(noisy: World) -> None:
    """The job and its guard were both killed. Their descriptor is in an fdset whose number is always the same."""
    boot(noisy, *SMALL)
    pid = noisy.pid
    with constants_set(noisy, f"{_DIES.format(before=_SENT)}\nreplace(_guard=lambda *_: None)"):
        execute(noisy, "forensics id=both-were-killed")
    until(lambda: pictures_in_qemu(noisy), "a descriptor that is left")
    assert execute(noisy, "forensics id=the-next-capture").trailer["screen"] is True
    assert_undisturbed(noisy, pid)


@pytest.mark.all
def test_a_monitor_without_descriptors_gives_no_picture(short_dir: Path) -> None:
    """There is no other way to get the picture, so the capture has QEMU's error."""
    world = World(short_dir, qemu="")
    try:
        world.begin()
        answer = execute(world, "forensics")
        assert (answer.code, answer.trailer["screen"]) == (0, False)
        assert "The command add-fd has not been found" in answer.stdout
    finally:
        world.close()


@pytest.mark.all
@pytest.mark.parametrize("name", sampled(["screen.png", "output", "result.json"], "screen.png"))
def test_no_file_of_a_job_is_copied_or_shown_beyond_its_bound(world: World, name: str) -> None:
    """The previous host agent could leave a picture of 183 MiB, which `history` turned into 244 MiB of base64."""
    job = execute(world, "forensics id=left-by-another").trailer["job"]
    until(memory(world, "jobs", job, "archived").exists, "the copy")
    until(lambda: not processes(world, job), "the end of the archiving")
    archived = world.root / f"var/lib/breakglass/{VMID}/jobs" / job
    (archived / name).unlink(missing_ok=True)
    memory(world, "jobs", job, "archived").unlink()
    with memory(world, "jobs", job, name).open("ab") as file:
        file.truncate(FILE_BYTES + 1)
    shown = execute(world, f"job id={job}").trailer["whole_job"]
    assert {"screen.png": shown["screen_png"], "output": shown["output"] or None}.get(name) is None
    with journal_of(world) as journal:
        other = execute(world, "reset").trailer["job"]
        until(memory(world, "jobs", other, "archived").exists, "the next copies")
        until(lambda: not processes(world, other), "the end of the archiving")
        lines = []
        while select.select([journal], [], [], 0)[0]:
            lines.append(journal.recv(65536).decode())
    assert not (archived / name).exists()
    if name != "result.json":  # without a readable result it is not finished
        assert [line for line in lines if f"{name} of job {job} has more than {FILE_BYTES} bytes" in line]


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
