"""The recipe of `--account root`, run as it stands beside a real sshd: the other way in, and from one way to the other.

The handler's address is 127.0.0.2 here; from 127.0.0.1 come root's other logins.
"""

import re
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from ..support.installing import Door, Installed, edit, new_key, odd

pytestmark = [pytest.mark.real("sshd"), pytest.mark.slow]

AGENT = "/usr/local/sbin/breakglass-pve"
KEYS = "/etc/ssh/authorized_keys.d/breakglass"
HANDLER, ELSEWHERE = "127.0.0.2", "127.0.0.1"
OWN = ".ssh/authorized_keys .ssh/authorized_keys2"
RECIPE = {"user": "root", "source": HANDLER}


@pytest.fixture
def own_key(host: Installed) -> str:
    """A key of root's own, in root's own file."""
    private, public = new_key()
    (host.root / ".ssh/authorized_keys").write_text(f"{public} an operator\n")
    return private


def run_recipe(host: Installed, recipe: str) -> "subprocess.CompletedProcess[str]":
    ran = host.run("/bin/sh", "-s", stdin=recipe)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran


def settings(host: Installed, user: str, address: str, *options: str) -> list[str]:
    """Return the lines of `sshd -T` for a login."""
    ran = host.run("/usr/sbin/sshd", "-T", "-C", f"user={user},host=x,addr={address},lport=22", *options)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_our_key_opens_nothing_from_elsewhere(door: Door) -> None:
    """A stolen key needs the handler's address too, and no other user has the file.

    From there it runs a verb, and opens neither a shell nor a terminal nor a forwarding.
    """
    host = door.host
    ran = door.login(host.power, "status vm=102", source=ELSEWHERE)
    assert (ran.returncode, "Permission denied" in ran.stderr) == (255, True)
    assert door.login(host.power, "status vm=102", user="nobody").returncode == 255
    assert door.login(host.power, "status vm=102").returncode == 0
    assert door.login(host.power, "/bin/sh").returncode == 10
    terminal = subprocess.run(door.client(host.power, "-tt"), capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    assert (terminal.returncode, b"PTY allocation request failed" in terminal.stderr) == (255, True)
    argv = door.client(host.power, "-W", f"127.0.0.1:{door.port}")
    forward = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    assert (forward.returncode, b"administratively prohibited" in forward.stderr) == (255, True)


def test_roots_own_key_is_as_it_was(door: Door, own_key: str) -> None:
    """It opens a shell, a terminal, a forwarding and ~/.ssh/rc, from the handler's address and from another."""
    (door.host.root / ".ssh/rc").write_text("echo own rc >&2\n")
    for source in (HANDLER, ELSEWHERE):
        ran = door.login(own_key, "id -u; echo $HOME", source=source)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "0\n/root\n", "own rc\n")
        argv = door.client(own_key, "-tt", source=source)
        terminal = subprocess.run([*argv, "tty"], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
        assert terminal.stdout.splitlines()[-1].startswith("/dev/pts/")
        argv = door.client(own_key, "-W", f"127.0.0.1:{door.port}", source=source)
        forward = subprocess.run(argv, capture_output=True, input=b"", timeout=60)
        assert forward.stdout.startswith(b"SSH-2.0-")


# --- what sshd makes of the drop-in ---


def test_the_block_changes_nothing_else(host: Installed) -> None:
    """`sshd -T` differs in two settings for root from the handler, and in none for root from elsewhere or for others.

    That holds even where the text stands above the other settings, and not in its own file.
    """
    main, logins = host.etc / "ssh/sshd_config", [("root", HANDLER), ("root", ELSEWHERE), ("nobody", HANDLER)]
    main.write_text(main.read_text() + "X11Forwarding yes\nMaxAuthTries 3\nAuthorizedKeysFile .ssh/authorized_keys\n")
    text = host.drop_in.read_text()
    host.drop_in.unlink()
    for name, before in (("with", text), ("without", text.partition("Match")[0])):
        (host.etc / f"ssh/{name}").write_text(before + main.read_text())
    for login in logins:
        ours, plain = ({*settings(host, *login, "-f", f"/etc/ssh/{name}")} for name in ("with", "without"))
        expected = {f"authorizedkeysfile {OWN} {KEYS}", "clientaliveinterval 15"}
        assert ours - plain == (expected if login == ("root", HANDLER) else set())
        assert len(ours) == len(plain)


# --- from one way to the other ---


@pytest.mark.all
def test_from_an_account_to_root_and_back(host: Installed) -> None:
    """Each recipe removes the login of the other and its block in sshd_config, so one account can log in.

    An account that was changed may be in other use, so it stays; what to remove is said, and `check` warns of it.
    """
    run_recipe(host, host.print_recipe("breakglass"))
    assert_ways_in(host, breakglass=0, root=255)
    assert host.run("usermod", "--comment", "changed", "breakglass").returncode == 0
    ran = run_recipe(host, host.recipe)
    assert "earlier recipe stays" in ran.stderr
    assert "breakglass has uid 0" in ran.stdout
    assert_ways_in(host, breakglass=255, root=0)
    assert host.run("usermod", "--comment", "", "breakglass").returncode == 0
    run_recipe(host, host.print_recipe("breakglass"))
    ran = run_recipe(host, host.recipe)
    assert "is removed" in ran.stdout
    for name in ("passwd", "shadow"):
        assert (host.etc / name).read_text() == Path(f"/etc/{name}").read_text()


def assert_ways_in(host: Installed, **codes: int) -> None:
    """Log in with the power key as each user to an sshd that reads the configuration of now."""
    with closing(Door(host, "-o", "PermitRootLogin=yes")) as door:
        for user, code in codes.items():
            for source in (HANDLER, ELSEWHERE) if code else (HANDLER,):
                ran = door.login(host.power, "status vm=102", user=user, source=source)
                assert (user, ran.returncode) == (user, code), ran.stderr


# --- check, and what it finds ---


def test_check_passes_on_what_the_recipe_installed(host: Installed) -> None:
    """The recipe makes no account. `check` finds the login by sshd's configuration, and each of its lines is ok."""
    assert host.first.returncode == 0, host.first.stdout + host.first.stderr
    for name in ("passwd", "shadow"):
        assert (host.etc / name).read_text() == Path(f"/etc/{name}").read_text()
    ran = host.check()
    assert (ran.returncode, ran.stderr) == (0, "")
    assert re.findall("^(?:error|warning): .*", host.first.stdout + ran.stdout, re.MULTILINE) == []
    for mark in (
        "/bin/bash\n",
        f"{KEYS} for root from {HANDLER} and not from elsewhere",
        f"{KEYS}:1: ",
        "root's own key",
    ):
        assert mark in ran.stdout
    assert host.run(AGENT, "check", "--user", "root").stdout == ran.stdout


def found(host: Installed, code: int) -> list[str]:
    """Run `check`, and return what it finds without what to do, which each finding has."""
    ran = host.check()
    assert (ran.returncode, ran.stderr) == (code, "")
    lines = [line for line in ran.stdout.splitlines() if line.startswith(("error: ", "warning: "))]
    assert all(" / " in line for line in lines), lines
    return [line.partition(" / ")[0] for line in lines]


def configure(host: Installed, *lines: str) -> None:
    (host.etc / "ssh/sshd_config.d/50-site.conf").write_text("\n".join(lines))


def test_check_names_each_error(host: Installed) -> None:
    """What sshd's own settings, the key files and the account keep from working; some hide others."""
    edit(host.drop_in, ("AuthorizedKeysFile .ssh/authorized_keys ", "AuthorizedKeysFile "), (KEYS, "/nowhere"))
    methods = "AuthenticationMethods publickey,password"
    configure(host, "PermitRootLogin no", "AllowUsers admin", methods, "Match User root", "ForceCommand /bin/true")
    edit(host.etc / "passwd", (":/root:/bin/bash", ":/root:/usr/sbin/nologin"))
    edit(host.keys, (f'command="{AGENT} serve --vms 102"', "no-pty"))
    marks = {f"error: sshd does not read {KEYS} ", "/root/.ssh/authorized_keys ", f"error: {KEYS}:1 has no command="}
    marks |= {"error: PermitRootLogin no", methods.lower(), "error: AllowUsers", "ForceCommand", '"/usr/sbin/nologin"'}
    lines = found(host, 1)
    assert odd(lines, {*marks, "warning: there is"}) == []
    assert [line.startswith("error: ") for line in lines].count(True) == len(marks)
    host.restore_files()
    configure(host, "PubkeyAuthentication no")
    host.keys.rename(host.etc / "pve/priv/breakglass")
    host.keys.symlink_to("/etc/pve/priv/breakglass")
    assert odd(found(host, 1), {"error: PubkeyAuthentication no", f"error: {KEYS} is below /etc/pve"}) == []
    host.restore_files()
    edit(host.drop_in, (f" Address {HANDLER}", ""))
    assert "no Match block" in found(host, 1)[0]
    host.restore_files()
    edit(host.drop_in, ("Match all", "Mitch all"))
    assert any(line.startswith("error: sshd -T failed") for line in found(host, 1))


def test_check_names_each_warning(host: Installed) -> None:
    """Exit 0, because a rescue works now."""
    (host.root / ".bashrc").write_text("# aliases\nread -r line </srv/nas/aliases\n")
    configure(host, f"AuthorizedKeysFile {OWN} {KEYS}")
    for argv in (("useradd", "-o", "-u0", "-g0", "-M", "-N", "toor"), ("chage", "-M", "365", "root")):
        assert host.run(*argv).returncode == 0
    marks = {"/root/.bashrc", f"{KEYS} for root from every address", "toor has uid 0", "root expires"}
    assert odd(found(host, 0), marks) == []
