"""Installing on the Proxmox host: the printed recipe, run as it stands beside a real sshd, and then `breakglass-pve`.

The recipe's text, and the command that prints it, are in test_recipe.py.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from breakglass.agents.bundle import bundle
from breakglass.agents.pve.check.key_lines import parse_key_lines
from breakglass.agents.pve.words import VERSION

from ..support.installing import ROOT, Door, Installed, edit, new_key, odd

AGENT = "/usr/local/sbin/breakglass-pve"
SERVE = f"{AGENT} serve --vms 102-103,110"
ALLOWED, REFUSED = 0, 12
MORE = """
[vms.other]
hosts = ["pve1"]
vmid = 103
[vms.both]
hosts = ["pve2", "pve1"]
vmid = 110
[vms.away]
hosts = ["pve2"]
vmid = 104
[hosts.pve2]
HOST_KEYS
"""
RECIPE = {"more": MORE}


@pytest.mark.real("sshd")
def test_the_recipe_ends_with_0(host: Installed) -> None:
    """The pasted recipe found no error, and sshd was reloaded. A later `check` finds none either."""
    assert host.first.returncode == 0, host.first.stdout + host.first.stderr
    assert host.host_key in host.first.stdout
    assert re.findall("^(?:warning|error):.*", host.first.stdout + host.first.stderr, re.MULTILINE) == []
    assert host.run("cat", "/run/said").stdout.splitlines()[0] == "systemctl try-reload-or-restart ssh"
    ran = host.check()
    assert (ran.returncode, ran.stderr) == (0, "")
    assert {line.partition(":")[0] for line in ran.stdout.splitlines()} == {"ok"}
    assert " 102-103,110\n" in ran.stdout
    assert re.findall(r'VM (\d+) "vm\1"', ran.stdout) == ["102", "103", "110"]


@pytest.mark.real("sshd")
def test_each_key_runs_only_its_own_verbs(door: Door) -> None:
    """The power key runs a verb; a read-only key gets 16 for a reset, and reads; neither gets a shell.

    A key line without a command is turned away by sshd, and three attempts do not lock the exempt address out.
    """
    host, (reading, public) = door.host, new_key()
    host.keys.write_text(f'{host.keys.read_text()}restrict,command="{SERVE} --read-only" {public}\n')
    refused = door.login(reading, "reset vm=102")
    assert (refused.returncode, refused.stdout.splitlines()[0]) == (16, "approval-required: reset")
    assert [door.login(key, "status vm=102").returncode for key in (host.power, reading)] == [ALLOWED] * 2
    assert [door.login(key, "/bin/sh").returncode for key in (host.power, reading)] == [10, 10]
    assert door.login(host.power, "status vm=104").returncode == REFUSED
    whole = host.keys.read_text()
    host.keys.write_text(f"restrict {host.power_public}\n")
    for _ in range(3):
        ran = door.login(host.power, "id")
        assert (ran.returncode, "uid=" in ran.stdout) == (255, False)
    host.keys.write_text(whole)
    assert door.login(host.power, "status vm=102").returncode == 0


ODD_LINES = [
    'command="echo seen" @',
    ' \t COMMAND="echo seen",no-pty\t@\tcomment',
    'command="echo seen" @\r',
    'command="echo seen #\x0b\x0c\x1c\x85\u2028" @',
    'command="echo seen #\\x" @',
    'command="echo seen #\\\\" @',
    'environment="A=\\",command="echo seen",environment="A=" @',
    'command="echo seen" @\0',
    '\0command="echo seen" @',
    'command="echo seen",command="echo seen" @',
    'command="echo seen",,restrict @',
    ', @ command="echo seen"',
    'command="echo \ta",command="echo seen" @',
    'command="echo seen"restrict @',
    "command=echo @",
    '#command="echo seen" @',
]


@pytest.mark.all
@pytest.mark.real("sshd")
def test_check_and_sshd_read_a_line_alike(door: Door) -> None:
    """A key that sshd would take, and `check` or `allow` would not see, could open anything unseen."""
    seen, ours = {}, {}
    for line in ODD_LINES:
        text = line.replace("@", door.host.power_public) + "\n"
        door.host.keys.write_bytes(text.encode())
        seen[line] = door.login(door.host.power).stdout == "seen\n"
        ours[line] = [found.command[:9] for found in parse_key_lines(text) if found.command and not found.is_refused]
    assert {line: found == ["echo seen"] for line, found in ours.items()} == seen
    assert list(seen.values()).count(True) > 5


@pytest.mark.all
@pytest.mark.real("sshd")
def test_running_the_recipe_again_changes_nothing(host: Installed) -> None:
    """On a later day, pasted into an interactive bash as well, it leaves the same files and keys, a colleague's too.

    His comment in Latin-1 makes the file no text for grep. A second handler's recipe keeps the first one's address.
    """
    added = f'restrict,command="{SERVE} --read-only" {new_key()[1]} J\xf6rg\n'.encode("latin-1")
    host.keys.write_bytes(added + host.keys.read_bytes())
    shadow = host.etc / "shadow"
    shadow.write_text(re.sub(r"(?<=^breakglass:\*:)\d+", "20000", shadow.read_text(), flags=re.MULTILINE))
    assert "\nbreakglass:*:20000:" in shadow.read_text()
    files = [host.keys, host.drop_in, host.etc / "passwd", shadow]
    before = [file.read_bytes() for file in files]
    shell = ("/bin/bash", "--norc", "-i", "-o", "histexpand")
    ran = host.run("/usr/bin/env", "LC_ALL=C.UTF-8", *shell, stdin=host.recipe)
    assert ran.returncode == 0, ran.stderr
    assert "event not found" not in ran.stderr
    assert "other keys" in ran.stdout
    assert [file.read_bytes() for file in files] == before
    ran = host.run("/bin/sh", "-s", stdin=host.print_recipe("breakglass", "--from", "192.0.2.60"))
    assert (ran.returncode, "127.0.0.1; remove" in ran.stdout) == (0, True), ran.stderr
    assert host.drop_in.read_text().splitlines()[0].endswith("PerSourcePenaltyExemptList 192.0.2.60,127.0.0.1")


@pytest.mark.real("sshd")
def test_a_recipe_that_fails_changes_nothing(host: Installed) -> None:
    """A host agent that doesn't run replaces none, and an account that is not root's gets no key.

    A configuration that sshd refuses is not reloaded, and the one before it is back.
    """
    files = [host.sbin / "breakglass-pve", host.keys, host.drop_in, host.etc / "passwd"]
    before, reloads = [file.read_text() for file in files], host.run("cat", "/run/said").stdout
    (host.root / "breakglass-pve").write_text("#!/usr/bin/python3 -IS\nimport no_such_module\n")
    ran = host.run("/bin/sh", "-s", stdin=host.recipe)
    (host.root / "breakglass-pve").unlink()
    assert (ran.returncode, "No module named" in ran.stderr) == (1, True)
    ran = host.run("/bin/sh", "-s", stdin=host.recipe.replace("PermitTTY no", "PermitTTY maybe"))
    assert (ran.returncode, "sshd refuses" in ran.stderr) == (1, True)
    assert [file.read_text() for file in files] == before
    edit(host.etc / "passwd", ("breakglass:x:0:", "breakglass:x:1234:"))
    host.keys.write_text("")
    ran = host.run("/bin/sh", "-s", stdin=host.recipe)
    assert (ran.returncode, host.keys.read_text(), "uid is not 0" in ran.stderr) == (1, "", True)
    assert host.run("cat", "/run/said").stdout == reloads


# --- check, and what it finds ---


@pytest.mark.real("sshd")
def test_check_names_each_fault(host: Installed) -> None:
    """Exit 1, and a line with what to do for each: of sshd's own settings, the key file and the account."""
    edit(host.drop_in, ("PermitTTY no", "ForceCommand /bin/true"), ("DisableForwarding yes", ""))
    edit(host.keys, (f'restrict,command="{SERVE}"', "no-pty"))
    host.keys.write_text(f'{host.keys.read_text()}restrict,command="{SERVE};sh" {new_key()[1]}\n')
    host.keys.chmod(0o666)
    assert host.run("chage", "-M", "90", "breakglass").returncode == 0
    expected = {"ForceCommand", "disableforwarding no", "permittty yes", "no command=", "no restrict", f"{SERVE};sh"}
    ran = host.check()
    assert (ran.returncode, ran.stderr) == (1, "")
    errors = [line for line in ran.stdout.splitlines() if line.startswith("error: ")]
    assert odd(errors, expected | {"written by others", "breakglass expires"}) == []
    assert [line for line in errors if " / " not in line] == []


