"""VERIFY.md: each claim's command prints what the document says that it prints."""

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..support.documents import ROOT, commands
from ..support.signals import signal_group
from ..support.stages import until

BIN = Path(sys.executable).parent


@contextmanager
def demo(place: Path, start: str) -> Iterator[None]:
    """Run the document's demo in a directory from which `./dev` and `.venv` lead to this checkout's."""
    (place / "dev").write_text(f'#!/bin/sh\nexec {shlex.quote(str(BIN / "breakglass"))} "$@"\n')
    (place / "dev").chmod(0o755)
    (place / ".venv").symlink_to(BIN.parent)
    (place / "static_site").symlink_to(ROOT / "static_site")
    log = place / "demo.log"
    running = subprocess.Popen(
        ["bash", "-c", start], cwd=place, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    try:
        until(lambda: log.exists() and "Ctrl-C ends" in log.read_text(), "a demo that has said how to reach it", 120)
        yield
    finally:
        signal_group(running.pid, signal.SIGINT)
        running.wait(60)


@pytest.mark.all
@pytest.mark.slow
@pytest.mark.real("curl")
def test_the_claims_about_the_demo_hold(tmp_path: Path) -> None:
    """A person who pastes one block after the other sees what stands above each."""
    [start, first] = commands("VERIFY.md", "Verify")
    [dead] = commands("VERIFY.md", "1. It knows that a guest is dead, and why")
    [once] = commands("VERIFY.md", "2. A verb acts once per id, however often it is sent")
    [refused] = commands("VERIFY.md", "4. Every request that isn't signed by a known caller gets the same 401")
    [without] = commands("VERIFY.md", "6. The power verbs work without claude")
    [page] = commands("VERIFY.md", "7. The page sends nothing to anyone else")
    [log] = commands("VERIFY.md", "8. No key is in the log")
    with demo(tmp_path, start):

        def lines(block: str) -> list[str]:
            argv = ["bash", "-c", first + block]
            ran = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120)
            assert ran.returncode == 0, ran.stdout + ran.stderr
            return ran.stdout.splitlines()

        panicked, last_words = lines(dead)
        assert panicked == "the guest's kernel panicked"
        assert "Kernel panic" in last_words
        assert lines(once) == ["1", '"attached": true']
        [digests] = lines(refused)
        assert digests.split()[0] == "5"
        chat, *_, outcome = lines(without)
        assert (chat, "running (cycle done" in outcome) == ('"chat":"none"', True), outcome
        assert lines(page) == ["default-src 'none'", "connect-src 'self'", "0"]
        requests, with_the_key = lines(log)
        assert int(requests) > 10
        assert with_the_key == "0"


def test_the_tests_that_the_document_names_are_there() -> None:
    """Each `./dev test …` finds a test. They pass where they stand, because they are part of a whole run."""
    [lost] = commands("VERIFY.md", '3. A lost answer is never reported as "nothing happened"')
    [read_only] = commands("VERIFY.md", "5. A read-only key can't change power")
    [short] = commands("VERIFY.md", "9. The path to power has fewer than 4,702 lines")
    [network] = commands("VERIFY.md", "10. claude's commands can't reach the network")
    [full] = commands("VERIFY.md", "11. A full disk doesn't stop a reset")
    [twice] = commands("VERIFY.md", "12. An alert that is sent twice becomes one message")
    for line in (lost, read_only, short, network, full, twice):
        dev, test, file, option, name = line.split()
        assert (dev, test, option) == ("./dev", "test", "-k")
        assert re.search(rf"^def test_\w*{name}", (ROOT / file).read_text("utf-8"), re.MULTILINE), line
