"""Runs `breakglass doctor` for tables of faults, on a good configuration."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are one more package

from breakglass.base.findings import ERROR, Finding

from .forked import Mount, fork_command
from .selection import sampled
from .service import ALL, SSH_KEY, give_directory, give_to_handler, new_secret

DATA = Path(__file__).parent.parent / "data"
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

    def __init__(self, directory: Path, *, port: int = 1, key: str = SSH_KEY, host_key: object = "any") -> None:
        self.directory, self.stack = directory, ExitStack()
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
        host = {"ssh": f"breakglass@127.0.0.1:{port}", "key_file": self.file("power", key), "host_key": host_key}
        sessions = str(give_directory(directory / "sessions"))
        self.config: dict[str, Any] = {
            "server": {},
            "callers": {"operator": {"secret_file": self.file("operator", self.operator), "allow": [*ALL]}},
            "hosts": {"pve1": host},
            "vms": {"devvm": {"hosts": ["pve1"], "vmid": 102}},
            "sessions": {"secret_file": self.file("session", new_secret() * 2), "dir": sessions},
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
        code = fork_command(
            argv,
            self.environment,
            out,
            err,
            places=places,
            mounts=self.mounts,
            user=self.user,
            constants={**_PATIENT, **self.constants},
        )
        return Report(code, out.read_text(), err.read_text(), time.monotonic() - began)


# The name of a function of the test's file, `{NAME: ARGUMENTS}` if it has more than the setup, or a list of these.
Seed = str | dict[str, Any] | list[Any]


class Fault(NamedTuple):
    """One seeded fault: its name, how to seed it, the code that must be found, and words that the fix must have.

    `./dev test` seeds only those that are `quick`.
    """

    name: str
    seed: Seed
    code: str
    fix: str
    quick: bool = False


def read_faults(file: str) -> dict[str, dict[str, Fault]]:
    """Return the tables of faults in a file of tests/data, each with its faults by their names."""
    tables = yaml.safe_load((DATA / file).read_text("utf-8"))
    return {table: {row["name"]: Fault(**row) for row in rows} for table, rows in tables.items()}


def each_fault(faults: Mapping[str, Fault]) -> pytest.MarkDecorator:
    """Run the test for each fault, which it gets by its name."""
    return pytest.mark.parametrize("name", sampled(faults, *(name for name, fault in faults.items() if fault.quick)))


def plant(setup: Setup, seed: Seed, functions: Mapping[str, Callable[..., object]]) -> None:
    """Seed a fault by the functions that it names."""
    for each in seed if isinstance(seed, list) else [seed]:
        [(name, given)] = each.items() if isinstance(each, dict) else [(each, [])]
        if isinstance(given, dict):
            functions[name](setup, **given)
        else:
            functions[name](setup, *(given if isinstance(given, list) else [given]))


def found(findings: Sequence[Finding], code: str, fix: str = "") -> Finding:
    """Return the worst finding with this code, if possible with these words in its fix. Fail if there is none."""
    those = [finding for finding in findings if finding.code == code]
    assert those, f"no finding is {code}:\n" + "\n".join(f"{finding.code}: {finding}" for finding in findings)
    return max(those, key=lambda finding: (fix in finding.fix, ["ok", "warning", "error"].index(finding.level)))


def check_fault(
    setup: Setup,
    fault: Fault,
    functions: Mapping[str, Callable[..., object]],
    places: Sequence[str],
    *,
    is_alone: bool = False,
) -> Finding:
    """Seed a fault and run doctor, which must find it, with its fix and exit code. Return the finding.

    With `is_alone` nothing else may be found. An error in a setting can disable more, and then doctor says so.
    """
    with setup.stack:
        plant(setup, fault.seed, functions)
        report = setup.doctor(places=places)
    assert report.stdout, report.stderr
    finding = found(report.findings, fault.code, fault.fix)
    assert finding.level != "ok", finding
    assert fault.fix in finding.fix, finding
    others = [each for each in report.findings if each.level != "ok" and each != finding]
    assert others == [] or not is_alone
    assert report.code == (2 if any(each.level == ERROR for each in report.findings) else 1)
    return finding


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
