"""`breakglass keys new --print` with its limits: the file of a caller, as it would be written."""

import stat
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from breakglass.auth.signing import secret_bytes
from breakglass.cli.main import main

from ..support.rows import each_row


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["breakglass", "keys", "new", "--print", *words])
    return main()


def test_a_limited_caller_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --out nothing secret is printed; without limits, no verb that changes power is allowed."""
    file = tmp_path / 'a "key"'
    words = ("anna", "--allow", "status, reset", "--vm", "devvm,mail", "--not-after", "2127-06-01T02:00:00+02:00")
    assert run(monkeypatch, *words, "--out", str(file)) == 0
    output = capsys.readouterr()
    assert len(secret_bytes(file.read_text().strip())) == 32
    assert "whsec_" not in output.out + output.err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert tomllib.loads(output.out) == {
        "secret_file": str(file),
        "allow": ["status", "reset"],
        "vms": ["devvm", "mail"],
        "not_after": datetime(2127, 6, 1, tzinfo=UTC),
    }
    assert run(monkeypatch, "anna") == 0
    entry = tomllib.loads(capsys.readouterr().out)
    assert (len(secret_bytes(entry["secret"])), entry["allow"]) == (32, ["status", "forensics", "history"])


@each_row(
    ("flag", "value"),
    [
        ("--allow", "reboot"),
        ("--vms", "dev vm"),
        ("--not-after", "2020-01-01"),
    ],
)
def test_a_limit_that_can_t_be_used_is_named(
    flag: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is printed, and the error names the flag."""
    assert run(monkeypatch, "anna", flag, value) == 2
    output = capsys.readouterr()
    assert (output.out, output.err.startswith(f"breakglass: {flag}: ")) == ("", True)
