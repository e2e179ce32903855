"""Installing on the Proxmox host: the printed recipe, run as it stands beside a real sshd, and then `breakglass-pve`.

The recipe's text, and the command that prints it, are in test_recipe.py.
"""

import fcntl
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from breakglass.agents.pve.check.key_lines import parse_key_lines

from ..support.installing import Door, Installed, host_keys, new_key
from ..support.selection import sampled
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
def host_of_module() -> Iterator[Installed]:
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
        host = Installed(Path(directory), MORE + host_keys(Path(directory)))
        yield host
        host.close()


@pytest.fixture
def host(host_of_module: Installed) -> Iterator[Installed]:
    """The installed host; what a test changes on it is put back."""
    yield host_of_module
    host_of_module.restore()


@pytest.fixture(scope="module")
def door_of_module(host_of_module: Installed) -> Iterator[Door]:
    door = Door(host_of_module, "-o", "UsePAM=yes")
    yield door
    door.close()


@pytest.fixture
def door(host: Installed, door_of_module: Door) -> Door:
    """A running sshd; it reads the key file at each login, so what a test changes there takes effect."""
    return door_of_module


@pytest.mark.real("sshd")
def test_the_recipe_ends_with_0(host: Installed) -> None:
    """The pasted recipe ends with 0: its own check found no error, and sshd was reloaded."""
    assert host.first.returncode == 0, host.first.stdout + host.first.stderr
    assert "warning" not in host.first.stderr
    assert host.host_key in host.first.stdout
    assert "error:" not in host.first.stdout
    assert "warning:" not in host.first.stdout
    assert host.run("cat", "/run/said").stdout.splitlines()[0] == "systemctl try-reload-or-restart ssh"


@pytest.mark.real("sshd")
@pytest.mark.parametrize("pam", sampled(["yes", "no"], "yes"))
def test_each_key_runs_only_its_own_verbs(host: Installed, pam: str) -> None:
    """The power key runs a verb; a read-only key gets 16 for a reset, and reads; neither gets a shell."""
    reading, public = new_key()
    host.keys.write_text(f'{host.keys.read_text()}restrict,command="{SERVE} --read-only" {public}\n')
    door = Door(host, "-o", f"UsePAM={pam}")
    try:
        assert door.login(host.power, "status vm=102").returncode == 0
        refused = door.login(reading, "reset vm=102")
        assert (refused.returncode, refused.stdout.splitlines()[0]) == (16, "approval-required: reset")
        assert door.login(reading, "status vm=102").returncode == 0
        assert [door.login(key, "/bin/sh").returncode for key in (host.power, reading)] == [10, 10]
    finally:
        door.close()


@pytest.mark.all
@pytest.mark.real("sshd")
def test_the_key_serves_the_vms_of_its_host(door: Door) -> None:
    """One key for all VMs of the host: each by its number, another host's never, and without a number none."""
    host = door.host
    for vmid in (102, 103, 110):
        assert door.login(host.power, f"status vm={vmid}").returncode == ALLOWED
    refused = door.login(host.power, "status vm=104")
    assert (refused.returncode, "serves VM 102-103,110, not 104" in refused.stderr) == (REFUSED, True)
    refused = door.login(host.power, "status")
    assert (refused.returncode, "name one, like" in refused.stderr) == (REFUSED, True)


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
    edit("passwd", "breakglass:x:0:", "breakglass:x:1234:")(host)
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
    assert_ok(host.run("/bin/sh", "-s", stdin=host.recipe))
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


def edit(path: str, old: str, new: str) -> Callable[[Installed], None]:
    """Return a sabotage that changes every `old` to `new` in a file below /etc."""

    def do(host: Installed) -> None:
        text = (host.etc / path).read_text()
        assert old in text
        (host.etc / path).write_text(text.replace(old, new))

    return do


def drop_in(old: str, new: str) -> Callable[[Installed], None]:
    return edit("ssh/sshd_config.d/00-breakglass.conf", old, new)


def key_file(old: str, new: str) -> Callable[[Installed], None]:
    return edit("ssh/authorized_keys.d/breakglass", old, new)


SABOTAGES: dict[str, tuple[Callable[[Installed], None], str]] = {
    "ForceCommand": (drop_in("PermitTTY no", "PermitTTY no\n ForceCommand /bin/true"), "ForceCommand for breakglass"),
    "forwarding": (drop_in("DisableForwarding yes", ""), "disableforwarding no"),
    "terminal": (drop_in("PermitTTY no", ""), "permittty yes"),
    "rc file": (drop_in("PermitUserRC no", ""), "permituserrc yes"),
    "broken sshd_config": (drop_in("Match all", "Mitch all"), "sshd -T failed"),
    "no drop-in": (lambda host: host.drop_in.unlink(), "disableforwarding no"),
    "no command=": (key_file(f'command="{SERVE}"', "no-pty"), "has no command="),
    "no restrict": (key_file("restrict,", ""), "has no restrict"),
    "a shell behind it": (key_file(SERVE, f"{SERVE};sh"), "does not run the host agent in the required form"),
    "world-writable keys": (lambda host: host.keys.chmod(0o666), "written by others"),
    "keys of another user": (lambda host: os.chown(host.keys, 65534, 0), "belongs to uid 65534"),
    "another uid": (edit("passwd", "breakglass:x:0:", "breakglass:x:1234:"), "has uid 1234"),
    "bash": (edit("passwd", "::/:/bin/sh\n", "::/:/bin/bash\n"), 'the shell of breakglass is "/bin/bash"'),
    "expiry": (lambda host: assert_ok(host.run("chage", "-M", "90", "breakglass")), "breakglass expires"),
}  # fmt: skip


def assert_ok(ran: "subprocess.CompletedProcess[str]") -> None:
    assert ran.returncode == 0, ran.stderr


@pytest.mark.real("sshd")
def test_check_passes_on_what_the_recipe_installed(host: Installed) -> None:
    """`check` ends with 0, every line is ok, and the key is counted."""
    ran = host.check()
    assert (ran.returncode, ran.stderr) == (0, "")
    assert {line.partition(":")[0] for line in ran.stdout.splitlines()} == {"ok"}
    for sentence in (
        *(
            "a power key for VM 102-103,110",
            'VM 102 "vm102" is configured on this node',
            'VM 103 "vm103" is',
            'VM 110 "vm110" is',
            "KillUserProcesses=no",
            "/run/breakglass",
        ),
    ):
        assert sentence in ran.stdout
    assert "VM 104" not in ran.stdout


@pytest.mark.real("sshd")
@pytest.mark.parametrize("name", sampled(SABOTAGES, "no drop-in", "no command=", "no restrict"))
def test_check_finds_a_sabotage(host: Installed, name: str) -> None:
    """`check` ends with 1 and an error that names the fault and says what to do."""
    sabotage, expected = SABOTAGES[name]
    sabotage(host)
    ran = host.check()
    assert (ran.returncode, ran.stderr) == (1, "")
    errors = [line for line in ran.stdout.splitlines() if line.startswith("error: ")]
    assert [line for line in errors if expected in line and " / " in line], ran.stdout
