"""Runs `breakglass doctor` for tables of faults, on a good configuration and in a process that starts it quickly.

A process that has loaded everything forks for each run, so a fault does not cost a start of Python. The child is the
command, which reads its arguments and environment, becomes the handler's user, prints and exits.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from breakglass.base.findings import ERROR, Finding

from .service import ALL, SSH_KEY, give_directory, give_to_handler, new_secret

SECONDS = 150.0  # doctor ends within 30 s, or on a busy machine within the limits below
# The time in which a busy machine does what works. A test that waits for a limit sets its own.
_PATIENT: Mapping[str, object] = {
    "doctor.chat.SECONDS": 40.0,
    "chat.program.PROBE_SECONDS": 60.0,
    "doctor.host_check.CHECK_SECONDS": 60.0,
    "doctor.host_check.READ_SECONDS": 30.0,
    "doctor.host_walk.LOOK_SECONDS": 90.0,
    "doctor.login.ANSWER_SECONDS": 30.0,
    "doctor.signed.PROOF_SECONDS": 30.0,
    "doctor.sessions.SECONDS": 40.0,
}
_SERVE = """
import ctypes, importlib, json, os, sys
from breakglass.agents.bundle import bundle_digest
from breakglass.config.ssh_library import asyncssh
from breakglass.cli import commands, doctor
from breakglass.cli.starting import load_server_modules
from breakglass.doctor.walk import walk
walk.__defaults__ = (100.0,)
load_server_modules()
bundle_digest()
looks = doctor.LOOKS
async def nothing(visit, found):
    for finding in ():
        yield finding
