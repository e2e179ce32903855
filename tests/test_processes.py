"""Claude's process, apart from what is said in it: who it is, and that it comes to be whoever the handler is."""

import subprocess
import sys
from pathlib import Path

import pytest

from handler.processes import MEMORY_SCORE

ROOT = str(Path(__file__).parent.parent)
# what was imported stays; then the user changes, and like a runner it is not dumpable
_START = """
import os, sys
sys.path.insert(0, sys.argv[1])
from handler.processes import PR_SET_DUMPABLE, prctl, start
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
prctl(PR_SET_DUMPABLE, 0)
null = os.open("/dev/null", os.O_RDWR)
print(start(["/bin/sleep", "60"], {}, "/", (None, None), (null, null, null)), flush=True)
sys.stdin.read()
"""


@pytest.mark.real("root")
def test_a_handler_without_root_starts_claude_as_well() -> None:
    """It may not write to the files that /proc has of its own; claude goes first all the same when memory runs out."""
    with subprocess.Popen(
        [sys.executable, "-I", "-c", _START, ROOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as ours:
        assert ours.stdin is not None
        assert ours.stdout is not None
        pid = int(ours.stdout.readline())
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == str(MEMORY_SCORE)
        assert Path(f"/proc/{pid}").stat().st_uid == 65534
        ours.stdin.close()
