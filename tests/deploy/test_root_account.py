"""The recipe of `--account root`, run as it stands beside a real sshd: the other way in, and from one way to the other.

The handler's address is 127.0.0.2 here; from 127.0.0.1 come root's other logins.
"""

import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ..support.hung import seen_by_servers, unserved_fuse
from ..support.installing import Door, Installed, new_key
from ..support.sshd import descendants
from ..support.stages import until

pytestmark = [pytest.mark.real("sshd"), pytest.mark.slow]

AGENT = "/usr/local/sbin/breakglass-pve"
KEYS = "/etc/ssh/authorized_keys.d/breakglass"
HANDLER, ELSEWHERE = "127.0.0.2", "127.0.0.1"
OWN = ".ssh/authorized_keys .ssh/authorized_keys2"


@pytest.fixture(scope="module")
def host_of_module() -> Iterator[Installed]:
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
        host = Installed(Path(directory), user="root", source=HANDLER)
        yield host
        host.close()


@pytest.fixture
def host(host_of_module: Installed) -> Iterator[Installed]:
    """The installed host; what a test changes on it is put back."""
    yield host_of_module
    host_of_module.restore()


@pytest.fixture(scope="module")
def door_of_module(host_of_module: Installed) -> Iterator[Door]:
    door = Door(host_of_module, "-o", "PermitRootLogin=yes")
    yield door
    door.close()


@pytest.fixture
def door(host: Installed, door_of_module: Door) -> Door:
    """An sshd that has read what the first recipe left; it reads the key files at each login."""
    return door_of_module


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


@pytest.mark.all
def test_the_recipe_makes_no_account(host: Installed) -> None:
    """Its own check finds nothing, sshd was reloaded, and passwd and shadow are those of the machine."""
    assert host.first.returncode == 0, host.first.stdout + host.first.stderr
    assert "error:" not in host.first.stdout
    assert "warning:" not in host.first.stdout
    assert host.run("cat", "/run/said").stdout.splitlines()[0] == "systemctl try-reload-or-restart ssh"
    for name in ("passwd", "shadow"):
        assert (host.etc / name).read_text() == Path(f"/etc/{name}").read_text()


@pytest.mark.all
def test_the_recipe_of_a_second_handler_keeps_the_firsts_address(host: Installed) -> None:
    """Both handlers' keys log in to root's account, each from its own address."""
    ran = run_recipe(host, host.print_recipe("root", "--from", "192.0.2.60"))
    assert f"another handler's address, {HANDLER}; remove it" in ran.stdout
    assert f"\nMatch User root Address 192.0.2.60,{HANDLER}\n" in host.drop_in.read_text()