# --- `breakglass host upgrade`, through a real ssh ---

OLD = "#!/bin/sh\necho 0.1.0\n"


class Operator:
    """A person whose own ssh logs in to the host as root, with a configuration that has no secret."""

    def __init__(self, door: Door, directory: Path) -> None:
        self.agent, self.directory = door.host.sbin / "breakglass-pve", directory
        private, public = new_key()
        (door.host.root / ".ssh/authorized_keys").write_text(f"{public}\n")
        identity, self.program = directory / "identity", directory / "bin/ssh"
        identity.touch(0o600)
        identity.write_text(private)
        self.program.parent.mkdir()
        options = f"-F none -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -i {identity}"
        self.program.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -q {options} "$@"\n')
        self.program.chmod(0o755)
        pve1 = f'[hosts.pve1]\nssh = "breakglass@127.0.0.1:{door.port}"\nkey_file = "/nonexistent"\n'
        (directory / "breakglass.toml").write_text(f'[hosts.pve0]\nssh = "192.0.2.1"\n{pve1}')
        self.agent.write_text(OLD)

    def upgrade(self, *words: str) -> "subprocess.CompletedProcess[str]":
        config = {"BREAKGLASS_CONFIG": f"{self.directory}/breakglass.toml"}
        path = {"PATH": f"{self.program.parent}:{os.environ['PATH']}"}
        argv = [sys.executable, "-m", "breakglass", "host", "upgrade", *words]
        return subprocess.run(
            argv, env=os.environ | config | path, cwd=ROOT, capture_output=True, text=True, timeout=120
        )


