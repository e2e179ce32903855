"""`breakglass demo`: the three ways that it prints work, and Ctrl-C leaves nothing running."""

import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from breakglass.agents.pve.words import VERSION
from breakglass.demo.account import find_uid
from breakglass.demo.lines import name_program

from ..support import claude
from ..support.documents import commands
from ..support.rows import each_row
from ..support.stages import until

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.slow  # each starts the demo


PATIENT = "from breakglass.demo import leftovers; leftovers.SECONDS = 60.0"  # for processes to end on a busy machine


class Demo:
    """A running demo and what it printed."""

    def __init__(
        self,
        *options: str,
        cwd: Path | None = None,
        program: str = "",
        before: str = "",
        inside: Sequence[str] = (),
        **environment: str,
    ) -> None:
        """Start it, after the Python code `before`; return once it has said how to reach it."""
        launcher = f"{before}\nimport sys; sys.argv[0] = sys.argv.pop(1)\n"
        launcher += "from breakglass.cli.main import main; sys.exit(main())"
        breakglass = str(Path(sys.executable).with_name("breakglass"))
        self.process = subprocess.Popen(
            ["bash", "-c", program]
            if program
            else [*inside, sys.executable, "-P", "-c", launcher, breakglass, "demo", *options],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            cwd=cwd,
        )
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

    def chat_state(self) -> str:
        """Return the state of chat that /health has."""
        found = re.search(r"http://127\.0\.0\.1:\d+/", self.text)
        assert found
        with urllib.request.urlopen(f"{found[0]}health", timeout=60) as answer:
            return str(json.load(answer)["chat"])

    @property
    def directory(self) -> str:
        found = re.search(r"SECRET_FILE=(\S+)/secret", self.text)
        assert found
        return found[1]

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


def environment_of(pid: str) -> bytes:
    """Return a process's environment; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@pytest.fixture
def demo() -> Iterator[Demo]:
    """The demo, started as the README says."""
    [start] = commands("README.md", "Try it")
    demo = Demo(program=f"exec {start}", cwd=ROOT)
    yield demo
    if demo.process.poll() is None:
        demo.end(signal.SIGTERM)


@pytest.mark.all
@pytest.mark.real("curl")
def test_what_the_demo_prints_works_when_pasted(demo: Demo) -> None:
    """The signed curl line and the call line each reset the VM, and doctor finds no error in all of it."""
    curl = subprocess.run(["bash", "-c", demo.line("curl")], capture_output=True, text=True, timeout=120)
    assert '"outcome":"done"' in curl.stdout.splitlines()[-1]
    call = subprocess.run(["bash", "-c", demo.line("call")], capture_output=True, text=True, timeout=120)
    assert call.returncode == 0
    assert "devvm: running (reset done" in call.stdout
    doctor = subprocess.run(["bash", "-c", demo.line("doctor")], capture_output=True, text=True, timeout=120)
    assert "error:" not in doctor.stdout, doctor.stdout
    assert "ok: host demo" in doctor.stdout, doctor.stdout + doctor.stderr
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/#key=whsec_\S+", demo.line("page"))


@pytest.mark.all
@pytest.mark.real("curl", "root")
def test_what_the_demo_prints_works_for_an_ordinary_user(short_dir: Path) -> None:
    """Each line ends well, and doctor finds no error and nothing of the demo to warn of."""
    os.chown(short_dir, 61234, 61234)
    person = ["setpriv", "--reuid=61234", "--regid=61234", "--clear-groups", "env", f"HOME={short_dir}"]
    breakglass = str(Path(sys.executable).with_name("breakglass"))
    if subprocess.run([*person, breakglass, "version"], capture_output=True).returncode != 0:
        pytest.skip("another user can't enter this checkout")
    demo = Demo(program=shlex.join(["exec", *person, breakglass, "demo", "--no-chat"]))
    try:
        for name, words in (
            ("curl", '"outcome":"done"'),
            ("call", "reset done"),
            ("doctor", "ok: proof: demo is proven"),
        ):
            argv = [*person, "bash", "-c", demo.line(name)]
            ran = subprocess.run(argv, capture_output=True, text=True, timeout=120, cwd="/")
            assert words in ran.stdout, ran.stdout + ran.stderr
            *lines, last = ran.stdout.splitlines()
        found = [line for line in lines if not line.startswith("ok: ")]
        assert [line for line in found if "time server keeps this machine's clock" not in line] == []
        assert last.startswith("no errors, ")
    finally:
        assert demo.end(signal.SIGTERM) == 0


@pytest.mark.all
@pytest.mark.real("claude")
def test_the_demos_claude_finds_a_verdict_and_proposes_a_verb(demo: Demo) -> None:
    """The real claude runs the real commands; the proposal acts once it is approved, and then it looks again."""
    command = demo.line("chat")
    environment = {**os.environ, "XDG_STATE_HOME": demo.directory}
    lines = "it hangs\ny\nwell?\n"
    ran = subprocess.run(
        ["bash", "-c", command], input=lines, env=environment, capture_output=True, text=True, timeout=180
    )
    for words in (
        "pve status",
        "pve forensics",
        "The verdict:",
        "claude proposes reset on devvm: The guest hangs while QEMU and its disks work, so a reset is enough.",
        "devvm: running (reset done, id ",
        "is `running` now",
    ):
        assert words in ran.stdout, ran.stdout + ran.stderr


@pytest.mark.all
@pytest.mark.real("claude")
def test_a_credential_goes_to_claude_alone_and_only_on_demand() -> None:
    """Only --real-model passes the shell's credential to claude; no other process has it."""
    for options, handed in ((), False), (("--real-model",), True):
        demo = Demo(*options, ANTHROPIC_API_KEY="mine", CLAUDE_CODE_SUBAGENT_MODEL="mine too")
        try:
            assert ("your credential" in demo.text) is handed
            assert (Path(demo.directory, "credential").read_text() == "ANTHROPIC_API_KEY=mine\n") is handed
            children = Path(f"/proc/{demo.process.pid}/task/{demo.process.pid}/children").read_text().split()
            assert not [pid for pid in children if b"=mine" in environment_of(pid)]
        finally:
            demo.end(signal.SIGTERM)


