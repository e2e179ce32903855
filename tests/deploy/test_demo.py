"""`breakglass demo`: the three ways that it prints work, and Ctrl-C leaves nothing running."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..support.documents import commands
from ..support.stages import until

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.slow  # each starts the demo


PATIENT = "from breakglass.demo import leftovers; leftovers.SECONDS = 60.0"  # for processes to end on a busy machine


class Demo:
    """A running demo and what it printed."""

    def __init__(self, *options: str, program: str = "", before: str = "", **environment: str) -> None:
        """Start it, after the Python code `before`; return once it has said how to reach it."""
        launcher = f"{before}\nimport sys; sys.argv[0] = sys.argv.pop(1)\n"
        launcher += "from breakglass.cli.main import main; sys.exit(main())"
        breakglass = str(Path(sys.executable).with_name("breakglass"))
        own = [sys.executable, "-P", "-c", launcher, breakglass, "demo", *options]
        argv = ["bash", "-c", program] if program else own
        self.process = subprocess.Popen(argv, env=os.environ | environment, stdout=subprocess.PIPE, cwd=ROOT)
        self.text = self.until("Ctrl-C ends everything")

    def until(self, words: str, seconds: float = 120) -> str:
        assert self.process.stdout is not None
        text, until = "", time.monotonic() + seconds
        while words not in text:
            assert select.select([self.process.stdout], [], [], until - time.monotonic())[0], text
            chunk = os.read(self.process.stdout.fileno(), 65536)
            assert chunk, text
            text += chunk.decode()
        return text

    def line(self, name: str) -> str:
        """Return the command that the demo printed under a name."""
        return next(line for line in self.text.splitlines() if line.startswith(f"  {name} ")).split(None, 1)[1]

    @property
    def directory(self) -> str:
        found = re.search(r"SECRET_FILE=(\S+)/secret", self.text)
        assert found
        return found[1]

    def children_with(self, words: bytes) -> list[str]:
        """Return the processes of the demo that have these words in their environment."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [pid for pid in children if words in Path(f"/proc/{pid}/environ").read_bytes()]

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        code = self.process.wait(60)
        assert self.process.stdout is not None
        with self.process.stdout as output:
            self.last = output.read().decode()
        return code


def naming(directory: str) -> list[str]:
    """Return the live processes whose command line names a directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if directory in words:
            found.append(words)
    return found


@pytest.mark.all
@pytest.mark.real("claude")
def test_the_demos_claude_finds_a_verdict_and_proposes_a_verb() -> None:
    """The real claude runs the real commands; the proposal acts once it is approved, and then it looks again.

    The demo is started as the README says. Neither it nor claude uses the shell's credential, unless that is wanted.
    """
    [start] = commands("README.md", "Try it")
    demo = Demo(program=f"exec {start}", ANTHROPIC_API_KEY="mine", CLAUDE_CODE_SUBAGENT_MODEL="mine too")
    try:
        assert "your credential" not in demo.text
        assert Path(demo.directory, "credential").read_text() != "ANTHROPIC_API_KEY=mine\n"
        assert not demo.children_with(b"=mine")
        environment = {**os.environ, "XDG_STATE_HOME": demo.directory}
        command, lines = ["bash", "-c", demo.line("chat")], "it hangs\ny\nwell?\n"
        ran = subprocess.run(command, input=lines, env=environment, capture_output=True, text=True, timeout=180)
        for words in (
            "pve status",
            "pve forensics",
            "claude proposes reset on devvm: The guest hangs while QEMU and its disks work, so a reset is enough.",
            "devvm: running (reset done, id ",
            "is `running` now",
        ):
            assert words in ran.stdout, ran.stdout + ran.stderr
    finally:
        demo.end(signal.SIGTERM)


@pytest.mark.all
@pytest.mark.real("claude")
def test_a_credential_goes_to_claude_alone() -> None:
    """With --real-model, no other process has the shell's credential."""
    demo = Demo("--real-model", ANTHROPIC_API_KEY="mine", CLAUDE_CODE_SUBAGENT_MODEL="mine too")
    try:
        assert "your credential" in demo.text
        assert Path(demo.directory, "credential").read_text() == "ANTHROPIC_API_KEY=mine\n"
        assert not demo.children_with(b"=mine")
    finally:
        demo.end(signal.SIGTERM)


@pytest.mark.all
@pytest.mark.real("curl")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_what_the_demo_prints_works_and_its_end_leaves_nothing_running(how: signal.Signals) -> None:
    """Each line ends well, and doctor finds no error and nothing of the demo to warn of.

    After the demo there is no VM, no agent, no handler and no directory; after Ctrl-C it says so.
    """
    demo = Demo("--no-chat", before=PATIENT)
    try:
        for name, words in (("curl", '"outcome":"done"'), ("call", "reset done"), ("doctor", "ok: proof: ")):
            argv = ["bash", "-c", demo.line(name)]
            ran = subprocess.run(argv, capture_output=True, text=True, timeout=120, cwd="/")
            assert words in ran.stdout, ran.stdout + ran.stderr
        others = [line for line in ran.stdout.splitlines()[:-1] if not line.startswith("ok: ")]
        assert [line for line in others if "time server" not in line] == []
        assert naming(demo.directory)
    finally:
        code = demo.end(how)
    assert code == (-signal.SIGKILL if how == signal.SIGKILL else 0)
    assert ("Ctrl-C ended everything." in demo.last) is (how == signal.SIGINT)
    until(lambda: not naming(demo.directory) and not Path(demo.directory).exists(), "the end of what was killed")


@pytest.mark.all
def test_without_qemu_the_demo_uses_a_stand_in(tmp_path: Path) -> None:
    """On a machine without QEMU, the VM is a process that only speaks QMP."""
    for tool in ("sh", "env"):
        (tmp_path / tool).symlink_to(f"/bin/{tool}" if tool == "sh" else "/usr/bin/env")
    demo = Demo(PATH=str(tmp_path))
    try:
        assert "a stand-in" in demo.text
        assert "\n  curl: not installed\n" in demo.text
        call = subprocess.run(["/bin/sh", "-c", demo.line("call")], capture_output=True, text=True, timeout=120)
        assert "running (reset done" in call.stdout
    finally:
        assert demo.end(signal.SIGINT) == 0
    assert naming(demo.directory) == []