print("ready", flush=True)
for line in sys.stdin:
    words, environment, out, err, places, mounts, user, constants = json.loads(line)
    if (pid := os.fork()) == 0:
        os.setsid()
        for number, mount in enumerate(mounts):
            libc = ctypes.CDLL(None, use_errno=True)
            first = number or (libc.unshare(0x20000), libc.mount(None, b"/", None, 0x44000, None))  # private, recursive
            source, target, kind, data = (text.encode() for text in mount)
            flags = 1 if data == b"ro" else 0 if kind else 4096  # bound without a kind
            if libc.mount(source, target, kind, flags, data if flags != 1 else None) != 0:
                sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["breakglass", *words]
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in ((1, out), (2, err)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        for path, value in constants.items():
            module, _, constant = path.rpartition(".")
            owner = importlib.import_module(f"breakglass.{module}")
            getattr(owner, constant)  # or it has another name now
            setattr(owner, constant, value)
        if places is not None:
            doctor.LOOKS = tuple(look for look in looks if look[0] in places)
            doctor.prove = doctor.prove if "proof" in places else nothing
        if user:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        try:
            code = commands.run()
        except SystemExit as end:  # argparse's
            code = end.code
        sys.stdout.flush()
        os._exit(code)  # the end of a Python that has loaded all takes longer than doctor
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


Mount = tuple[str, str, str, str]  # source, target, kind and data, such as "ro"; without a kind, a bind mount


class DoctorProcess:
    """The process that forks for each run of `doctor`."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", _SERVE]
        self._process = subprocess.Popen(command, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._read() == "ready"

    def _read(self) -> str:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], SECONDS)[0]:
            self.close()
            raise TimeoutError("doctor did not end")
        return self._process.stdout.readline().strip()

    def run(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        out: Path,
        err: Path,
        places: Sequence[str] | None,
        mounts: Sequence[Mount] = (),
        user: int = 0,
        constants: Mapping[str, object] | None = None,
    ) -> int:
        """Run a command with its output in two files; return its exit code.

        `places` are the checks to run, or None for all. `mounts` and `constants` (such as "cli.ping.SECONDS") hold for
        this run only. If root runs the tests, `user` starts the command.
        """
        assert self._process.stdin is not None
        line = json.dumps([words, dict(environment), str(out), str(err), places, mounts, user, dict(constants or {})])
        print(line, file=self._process.stdin, flush=True)
        return int(self._read())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@dataclass(frozen=True)
class Report:
    """The output of one run of doctor."""

    code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def findings(self) -> list[Finding]:
        """The findings of a run with --json."""
        return [Finding(**each) for each in json.loads(self.stdout)["findings"]]


class Setup:
    """A good configuration in its own directory. `config` is the content of its file.

    Secrets and keys are in their own files. Change `config`, the files or `environment`, then call `doctor`.
    """

    def __init__(
        self,
        directory: Path,
        process: DoctorProcess,
        *,
        port: int = 1,
        key: str = SSH_KEY,
        host_key: object = "any",
    ) -> None:
        self.directory, self._process, self.stack = directory, process, ExitStack()
        self.path = directory / "breakglass.toml"
        self.operator = new_secret()
        self.text = ""  # of the whole file, if it is not made from `config`
        self.words: list[str] = []
        self.mounts: list[Mount] = []
        self.constants: dict[str, object] = {}  # of doctor's modules, such as shorter limits
        self.user = 0  # the user who starts doctor, if the tests run as root
        self.model: Any = None  # the scripted claude, in tests of chat
        ours = {name: value for name, value in os.environ.items() if name.startswith(("PYTHON", "BREAKGLASS_"))}
        self.environment = ours | {"PATH": os.environ["PATH"], "BREAKGLASS_CONFIG": str(self.path)}
        self.config: dict[str, Any] = {
            "server": {},
            "callers": {"operator": {"secret_file": self.file("operator", self.operator), "allow": [*ALL]}},
            "hosts": {
                "pve1": {
                    "ssh": f"breakglass@127.0.0.1:{port}",
                    "key_file": self.file("power", key),
                    "host_key": host_key,
                }
            },
            "vms": {"devvm": {"hosts": ["pve1"], "vmid": 102}},
            "sessions": {
                "secret_file": self.file("session", new_secret() * 2),
                "dir": str(give_directory(directory / "sessions")),
            },
        }

    def file(self, name: str, text: str) -> str:
        """Write a file that only the handler can read; return its path."""
        path = self.directory / name
        path.touch(0o600)
        path.write_text(text)
        path.chmod(0o600)
        give_to_handler(path)
        return str(path)

    def write(self) -> None:
        """Write the configuration file, unless a fault has removed or replaced it."""
        if not os.path.lexists(self.path):
            self.file(self.path.name, self.text or render(self.config))

    def doctor(self, *words: str, places: Sequence[str] | None = None, json: bool = True) -> Report:
        """Run doctor; `places` are the checks to run, such as "configuration", or None for all."""
        self.write()
        out, err = self.directory / "stdout", self.directory / "stderr"
        argv = ["doctor", *(["--json"] if json else []), *self.words, *words]
        began = time.monotonic()
        constants = {**_PATIENT, **self.constants}
        code = self._process.run(argv, self.environment, out, err, places, self.mounts, self.user, constants)
        return Report(code, out.read_text(), err.read_text(), time.monotonic() - began)


class Fault(NamedTuple):
    """One seeded fault: its name, how to seed it, the code that must be found, and words that the fix must have."""

    name: str
    seed: Callable[[Setup], object]
    code: str
    fix: str


def found(findings: Sequence[Finding], code: str, fix: str = "") -> Finding:
    """Return the worst finding with this code, if possible with these words in its fix. Fail if there is none."""
    those = [finding for finding in findings if finding.code == code]
    assert those, f"no finding is {code}:\n" + "\n".join(f"{finding.code}: {finding}" for finding in findings)
    return max(those, key=lambda finding: (fix in finding.fix, ["ok", "warning", "error"].index(finding.level)))


def check_fault(setup: Setup, fault: Fault, places: Sequence[str] | None = None, *, is_alone: bool = False) -> Finding:
    """Seed a fault and run doctor, which must find it, with its fix and exit code. Return the finding.

    With `is_alone` nothing else may be found. An error in a setting can disable more, and then doctor says so.
    """
    with setup.stack:
        fault.seed(setup)
        report = setup.doctor(places=places)
    assert report.stdout, report.stderr
    finding = found(report.findings, fault.code, fault.fix)
    assert finding.level != "ok", finding
    assert fault.fix in finding.fix, finding
    others = [each for each in report.findings if each.level != "ok" and each != finding]
    assert others == [] or not is_alone
    assert report.code == (2 if any(each.level == ERROR for each in report.findings) else 1)
    return finding


def cases(faults: Sequence[Fault], *kept: str) -> list[Any]:
    """Return a table as pytest's parameters. `./dev test` runs the faults that `kept` names, and `--all` the others."""
    names = [fault.name for fault in faults]
    assert len(set(names)) == len(names)
    assert set(kept) <= set(names)
    marks = {fault.name: [pytest.mark.all] * (fault.name not in kept) for fault in faults}
    return [pytest.param(fault, id=fault.name, marks=marks[fault.name]) for fault in faults]


# --- TOML ---


def render(config: Mapping[str, Any]) -> str:
    """Return a configuration as TOML, with a dict of dicts as [a.b] and a list of dicts as [[a]]."""
    lines: list[str] = []
    for name, value in config.items():
        if isinstance(value, list):
            for each in value:
                lines += [f"[[{name}]]", *_pairs(each)]
        elif isinstance(value, Mapping) and value and all(isinstance(each, Mapping) for each in value.values()):
            for key, table in value.items():
                lines += [f"[{name}.{json.dumps(key)}]", *_pairs(table)]
        elif isinstance(value, Mapping):
            lines += [f"[{name}]", *_pairs(value)]
        else:
            lines.insert(0, f"{name} = {_value(value)}")
    return "\n".join(lines) + "\n"


def _pairs(table: Mapping[str, object]) -> list[str]:
    return [f"{json.dumps(name)} = {_value(value)}" for name, value in table.items()]


def _value(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return f"{{ {', '.join(_pairs(value))} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False)
