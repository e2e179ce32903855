"""The real key line with real OpenSSH, which runs each key's forced command and nothing else."""

import json
import subprocess
from pathlib import Path

import pytest

from ..support.sshd import Sshd

pytestmark = [pytest.mark.real("sshd"), pytest.mark.shared("world", "sshd")]


def ssh(sshd: Sshd, key: str, *words: str, options: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    command = [*sshd.client(key, *options), *words]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)


def test_the_power_key_runs_a_verb(sshd: Sshd) -> None:
    """A bare word from a keyboard works, and the trailer is the last line."""
    ran = ssh(sshd, sshd.power_key, "status")
    assert ran.returncode == 0
    assert json.loads(ran.stdout.splitlines()[-1].removeprefix("#breakglass "))["state"] == "running"


def test_the_read_only_key_gets_16_for_a_reset(sshd: Sshd) -> None:
    """Its own command= is used, because no ForceCommand overrides it."""
    ran = ssh(sshd, sshd.read_only_key, "reset")
    assert ran.returncode == 16
    assert ran.stdout.splitlines()[0] == "approval-required: reset"
    assert ssh(sshd, sshd.read_only_key, "status").returncode == 0


@pytest.mark.parametrize("words", [(), ("reset; id",)])
def test_a_command_outside_the_grammar_ends_with_exit_10(sshd: Sshd, words: tuple[str, ...]) -> None:
    """A shell, a subsystem's name or two commands are refused, because they are not words of the grammar."""
    assert ssh(sshd, sshd.power_key, *words).returncode == 10


def test_no_terminal_no_forwarding_no_subsystem(sshd: Sshd) -> None:
    """The option `restrict` allows neither sftp nor forwarding."""
    assert ssh(sshd, sshd.power_key, "-s", "sftp").returncode == 10
    forwarded = ssh(sshd, sshd.power_key, options=("-o", "ExitOnForwardFailure=yes", "-N", "-R", "0:127.0.0.1:22"))
    assert forwarded.returncode != 0
    assert "PTY allocation request failed" in ssh(sshd, sshd.power_key, "status", options=("-tt",)).stderr


def test_a_key_without_a_command_is_turned_away(sshd: Sshd, short_dir: Path) -> None:
    """With PermitRootLogin forced-commands-only, a line without command= gives no shell."""
    lines = sshd.keys.read_text()
    sshd.keys.write_text(lines.splitlines()[0].split('" ', 1)[1] + "\n")
    try:
        ran = ssh(sshd, sshd.power_key, "id")
    finally:
        sshd.keys.write_text(lines)
    assert ran.returncode == 255
    assert "uid=" not in ran.stdout
