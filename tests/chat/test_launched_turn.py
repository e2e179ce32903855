"""What the launcher does as root with files, while the handler's user moves those that it can move."""

import os
import pwd
import subprocess
import sys
import types
from pathlib import Path

import pytest

from breakglass.claude.launched_turn import find_changeable, find_writable
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


def test_what_another_user_can_change_on_the_way_is_found(short_dir: Path) -> None:
    """Each directory counts, also those that links lead through, each link, and the file, a pipe as well."""
    short_dir.chmod(0o755)
    for name in ("ours", "theirs", "shared", "sticky"):
        (short_dir / name).mkdir()
        (short_dir / name / "file").touch(0o644)
    os.chown(short_dir / "theirs", UID, UID)
    (short_dir / "shared").chmod(0o777)
    (short_dir / "sticky").chmod(0o1777)
    os.mkfifo(short_dir / "ours/pipe", 0o600)
    os.chown(short_dir / "ours/pipe", UID, UID)
    for path, target in (
        ("ours/link", "../sticky/../ours/file"),
        ("ours/there", "../theirs"),
        ("ours/and-back", f"{short_dir}/theirs/back/file"),
        ("theirs/back", "../ours"),
        ("sticky/link", "../ours/file"),
        ("sticky/foreign", "../ours/file"),
        ("ours/dangling", "../sticky/missing"),
    ):
        (short_dir / path).symlink_to(target)
    os.chown(short_dir / "sticky/foreign", UID, UID, follow_symlinks=False)
    (short_dir / "sticky/own").touch()
    os.chown(short_dir / "sticky/own", UID, UID)
    for path in ("ours/file", "ours/link", "sticky/file", "sticky/link", "ours/missing/file", "ours/dangling"):
        assert find_writable(short_dir / path) is None, path
    for path, found in (
        ("theirs/file", "theirs"),
        ("ours/there/file", "theirs"),
        ("ours/and-back", "theirs"),
        ("theirs/../ours/file", "theirs"),
        ("shared/file", "shared"),
        ("sticky/foreign", "sticky/foreign"),
        ("sticky/own", "sticky/own"),
        ("ours/pipe", "ours/pipe"),
    ):
        assert find_writable(short_dir / path) in {short_dir / found, short_dir / "ours/.." / found}, path


def test_links_in_a_circle_are_an_error(short_dir: Path) -> None:
    """As for the kernel."""
    (short_dir / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="too many links"):
        find_writable(short_dir / "circle")


def test_a_program_that_the_handlers_user_can_change_is_found(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its owner, its group or every user, the file or a directory above it: root would run what that user wrote."""
    daemon = pwd.getpwuid(1)
    account = (daemon.pw_uid, daemon.pw_gid)
    assert find_changeable(account) is None
    short_dir.chmod(0o755)
    file = short_dir / "package/module.py"
    file.parent.mkdir(0o755)
    file.touch(0o644)
    module = types.ModuleType("module")
    module.__file__ = str(file)
    monkeypatch.setitem(sys.modules, "module", module)
    assert find_changeable(account) is None
    for path, owner, mode in ((file, account, 0o644), (file, (0, 0), 0o666), (file.parent, (0, account[1]), 0o775)):
        before = path.stat().st_mode
        os.chown(path, *owner)
        path.chmod(mode)
        assert find_changeable(account) == path
        os.chown(path, 0, 0)
        path.chmod(before)
    assert find_changeable(account) is None