@pytest.mark.all
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ending_the_demo_leaves_nothing_running(how: signal.Signals) -> None:
    """After the demo there is no VM, no agent, no handler and no directory; after Ctrl-C it says so."""
    demo = Demo("--no-chat", before=PATIENT)
    assert naming(demo.directory)
    assert demo.end(how) == (-signal.SIGKILL if how == signal.SIGKILL else 0)
    assert ("Ctrl-C ended everything." in demo.last) is (how == signal.SIGINT)
    until(lambda: not naming(demo.directory) and not Path(demo.directory).exists(), "the end of what was killed")


# A machine on which claude is not installed.
WITHOUT_CLAUDE = "import sys; sys.modules['claude_agent_sdk'] = None"


@pytest.fixture
def installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for ./dev, which takes its time to install claude: until it can read a word, which is its exit code.

    The real one is in tests/deploy/test_first_run.py.
    """
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("ssh", "bwrap", "bash", "env", "sh", "cat", "touch", "python3"):
        (programs / name).symlink_to(shutil.which(name) or "/nonexistent")
    os.mkfifo(tmp_path / "word")
    script = f'[ "$1" = claude ] && trap "touch {tmp_path}/ended" EXIT && trap "exit 130" INT\n'
    script += f"touch {tmp_path}/begun; read -r word <{tmp_path}/word\n"
    script += f'[ "$word" != 0 ] || ln -s {shlex.quote(str(claude.find()))} {programs}/claude; exit "$word"\n'
    (tmp_path / "dev").write_text(script.replace("ln ", "/bin/ln "))
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("BREAKGLASS_DEV", str(tmp_path / "dev"))


@pytest.mark.all
@pytest.mark.real("claude")
@pytest.mark.usefixtures("installer")
def test_chat_is_on_once_claude_is_installed(tmp_path: Path) -> None:
    """The page answers before that, and nothing is started again."""
    demo = Demo(before=WITHOUT_CLAUDE)
    try:
        assert demo.line("chat") == "not yet; claude is being downloaded, and a line here tells you when chat works"
        assert demo.chat_state() == "none"
        (tmp_path / "word").write_text("0\n")
        later = demo.until("its model is a script on this machine")
        assert "it works now, on the page too: the real claude" in later
        assert re.search(r"\n  chat    BREAKGLASS_URL=\S+ BREAKGLASS_SECRET_FILE=\S+ \S+ chat\n", later)
        assert demo.chat_state() == "on"
    finally:
        assert demo.end(signal.SIGINT) == 0


# bubblewrap as it fails if the kernel refuses namespaces
NO_SANDBOX = """
echo '#!/bin/sh
echo bwrap: No permissions to create a new namespace >&2; exit 1' >{fake}; chmod 755 {fake}
mount --bind {fake} /usr/bin/bwrap; exec "$@"
"""


@pytest.mark.real("mounts", "bwrap")
def test_a_sandbox_is_tried_before_claude_is_downloaded(tmp_path: Path) -> None:
    """The command says what is missing and what to do. Without a sandbox, the demo starts no download."""
    in_it = ["unshare", "--mount", "sh", "-ec", NO_SANDBOX.format(fake=tmp_path / "bwrap"), "sh"]
    command = [sys.executable, "-m", "breakglass", "chat", "--sandbox", "--user", str(find_uid())]
    works = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (works.returncode, works.stdout) == (0, "claude can be isolated on this machine\n"), works.stderr
    (tmp_path / "dev").write_text(f"touch {tmp_path}/begun\n")
    refused = subprocess.run([*in_it, *command], capture_output=True, text=True, timeout=120)
    assert (refused.returncode, "No permissions to create a new namespace" in refused.stderr) == (1, True)
    assert "Namespaces for chat" in refused.stderr or "sysctl" in refused.stderr
    demo = Demo(before=WITHOUT_CLAUDE, inside=in_it, BREAKGLASS_DEV=str(tmp_path / "dev"))
    try:
        assert "No permissions to create a new namespace" in demo.text
        assert demo.line("chat").startswith("none: ")
        assert not (tmp_path / "begun").exists()
    finally:
        assert demo.end(signal.SIGINT) == 0


@pytest.mark.all
@pytest.mark.real("root")
def test_a_checkout_that_no_other_user_can_enter(short_dir: Path) -> None:
    """The handler runs from a copy, and so does doctor, which judges what the handler's user can read."""
    closed = short_dir / "closed"
    closed.mkdir()
    for folder in ("handler", "agents", "static_site"):
        shutil.copytree(ROOT / folder, closed / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (closed / "breakglass").symlink_to("handler")  # as ./dev has it in .venv
    closed.chmod(0o700)
    demo = Demo("--no-chat", PYTHONPATH=str(closed))
    try:
        assert f"{demo.directory}/code/handler" in demo.line("doctor")
        doctor = subprocess.run(["bash", "-c", demo.line("doctor")], capture_output=True, text=True, timeout=120)
        assert "The page and its" in doctor.stdout, doctor.stdout + doctor.stderr
        assert "can't read" not in doctor.stdout
    finally:
        assert demo.end(signal.SIGTERM) == 0


LATE = """
import os, select, sys
directory, handler = sys.argv[1], os.pidfd_open(int(sys.argv[2]))
print(flush=True)
select.select([handler], [], [])
for number in range(5000):
    os.makedirs(f"{directory}/root/run/late", exist_ok=True)
    os.close(os.open(f"{directory}/root/run/late/{number}", os.O_CREAT))
"""


@each_row("started_as", [ROOT / "handler", ROOT / "handler/__main__.py"])
def test_the_printed_lines_name_a_program(started_as: Path) -> None:
    """A demo that is started as `python handler demo` or `python -m breakglass demo` prints lines that run."""
    run = subprocess.run([*shlex.split(name_program(str(started_as))), "version"], capture_output=True, text=True)
    assert run.stdout == f"breakglass {VERSION}\n"


@pytest.mark.all
def test_without_qemu_the_demo_uses_a_stand_in(tmp_path: Path) -> None:
    """On a machine without QEMU the same three ways work; the VM is then a process that only speaks QMP."""
    for tool in ("sh", "env"):
        (tmp_path / tool).symlink_to(f"/bin/{tool}" if tool == "sh" else "/usr/bin/env")
    demo = Demo(PATH=str(tmp_path))
    try:
        assert "a stand-in" in demo.text
        assert "\n  curl: not installed\n" in demo.text
        assert "\n  ssh: not installed\n" in demo.text
        assert "\n  curl  " not in demo.text
        assert "\n  chat  " not in demo.text
        call = subprocess.run(["/bin/sh", "-c", demo.line("call")], capture_output=True, text=True, timeout=120)
        assert "devvm: running (reset done" in call.stdout
    finally:
        assert demo.end(signal.SIGINT) == 0
    assert naming(demo.directory) == []
