"""The lock of a VM, and the room that /run keeps for power verbs."""

import os
from pathlib import Path

from breakglass.agents.pve.host.paths import Host
from breakglass.agents.pve.jobs.mutex import PART_BYTES, RESERVE_BYTES, Lock, fill_reserve, free_part, is_short


def test_a_lock_names_its_holder_until_that_process_ends(tmp_path: Path) -> None:
    """The holder is another process, as the kernel says. What a dead one has written in the file does not count."""
    host = Host(102, str(tmp_path))
    Path(host.run_dir).mkdir(parents=True)
    lock = Lock(host, "lock")
    assert lock.holder() is None
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            taken = Lock(host, "lock").take("msg_12345678")
            os.write(ready[1], b"y" if taken else b"n")
            os.close(go[1])
            os.read(go[0], 1)
        finally:
            os._exit(0)
    os.close(go[0])
    assert os.read(ready[0], 1) == b"y"
    assert (lock.holder(), lock.take("msg_other678")) == ("msg_12345678", False)
    os.close(go[1])
    os.waitpid(child, 0)
    assert lock.holder() is None
    assert lock.take("msg_other678")
    lock.release()
    for fd in ready:
        os.close(fd)


def test_the_reserve_gives_a_part_at_a_time(tmp_path: Path) -> None:
    """A part is 64 KiB and 32 files of the 1 MiB and 512 files that docs/internals.md names."""
    place = tmp_path / "run/breakglass"
    place.mkdir(parents=True)
    fill_reserve(str(tmp_path))
    assert (RESERVE_BYTES, PART_BYTES) == (2**20, 2**16)
    assert ((place / "reserve").stat().st_size, len(list((place / "inodes").iterdir()))) == (2**20, 512)
    free_part(str(tmp_path))
    assert ((place / "reserve").stat().st_size, len(list((place / "inodes").iterdir()))) == (2**20 - 2**16, 480)
    fill_reserve(str(tmp_path))
    assert ((place / "reserve").stat().st_size, len(list((place / "inodes").iterdir()))) == (2**20, 512)
    assert not is_short(str(tmp_path))
