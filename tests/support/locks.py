"""Reads the lock files, and copies the checkout."""

import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_PINNED = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>\S+)(?P<rest>.*)")
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def read_pins(lock: str) -> dict[str, str]:
    """Return the version of each name in a lock file. Fail if a line is not a pin with its hashes."""
    text = re.sub(r"^ *#.*\n", "", (ROOT / lock).read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = {}
    for line in text.replace("\\\n", " ").splitlines():
        pinned = _PINNED.fullmatch(line)
        assert pinned, f"not a pin: {line}"
        _, *hashes = pinned["rest"].split(" --hash")
        assert hashes, f"no hash: {line}"
        assert all(_HASH.fullmatch(f"--hash{hash_.rstrip()}") for hash_ in hashes), line
        found[pinned["name"]] = pinned["version"]
    return found


def copy_checkout(place: Path) -> None:
    """Copy the files of this checkout that git knows, or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, place / name)
