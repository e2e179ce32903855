"""Installing on the Proxmox host: the printed recipe, run as it stands beside a real sshd, and then `breakglass-pve`.

The recipe's text, and the command that prints it, are in test_recipe.py.
"""

import fcntl
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from breakglass.agents.pve.check.key_lines import parse_key_lines

from ..support.installing import Door, Installed, host_keys, new_key
from ..support.stages import flock_waiters, until

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
"""


@pytest.fixture(scope="module")
def host_of_module(directory: Path) -> Iterator[Installed]:
    with closing(Installed(directory, MORE + host_keys(directory))) as host:
        yield host


@pytest.fixture
def host(host_of_module: Installed) -> Iterator[Installed]:
    """The installed host; what a test changes on it is put back."""
    yield host_of_module
    host_of_module.restore()


@pytest.fixture(scope="module")
def door_of_module(host_of_module: Installed) -> Iterator[Door]:
    with closing(Door(host_of_module, "-o", "UsePAM=yes")) as door:
        yield door


@pytest.fixture
def door(host: Installed, door_of_module: Door) -> Door:
    """A running sshd; it reads the key file at each login, so what a test changes there takes effect."""
    return door_of_module


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
    assert "a power key for VM 102-103,110" in ran.stdout
    assert re.findall(r'VM (\d+) "vm\1" is configured on this node', ran.stdout) == ["102", "103", "110"]


@pytest.mark.real("sshd")
def test_each_key_runs_only_its_own_verbs(door: Door) -> None:
    """The power key runs a verb; a read-only key gets 16 for a reset, and reads; neither gets a shell."""
    host, (reading, public) = door.host, new_key()
    host.keys.write_text(f'{host.keys.read_text()}restrict,command="{SERVE} --read-only" {public}\n')
    with closing(Door(host, "-o", "UsePAM=no")) as without_pam:
        assert without_pam.login(host.power, "status vm=102").returncode == ALLOWED
    refused = door.login(reading, "reset vm=102")
    assert (refused.returncode, refused.stdout.splitlines()[0]) == (16, "approval-required: reset")
    assert [door.login(key, "status vm=102").returncode for key in (host.power, reading)] == [ALLOWED] * 2
    assert [door.login(key, "/bin/sh").returncode for key in (host.power, reading)] == [10, 10]


@pytest.mark.real("sshd")
def test_a_line_without_a_command_gets_no_shell(door: Door) -> None:
    """A key line without a command is turned away by sshd, and three attempts do not lock the exempt address out."""
    host = door.host
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
    'command="echo seen #\r" @',
    'command="echo seen #\x0b\x0c\x1c\x85\u2028" @',
    'command="echo seen #\\"" @',
    'command="echo seen #\\x" @',
    'command="echo seen #\\\\" @',
    'environment="A=\\",command="echo seen",environment="A=" @',
    'command="echo seen" @\0',
    '\0command="echo seen" @',
    'command="echo seen" \x0c@',
    'command="echo seen",command="echo seen" @',
    'command="echo seen",,restrict @',
    'command="echo seen", @',
    ',,command="echo seen",, @',
    ', @ command="echo seen"',
    'command="echo \ta",command="echo seen" @',
    'command="echo seen",no-pty=x @',
    'command="echo seen"restrict @',
    "command=echo @",
    '#command="echo seen" @',
    'restrict # command="echo seen" @',
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
    """On a later day, pasted into an interactive bash as well, it leaves the same files and keys, a colleague's too."""
    added = f'restrict,command="{SERVE} --read-only" {new_key()[1]} a colleague\n'
    host.keys.write_text(added + host.keys.read_text())
    shadow = host.etc / "shadow"
    shadow.write_text(re.sub(r"(?<=^breakglass:\*:)\d+", "20000", shadow.read_text(), flags=re.MULTILINE))
    assert "\nbreakglass:*:20000:" in shadow.read_text()
    files = [host.keys, host.drop_in, host.etc / "passwd", shadow]
    before = [file.read_text() for file in files]
    ran = host.run("/bin/bash", "--norc", "-i", "-o", "histexpand", stdin=host.recipe)
    assert ran.returncode == 0, ran.stderr
    assert "event not found" not in ran.stderr
    assert "has other keys too" in ran.stdout
    assert [file.read_text() for file in files] == before


