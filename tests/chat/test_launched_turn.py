"""What the launcher does as root with files, while the handler's user moves those that it can move."""

import subprocess
from pathlib import Path

import pytest

from breakglass.claude.sandbox import PYTHON
from breakglass.claude.start import give_away

from ..support.claude import UIDS

pytestmark = [pytest.mark.real("root"), pytest.mark.slow]

UID = UIDS[0]


RENAMER = """
import os, sys
work, elsewhere = sys.argv[1:]
print(flush=True)
while os.path.exists(work):
    try:
        os.rename(f"{work}/ssh", f"{work}/away")
        os.symlink(elsewhere, f"{work}/ssh")
        break
    except OSError:
        continue
"""


def test_who_gets_a_directory_redirects_nothing(short_dir: Path) -> None:
    """The new owner puts a link in the place of one inside at once: root has given away no file behind it."""
    short_dir.chmod(0o711)
    work, elsewhere = short_dir / "work", short_dir / "elsewhere"
    for place in (work / "ssh", elsewhere):
        place.mkdir(parents=True)
        for number in range(300):
            (place / str(number)).touch()
    command = [PYTHON, "-c", RENAMER, str(work), str(elsewhere)]
    renamer = subprocess.Popen(command, user=UID, group=UID, extra_groups=(), stdout=subprocess.PIPE)
    with renamer:
        assert renamer.stdout is not None
        renamer.stdout.readline()
        give_away(work, (UID, UID))
        renamer.wait(60)
    assert (work / "ssh").is_symlink()
    assert {path.stat().st_uid for path in elsewhere.iterdir()} == {0}
    assert {path.stat().st_uid for path in (work / "away").iterdir()} == {UID}
