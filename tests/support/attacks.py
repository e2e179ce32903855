"""Turns that run the commands of tests/data/attacks.txt inside the sandbox, and what these are aimed at."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from breakglass.chat.wall import CWD, HOME, SSH

from .service import give_to_handler
from .turns import make_job, run, texts, write_runner

SECRET = "planted-and-not-to-be-read"
OWN = "written-by-the-turn-itself"


def read_commands() -> dict[str, list[str]]:
    """Return the commands of each section of tests/data/attacks.txt."""
    text = (Path(__file__).parent.parent / "data/attacks.txt").read_text("utf-8")
    sections = re.split(r"^\[(.+)\]\n", text, flags=re.MULTILINE)[1:]
    lines = ([line for line in body.splitlines() if line and line[0] != "#"] for body in sections[1::2])
    return dict(zip(sections[::2], lines, strict=True))


COMMANDS = read_commands()
_MEMORY = """\
import glob, re
for name in glob.glob("/proc/[0-9]*"):
    try:
        memory = open(f"{name}/mem", "rb", 0)
        for line in open(f"{name}/maps"):
            begin, end = (int(each, 16) for each in line.split()[0].split("-"))
            memory.seek(begin)
            print(re.findall(b"planted-and-not-to-be-rea[d]", memory.read(min(end - begin, 1 << 24))))
    except (OSError, OverflowError, ValueError):
        continue
"""


COMMAND, CLAUDE, SSH_CLIENT = "a command", "claude itself", "the guest's ssh"
_SID = "0b6f3f6a-3d0f-4d0e-9d0f-1c2f3a4b5c6d"
_MARK = "=+=+= "
# A guest that took over the ssh client runs its commands as ProxyCommand, in the same sandbox and as the same user.
_TAKEN = "Host *\n    ProxyCommand /bin/bash -c '/bin/bash {ssh}/script </dev/null >&2; exit 3'\n"


class Attack:
    """Runs scripts as claude's command, as a claude that was taken over, or as the ssh that a guest took over.

    The secret is in the session's transcript, in the guest's key and in the files of `targets`. These belong to the
    handler's user. The scripts run as the same user here, so only the sandbox keeps them from the files.
    """

    def __init__(self, directory: Path, where: str) -> None:
        self.directory, self.where = directory, where
        self._program = write_runner(directory, as_command=where != CLAUDE)

    def run(self, script: str) -> str:
        """Run a script and return all of its output."""
        files = {"key": f"{SECRET}\n", "config": _TAKEN.format(ssh=SSH), "script": script}
        is_ssh = self.where == SSH_CLIENT
        prompt = "devvm anything 2>&1" if is_ssh else script
        job = make_job(prompt, resume=_SID, ssh_files=files if is_ssh else {**files, "script": ""})
        turn = run(job, self._program, f'{{"said":"{SECRET}"}}\n'.encode())
        assert turn.events[-1]["ok"] is True, turn.events
        return texts(turn.events)

    def run_all(self, commands: Iterable[str], **variables: object) -> list[tuple[str, str]]:
        """Run each command in its own shell, all in one sandbox. Return each command with its output."""
        commands = list(commands)
        lines = ["mkdir -p $TMPDIR/here; cd $TMPDIR/here", *(f"{name}={value}" for name, value in variables.items())]
        lines += [f"MEMORY=$PWD/memory.py; cat >$MEMORY <<'THE-END'\n{_MEMORY}THE-END"]
        for number, command in enumerate(commands):
            lines.append(f'echo; echo "{_MARK}{number}"\n(\n{command}\n) </dev/null 2>&1')
        where = "" if self.where == COMMAND else "export TMPDIR=${CLAUDE_CODE_TMPDIR:-/tmp}\n"
        output = self.run(where + "\n".join([*lines, f'echo; echo "{_MARK}{len(commands)}"']))
        parts = [part.partition("\n") for part in output.split(f"\n{_MARK}")[1:]]
        assert [number for number, _, _ in parts] == [str(n) for n in range(len(commands) + 1)], output[-2000:]
        return [(command, text) for command, (_, _, text) in zip(commands, parts, strict=False)]


NAMES = [
    "the configuration",
    "the conversations",
    "the session's transcript",
    "the guest's key",
    "a file of all users",
]
PLACES = [
    "the configuration",
    "a file of all users",
    "the turn's own directory",
    "the turn's own programs",
    "where it runs",
    "/tmp",
    "/dev/shm",
    "/usr/bin",
]
_OWN_PLACES = {"the turn's own directory": "/turn", "the turn's own programs": "/turn/bin", "where it runs": CWD}


def plant(path: Path, text: str = SECRET) -> Path:
    """Write a text that every user can read, into directories that every user can enter."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.write_text(f"{text}\n")
    path.chmod(0o644)
    return path


def targets(directory: Path) -> dict[str, Path]:
    """Return the files that must not be reached, each at the path that it has in production."""
    found = {
        "the configuration": plant(directory / "etc/breakglass.toml"),
        "the conversations": plant(directory / "sessions/chat.sqlite3"),
        "a file of all users": plant(directory / "shared/tmp/note"),
    }
    give_to_handler(*found.values())
    for path in found.values():
        path.chmod(0o666)
        path.parent.chmod(0o777)
    own = {"the session's transcript": f"{HOME}/projects/-turn-cwd/{_SID}.jsonl", "the guest's key": f"{SSH}/key"}
    return {**found, **{name: Path(path) for name, path in own.items()}}


def may_have(where: str) -> Sequence[str]:
    """Return the names of the things that this program may have, because they are its own."""
    return {COMMAND: (), CLAUDE: ("the session's transcript",), SSH_CLIENT: ("the guest's key",)}[where]


def place_of(found: dict[str, Path], name: str) -> Path:
    """Return the directory that a name of PLACES stands for."""
    return Path(_OWN_PLACES[name]) if name in _OWN_PLACES else found[name].parent if name in found else Path(name)