@pytest.mark.all
@pytest.mark.real("sshd")
def test_the_recipe_of_a_second_handler_keeps_the_firsts_address(host: Installed) -> None:
    """So does a recipe without --from. Without any address, the line is a comment to fill in."""
    exempt, sign = "PerSourcePenaltyExemptList", re.match("(# )?", host.drop_in.read_text())[0]  # type: ignore[index]
    for words, shown, line in (
        (
            ["--from", "192.0.2.60"],
            "another handler's address, 127.0.0.1; remove it",
            f"{sign}{exempt} 192.0.2.60,127.0.0.1",
        ),
        ([], "address, 192.0.2.60,127.0.0.1; remove it", f"{sign}{exempt} 192.0.2.60,127.0.0.1"),
        (["--from", "127.0.0.1,192.0.2.60"], "ok: ", f"{sign}{exempt} 127.0.0.1,192.0.2.60"),
    ):
        ran = host.run("/bin/sh", "-s", stdin=host.print_recipe("breakglass", *(words or ["--host", "pve1"])))
        assert (ran.returncode, shown in ran.stdout) == (0, True), ran.stderr
        assert host.drop_in.read_text().splitlines()[0] == line
    host.drop_in.unlink()
    assert host.run("/bin/sh", "-s", stdin=host.print_recipe("breakglass", "--host", "pve1")).returncode == 0
    assert host.drop_in.read_text().splitlines()[0] == f"# {exempt} ADDRESS"


@pytest.mark.real("sshd")
def test_an_agent_that_does_not_run_replaces_none(host: Installed) -> None:
    """What it says is shown, such as the Python that it needs, and the installed one stays."""
    before = (host.sbin / "breakglass-pve").read_text()
    (host.root / "breakglass-pve").write_text("#!/usr/bin/python3 -IS\nimport no_such_module\n")
    ran = host.run("/bin/sh", "-s", stdin=host.recipe)
    (host.root / "breakglass-pve").unlink()
    assert (ran.returncode, "No module named" in ran.stderr, "does not run here" in ran.stderr) == (1, True, True)
    assert {path.name: path.read_text() for path in host.sbin.glob("breakglass-pve*")} == {"breakglass-pve": before}


@pytest.mark.real("sshd")
def test_an_agent_that_is_not_root_says_so(host: Installed) -> None:
    """It can read neither QEMU's pid file nor its monitor, so it would call each VM stopped or wedged."""
    account = ["/usr/bin/setpriv", "--reuid=1001", "--regid=1001", "--clear-groups", "/usr/bin/env"]
    for verb, code in (("status vm=102", 13), ("cycle vm=102", 13), ("ping", 0)):
        ran = host.run(*account, f"SSH_ORIGINAL_COMMAND={verb}", AGENT, "serve", "--vms", "102")
        assert (ran.returncode, "has uid 1001 and needs root" in ran.stderr) == (code, code != 0), ran.stdout


@pytest.mark.real("sshd")
def test_an_account_that_is_not_roots_ends_the_recipe(host: Installed) -> None:
    """It may belong to a person, so it is named, and no key is written for it."""
    edit(host.etc / "passwd", ("breakglass:x:0:", "breakglass:x:1234:"))
    host.keys.write_text("")
    ran = host.run("/bin/sh", "-s", stdin=host.recipe)
    assert ran.returncode == 1
    assert ran.stderr.startswith("the account breakglass exists and its uid is not 0; ")
    assert host.keys.read_text() == ""


@pytest.mark.all
@pytest.mark.real("sshd")
def test_the_recipe_waits_for_another_edit_of_the_keys(host: Installed) -> None:
    """It reads the key file after an edit that is under way, so what that adds stays."""
    added = f'restrict,command="{SERVE} --read-only" {new_key()[1]} a colleague\n'
    editor = os.open(host.keys.parent, os.O_RDONLY)
    fcntl.flock(editor, fcntl.LOCK_EX)
    try:
        process = subprocess.Popen(host.inside("/bin/sh", "-c", host.recipe), stdout=subprocess.DEVNULL, cwd="/")
        until(lambda: flock_waiters(host.keys.parent), "the recipe's wait")
        host.keys.write_text(added + host.keys.read_text())
    finally:
        os.close(editor)
    assert (process.wait(timeout=60), host.keys.read_text().count(added)) == (0, 1)