def test_our_key_has_its_forced_command_only(door: Door) -> None:
    """It runs a verb, and opens neither a shell nor a terminal nor a forwarding."""
    host = door.host
    assert door.login(host.power, "status vm=102").returncode == 0
    assert door.login(host.power, "/bin/sh").returncode == 10
    terminal = subprocess.run(door.client(host.power, "-tt"), capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    assert (terminal.returncode, b"PTY allocation request failed" in terminal.stderr) == (255, True)
    assert "this key opens no shell" in door.login(host.power).stderr
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


def test_our_key_opens_nothing_from_elsewhere(door: Door) -> None:
    """A stolen key needs the handler's address too, and no other user has the file."""
    host = door.host
    ran = door.login(host.power, "status vm=102", source=ELSEWHERE)
    assert (ran.returncode, "Permission denied" in ran.stderr) == (255, True)
    assert door.login(host.power, "status vm=102", user="nobody").returncode == 255
    assert door.login(host.power, "status vm=102").returncode == 0


def test_a_key_that_is_also_roots_own_keeps_its_shell(door: Door) -> None:
    """Root's own files are first, so nothing in ours takes a right away from root; `check` names the key."""
    host = door.host
    (host.root / ".ssh/authorized_keys").write_text(f"{host.power_public}\n")
    assert door.login(host.power, "id -u").stdout == "0\n"
    ran = host.check()
    assert (ran.returncode, "has a breakglass key without a command=, which opens a root shell" in ran.stdout) == (
        1,
        True,
    )


# --- what sshd makes of the drop-in ---


def test_the_block_changes_nothing_else(host: Installed) -> None:
    """`sshd -T` differs in two settings for root from the handler, and in none for root from elsewhere or for others.

    That holds even where the text stands above the other settings, and not in its own file, after which sshd of
    today ends a block by itself.
    """
    main, logins = host.etc / "ssh/sshd_config", [("root", HANDLER), ("root", ELSEWHERE), ("nobody", HANDLER)]
    main.write_text(main.read_text() + "X11Forwarding yes\nMaxAuthTries 3\nAuthorizedKeysFile .ssh/authorized_keys\n")
    with_drop_in = {login: settings(host, *login) for login in logins}
    text = host.drop_in.read_text()
    host.drop_in.unlink()
    one = host.etc / "ssh/one"
    one.write_text(text + main.read_text())
    above = {login: settings(host, *login, "-f", "/etc/ssh/one") for login in logins}
    one.write_text(text.partition("Match")[0] + main.read_text())
    for found in (with_drop_in, above):
        for login in logins:
            plain = settings(host, *login, "-f", "/etc/ssh/one")
            ours = {f"authorizedkeysfile {OWN} {KEYS}", "clientaliveinterval 15"}
            assert {*found[login]} - {*plain} == (ours if login == ("root", HANDLER) else set())
            assert len(found[login]) == len(plain)


@pytest.mark.all
@pytest.mark.parametrize(
    "shell",
    [("/bin/sh", "-s"), pytest.param(("/bin/bash", "--norc", "-i"), marks=pytest.mark.all)],
    ids=["sh", "interactive bash"],
)
def test_a_refused_drop_in_leaves_the_old_one(host: Installed, shell: tuple[str, ...]) -> None:
    """Nothing is reloaded, and the way in that worked still does."""
    before, reloads = host.drop_in.read_text(), host.run("cat", "/run/said").stdout
    ran = host.run(*shell, stdin=host.recipe.replace("Interval 15", "Interval x"))
    assert (ran.returncode, host.drop_in.read_text()) == (1, before), ran.stderr
    assert "sshd refuses the configuration" in ran.stderr
    assert host.run("cat", "/run/said").stdout == reloads
    assert sorted(path.name for path in host.drop_in.parent.iterdir()) == [
        host.drop_in.name,
        f"{host.drop_in.name}.refused",
    ]


# --- from one way to the other ---


@pytest.mark.all
def test_the_account_of_an_earlier_recipe_is_removed(host: Installed) -> None:
    """Its line in passwd and the one in shadow, and those of no other account."""
    host.drop_in.write_text("Match User rescue\nMatch all\n")
    for name in ("rescue", "rescued"):
        run("useradd", "-o", "-u0", "-g0", "-d/", "-M", "-s/bin/sh", name)(host)
    ran = run_recipe(host, host.recipe)
    assert "the account rescue of an earlier recipe is removed; " in ran.stdout
    for file in ("passwd", "shadow"):
        names = [line.partition(":")[0] for line in (host.etc / file).read_text().splitlines()]
        assert (names.count("rescue"), names.count("rescued")) == (0, 1)


@pytest.mark.all
def test_from_an_account_to_root_and_back(host: Installed) -> None:
    """Each recipe removes the login of the other and its block in sshd_config, so one account can log in."""
    run_recipe(host, host.print_recipe("breakglass"))
    checked = host.check()
    assert (checked.returncode, "ok: breakglass has uid 0" in checked.stdout) == (0, True), checked.stdout
    assert_ways_in(host, breakglass=0, root=255)
    ran = run_recipe(host, host.recipe)
    assert "the account breakglass of an earlier recipe is removed" in ran.stdout
    for name in ("passwd", "shadow"):
        assert (host.etc / name).read_text() == Path(f"/etc/{name}").read_text()
    checked = host.check()
    assert (checked.returncode, "ok: no other account has uid 0" in checked.stdout) == (0, True), checked.stdout
    assert_ways_in(host, breakglass=255, root=0)


def assert_ways_in(host: Installed, **codes: int) -> None:
    """Log in with the power key as each user to an sshd that reads the configuration of now."""
    door = Door(host, "-o", "PermitRootLogin=yes")
    try:
        for user, code in codes.items():
            for source in (HANDLER, ELSEWHERE) if code else (HANDLER,):
                ran = door.login(host.power, "status vm=102", user=user, source=source)
                assert (user, ran.returncode) == (user, code), ran.stderr
    finally:
        door.close()


@pytest.mark.all
def test_an_account_that_the_recipe_did_not_make_stays(host: Installed) -> None:
    """It may be in other use. What to remove is said, and `check` warns of it."""
    run_recipe(host, host.print_recipe("breakglass"))
    assert host.run("usermod", "--comment", "for the night shift", "breakglass").returncode == 0
    ran = run_recipe(host, host.recipe)
    assert "the account breakglass of an earlier recipe stays, because it was changed; remove its line" in ran.stderr
    assert "warning: breakglass has uid 0 as well / " in ran.stdout
    assert_ways_in(host, breakglass=255, root=0)


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


def main_config(line: str) -> Callable[[Installed], None]:
    def do(host: Installed) -> None:
        (host.etc / "ssh/sshd_config.d/50-site.conf").write_text(f"{line}\n")

    return do


def run(*argv: str) -> Callable[[Installed], None]:
    def do(host: Installed) -> None:
        assert host.run(*argv).returncode == 0

    return do


def link_into_pve(host: Installed) -> None:
    host.keys.rename(host.etc / "pve/priv/breakglass")
    host.keys.symlink_to("/etc/pve/priv/breakglass")


def write_bashrc(host: Installed) -> None:
    (host.root / ".bashrc").write_text("# aliases\nread -r line </srv/nas/aliases\n")


ERRORS: dict[str, tuple[Callable[[Installed], None], str]] = {
    "ours is not named": (drop_in(KEYS, "/nowhere"), f"sshd does not read {KEYS} for root from {HANDLER} / name it"),
    "root's own are not named": (
        drop_in(OWN, ".ssh/authorized_keys2"),
        f"sshd does not read root's own /root/.ssh/authorized_keys for root from {HANDLER} / name it in the Match",
    ),
    "no address": (
        drop_in(f" Address {HANDLER}", ""),
        "sshd's configuration has no Match block for root and the handler's address / run the commands that",
    ),
    "PermitRootLogin no": (
        main_config("PermitRootLogin no"),
        f"PermitRootLogin no refuses every key of root from {HANDLER} / set PermitRootLogin forced-commands-only in",
    ),
    "ForceCommand": (
        main_config("Match User root\nForceCommand /bin/true\nMatch all"),
        "sshd has a ForceCommand for root: /bin/true / remove it",
    ),
    "a second factor": (
        main_config("AuthenticationMethods publickey,password"),
        "sshd has authenticationmethods publickey,password for root, so a key alone is not enough / set",
    ),
    "no keys at all": (
        main_config("PubkeyAuthentication no"),
        "PubkeyAuthentication no refuses every key of root / set PubkeyAuthentication yes in the Match block",
    ),
    "AllowUsers": (main_config("AllowUsers admin"), "AllowUsers does not name root / add root to it"),
    "broken sshd_config": (drop_in("Match all", "Mitch all"), "sshd -T failed, so sshd's settings are not known / run"),
    "no shell": (edit("passwd", ":/root:/bin/bash", ":/root:/usr/sbin/nologin"), "the shell of root is"),
    "no command=": (
        edit("ssh/authorized_keys.d/breakglass", f'command="{AGENT} serve --vms 102"', "no-pty"),
        f"{KEYS}:1 has no command= / ",
    ),
    "a link": (
        link_into_pve,
        f"{KEYS} is below /etc/pve, which is gone when the cluster file system is down / ",
    ),
}  # fmt: skip
WARNINGS: dict[str, tuple[Callable[[Installed], None], str]] = {
    "a bashrc": (write_bashrc, "bash runs /root/.bashrc before the host agent, and a command there that hangs"),
    "read from everywhere": (
        main_config(f"AuthorizedKeysFile {OWN} {KEYS}"),
        f"sshd reads {KEYS} for root from every address / name it only in the Match block",
    ),
    "a second account": (
        run("useradd", "-o", "-u0", "-g0", "-M", "-N", "toor"),
        "toor has uid 0 as well / if an earlier recipe made it, remove its line: vipw, vipw -s",
    ),
    "expiry": (
        run("chage", "-M", "365", "root"),
        "root expires, and its keys then stop working / chage -l root shows the date; renew it before that",
    ),
}  # fmt: skip


@pytest.mark.all
def test_check_passes_on_what_the_recipe_installed(host: Installed) -> None:
    """Without an option it finds the way by sshd's configuration; each line is ok."""
    ran = host.check()
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == [
        *ran.stdout.splitlines()[:10],
        "ok: /etc/pve answers, and this node has a quorum",
        "ok: root has the shell /bin/bash",
        "ok: bash reads /root/.bashrc before the host agent, and no command in it runs",
        "ok: no other account has uid 0",
        "ok: logind: KillUserProcesses=no, so a job outlives its SSH session",
        "ok: root is not locked and does not expire",
        next(line for line in ran.stdout.splitlines() if line.startswith("ok: sshd: PermitRootLogin ")),
        f"ok: sshd reads {KEYS} for root from {HANDLER} and not from elsewhere, beside root's own files",
        f"ok: {KEYS} belongs to root, and only root can change it",
        f"ok: {KEYS}: every key has restrict and its own command=",
        f"ok: {KEYS}:1: a power key for VM 102",
        'ok: VM 102 "vm102" is configured on this node',
        "ok: root's own key files have no breakglass key",
    ]
    assert {line.partition(":")[0] for line in ran.stdout.splitlines()} == {"ok"}
    assert host.run(AGENT, "check", "--user", "root").stdout == ran.stdout


def few_of(names: Iterable[str], *few: str) -> list[object]:
    """Return the names; all but a few run with --all only."""
    return [name if name in few else pytest.param(name, marks=pytest.mark.all) for name in names]


@pytest.mark.parametrize("name", few_of(ERRORS, "ours is not named", "root's own are not named", "PermitRootLogin no"))
def test_check_finds_an_error(host: Installed, name: str) -> None:
    change, expected = ERRORS[name]
    change(host)
    ran = host.check()
    errors = [line for line in ran.stdout.splitlines() if line.startswith("error: ")]
    assert ran.returncode == 1
    assert [line for line in errors if line.startswith(f"error: {expected}") and " / " in line], ran.stdout


@pytest.mark.parametrize("name", few_of(WARNINGS, "read from everywhere"))
def test_check_warns(host: Installed, name: str) -> None:
    """Exit 0, and one line that is not ok."""
    change, expected = WARNINGS[name]
    change(host)
    ran = host.check()
    [warning] = [line for line in ran.stdout.splitlines() if not line.startswith("ok: ")]
    assert (ran.returncode, warning.startswith(f"warning: {expected}")) == (0, True), warning


@pytest.mark.all
def test_root_may_be_permitted_forced_commands_only(host: Installed) -> None:
    """Where root may not log in, a block in its own drop-in lets our keys in, and the recipe leaves it alone."""
    main_config("PermitRootLogin no")(host)
    block = f"Match User root Address {HANDLER}\n    PermitRootLogin forced-commands-only\nMatch all\n"
    (host.drop_in.parent / "01-root.conf").write_text(block)
    run_recipe(host, host.recipe)
    assert host.check().returncode == 0
    for address, expected in ((HANDLER, "forced-commands-only"), (ELSEWHERE, "no")):
        assert f"permitrootlogin {expected}" in settings(host, "root", address)


# --- a hung /etc/pve ---


@pytest.mark.all
@pytest.mark.real("fuse")
def test_a_login_while_etc_pve_hangs() -> None:
    """Root's own file leads there, as on Proxmox, and is read before ours: the login waits, until pmxcfs dies."""
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as name, seen_by_servers(Path(name)):
        host = Installed(Path(name), user="root", source=HANDLER)
        door = Door(host, "-o", "PermitRootLogin=yes")
        try:
            (host.root / ".ssh/authorized_keys").symlink_to("/etc/pve/priv/authorized_keys")
            argv = [*door.client(host.power), "status vm=102"]
            with unserved_fuse(host.etc / "pve"):
                login = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                until(lambda: is_waiting_for_fuse(door), "a look at root's own file")
                assert login.poll() is None
            assert login.communicate(timeout=60)[0].startswith("stopped: "), login.returncode
        finally:
            door.close()
            host.close()


def is_waiting_for_fuse(door: Door) -> bool:
    for pid in descendants(door.process.pid):
        with suppress(OSError):  # it has ended meanwhile
            where = Path(f"/proc/{pid}/wchan").read_text()
            if "fuse" in where or "request_wait" in where:
                return True
    return False