@pytest.mark.all
@pytest.mark.real("sshd", "mounts", "root")
def test_the_new_agent_takes_the_place_of_the_old_one(door: Door, tmp_path: Path) -> None:
    """A host without an address is named, and holds up no other. A copy that is damaged on its way is not installed."""
    operator = Operator(door, tmp_path)
    program = operator.program.read_text()
    operator.program.write_text(program.replace("exec /usr", "head -c 5000 | exec /usr"))
    ran = operator.upgrade("pve1")
    assert (ran.returncode, operator.agent.read_text(), "damaged" in ran.stderr) == (1, OLD, True)
    assert "pve1: " in ran.stderr
    operator.program.write_text(program)
    ran = operator.upgrade("pve1")
    assert (ran.returncode, ran.stdout.splitlines()[0], ran.stderr) == (0, f"pve1: 0.1.0 -> {VERSION}", "")
    status = operator.agent.stat()
    assert (operator.agent.read_text(), status.st_mode & 0o7777, status.st_uid) == (bundle(), 0o755, 0)
    assert [path.name for path in operator.agent.parent.glob("breakglass*")] == ["breakglass-pve"]
    ran = operator.upgrade("--all", "--json")
    upgraded, failed = json.loads(ran.stdout)["hosts"]
    assert (ran.returncode, ran.stdout.count("\n")) == (1, 1)
    assert upgraded == {"host": "pve1", "before": VERSION, "after": VERSION, "error": None}
    assert (failed["host"], failed["after"], "hosts.pve0.ssh" in failed["error"]) == ("pve0", None, True)


@pytest.mark.all
@pytest.mark.real("sshd", "mounts", "root")
def test_the_sessions_of_the_old_agent_end_and_its_jobs_go_on(door: Door, tmp_path: Path) -> None:
    """A job is known by its input, which is /dev/null."""
    operator = Operator(door, tmp_path)
    operator.agent.write_text("#!/usr/bin/python3 -IS\nimport time\nprint('up', flush=True)\ntime.sleep(1000)\n")
    line = door.host.inside(AGENT, "serve", "--vms", "102")
    session, job = (
        subprocess.Popen(line, stdin=its, stdout=subprocess.PIPE, text=True)
        for its in (subprocess.PIPE, subprocess.DEVNULL)
    )
    try:
        for process in (session, job):
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
        operator.agent.write_text(OLD)  # which says its version
        assert operator.upgrade("pve1").returncode == 0
        assert session.wait(60) == -signal.SIGTERM
        assert job.poll() is None
    finally:
        for process in (session, job):
            process.kill()
            process.communicate()