@pytest.mark.all
@pytest.mark.real("sshd")
def test_the_recipe_keeps_lines_that_are_no_utf8(host: Installed) -> None:
    """A colleague's comment in Latin-1 makes the file no text for grep; his line and those after it stay."""
    added = f'restrict,command="{SERVE} --read-only" {new_key()[1]} J\xf6rg\n'.encode("latin-1")
    before = added + added.replace(b"ssh-ed25519 ", b"ssh-ed25519 A") + host.keys.read_bytes()
    host.keys.write_bytes(before)
    ran = host.run("/usr/bin/env", "LC_ALL=C.UTF-8", "/bin/sh", "-s", stdin=host.recipe)
    assert host.keys.read_bytes() == before, ran.stderr


@pytest.mark.all
@pytest.mark.real("sshd")
def test_allow_lets_the_key_reach_one_more_vm(door: Door) -> None:
    """Until then it is refused. The recipe's next run takes it back, as the configuration does not name it."""
    host = door.host
    before = host.keys.read_text()
    assert door.login(host.power, "status vm=104").returncode == REFUSED
    ran = host.run(AGENT, "allow", "104")
    assert ran.stdout.splitlines() == ["ok: line 1 serves VM 102-104,110 now"], ran.stderr
    assert door.login(host.power, "status vm=104").returncode == ALLOWED
    assert host.keys.read_text() == before.replace("102-103", "102-104")
    checked = host.check()
    assert (checked.returncode, 'ok: VM 104 "vm104" is configured on this node' in checked.stdout) == (0, True)
    assert host.run("/bin/sh", "-s", stdin=host.recipe).returncode == 0
    assert host.keys.read_text() == before


@pytest.mark.all
@pytest.mark.real("sshd")
def test_a_drop_in_that_sshd_refuses_is_taken_away(host: Installed) -> None:
    """A broken configuration is not reloaded, the one before it is back, and the agent's check is not reached."""
    broken = host.recipe.replace("PermitTTY no", "PermitTTY maybe")
    before, reloads = host.drop_in.read_text(), host.run("cat", "/run/said").stdout
    ran = host.run("/bin/sh", "-s", stdin=broken)
    assert (ran.returncode, host.drop_in.read_text()) == (1, before)
    assert "sshd refuses the configuration" in ran.stderr
    assert host.run("cat", "/run/said").stdout == reloads
    host.drop_in.unlink()
    assert host.run("/bin/sh", "-s", stdin=broken).returncode == 1
    assert sorted(path.name for path in host.drop_in.parent.iterdir()) == [f"{host.drop_in.name}.refused"]


# --- check, and what it finds ---


@pytest.mark.real("sshd")
def test_check_names_each_fault(host: Installed) -> None:
    """Exit 1, and a line with what to do for each: of sshd's own settings, the key file and the account."""
    edit(
        host.drop_in, ("PermitTTY no", "ForceCommand /bin/true"), ("DisableForwarding yes", ""), ("PermitUserRC no", "")
    )
    edit(host.keys, (f'restrict,command="{SERVE}"', "no-pty"))
    host.keys.write_text(f'{host.keys.read_text()}restrict,command="{SERVE};sh" {new_key()[1]}\n')
    host.keys.chmod(0o666)
    assert host.run("chage", "-M", "90", "breakglass").returncode == 0
    assert_errors(
        host,
        *("ForceCommand for breakglass", "disableforwarding no", "permittty yes", "permituserrc yes"),
        *("has no command=", "has no restrict", "does not run the host agent in the required form"),
        *("written by others", "breakglass expires"),
    )
    host.restore_files()
    edit(host.etc / "passwd", ("breakglass:x:0:", "breakglass:x:1234:"))
    edit(host.drop_in, ("Match all", "Mitch all"))
    assert_errors(host, "has uid 1234", "sshd -T failed")


def assert_errors(host: Installed, *expected: str) -> None:
    """Require that each error of `check` is one of these, and says what to do, and that none is missing."""
    ran = host.check()
    assert (ran.returncode, ran.stderr) == (1, "")
    errors = [line for line in ran.stdout.splitlines() if line.startswith("error: ")]
    assert [line for line in errors if " / " not in line or not any(words in line for words in expected)] == []
    assert [words for words in expected if not any(words in line for line in errors)] == []


def edit(file: Path, *changes: tuple[str, str]) -> None:
    text = file.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
