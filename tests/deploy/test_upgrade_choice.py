"""Which hosts `breakglass host upgrade` takes, by its words and the configuration; none of these reaches a host."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from breakglass.cli.main import main

from ..support.rows import each_row

TWO = '[hosts.pve1]\nssh = "breakglass@192.0.2.10"\n[hosts.pve2]\nssh = "breakglass@192.0.2.12:2222"\n'
FAULTY = '[hosts.pve1]\nssh = "192.0.2.10"\n'


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command with this configuration, where no ssh is installed but the test's own."""

    def run(text: str | None, *words: str) -> tuple[int, str, str]:
        config = tmp_path / "breakglass.toml"
        if text is not None:
            config.write_text(text)
        monkeypatch.setenv("BREAKGLASS_CONFIG", str(config))
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(sys, "argv", ["breakglass", "host", "upgrade", *words])
        return main(), *capsys.readouterr()

    return run


@each_row(
    ("text", "words", "sentence"),
    [
        (None, [], "there is no such file"),
        (TWO, [], "there are several hosts; name one, or give --all\n    use pve1, pve2, or an address like"),
        (TWO, ["pve9"], '"pve9" is no host in '),
        (TWO, ["root@-oProxyCommand=x"], '"root@-oProxyCommand=x" is not an address\n    write it like root@192'),
        (FAULTY, [], 'not upgraded: hosts.pve1.ssh is not an address: "192.0.2.10"\n    write it like ssh = '),
    ],
)
def test_what_is_no_host(upgrade: Run, text: str | None, words: list[str], sentence: str) -> None:
    """Exit 2, what is wrong, and what to write instead; nothing was sent."""
    code, out, err = upgrade(text, *words)
    assert (code, out, sentence in err) == (2, "", True), err


@pytest.mark.parametrize(
    ("words", "reached"),
    [
        (["pve1"], "-- root@192.0.2.10"),
        (["pve2", "--login", "me"], "-p 2222 -- me@192.0.2.12"),
        (["root@[2001:db8::1]:2222"], "-p 2222 -- root@2001:db8::1"),
    ],
)
def test_where_ssh_logs_in(upgrade: Run, tmp_path: Path, words: list[str], reached: str) -> None:
    """It logs in as root, unless the words name another user.

    Ssh's own settings choose the port unless it is an unusual one.
    """
    (tmp_path / "ssh").write_text("#!/bin/sh\n/bin/cat >/dev/null\nexit 255\n")
    (tmp_path / "ssh").chmod(0o755)
    code, _, err = upgrade(TWO, *words)
    assert (code, f"try: ssh {reached}\n" in err) == (1, True), err
