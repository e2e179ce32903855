"""Installing on the Proxmox host: the printed recipe, run as it stands beside a real sshd, and `breakglass-pve check`.

The recipe runs in a mount namespace with an /etc, /root, /run and /usr/local/sbin of its own, so that it may add an
account and change sshd's configuration; the machine's own files stay as they are.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncssh
import pytest

from breakglass.agents.bundle import bundle
from breakglass.cli.install import Keys, recipe
from breakglass.config.model import Address, Vm
from breakglass.proxmox.connect import public_key

from ..support.ports import reserve_port
from ..support.service import new_secret
from ..support.sshd import descendants, wait_listening

ROOT = Path(__file__).parent.parent.parent
POWER, READING = "ssh-ed25519 AAAApower", "ssh-ed25519 AAAAread"
VM = Vm("devvm", 102, Address("breakglass", "192.0.2.10", 2222), "the private key")
SERVE = "/usr/local/sbin/breakglass-pve serve --vm 102"


def new_key() -> tuple[str, str]:
    """Return a private key and its public half."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    return key.export_private_key().decode(), " ".join(key.export_public_key().decode().split()[:2])


def heredoc(text: str, name: str) -> list[str]:
    """Return the lines that the recipe writes between <<'NAME' and NAME."""
    return text.partition(f"<<'{name}'\n")[2].partition(f"\n{name}\n")[0].splitlines()


# --- the text ---


def test_each_key_has_its_own_line_and_forced_command() -> None:
    """The power key and the read-only key have different forced commands."""
    assert heredoc(recipe(VM, Keys(POWER, READING)), "KEYS") == [
        f'restrict,command="{SERVE}" {POWER} breakglass power devvm',
        f'restrict,command="{SERVE} --read-only --as claude" {READING} breakglass read devvm',
    ]


def test_without_an_agent_key_its_line_is_a_comment() -> None:
    """Without agent_key its line is a comment, which is not installed."""
    text = recipe(VM, Keys(POWER))
    assert len(heredoc(text, "KEYS")) == 1
    assert [line[0] for line in text.splitlines() if "--read-only" in line and "overr" not in line] == ["#"]


@pytest.mark.parametrize("keys", [Keys(POWER), Keys(POWER, READING)])
@pytest.mark.parametrize("source", [None, "192.0.2.50"])
def test_every_placeholder_of_the_recipe_is_filled_in(keys: Keys, source: str | None) -> None:
    """Each placeholder is filled in, and each choice is made."""
    assert re.findall(r"@[A-Z_]+@|^#(?:if|else|end)\b.*", recipe(VM, keys, source), re.MULTILINE) == []


def test_the_drop_in_is_the_documented_one() -> None:
    """The drop-in has a Match block for the account only, without ForceCommand, and ends the block."""
    lines = heredoc(recipe(VM, Keys(POWER)), "SSHD")
    assert (lines[0], lines[-1]) == ("Match User breakglass", "Match all")
    assert [line.strip() for line in lines[1:-1]] == [
        "AuthorizedKeysFile /etc/ssh/authorized_keys.d/%u",
        "AuthenticationMethods publickey",
        "PermitRootLogin forced-commands-only",
        "DisableForwarding yes",
        "PermitTTY no",
        "PermitUserRC no",
        "ClientAliveInterval 15",
    ]


def test_from_exempts_the_handlers_address() -> None:
    """The exemption is global, so it is before the Match block; without --from it is a comment."""
    text = recipe(VM, Keys(POWER), "192.0.2.50")
    assert text.index("exempt='PerSourcePenaltyExemptList 192.0.2.50'") < text.index("Match User")
    assert "ignoreip = 127.0.0.1/8 ::1 192.0.2.50" in text
    assert "exempt='# PerSourcePenaltyExemptList ADDRESS'" in recipe(VM, Keys(POWER))


@pytest.mark.parametrize("source", ["192.0.2.0; reboot", "*", "handler.example", "192.0.2.50'", ""])
def test_a_wrong_from_address_is_refused(source: str) -> None:
    """An address is checked before it goes into a root shell."""
    with pytest.raises(ValueError, match="does not appear to be"):
        recipe(VM, Keys(POWER), source)


def test_root_login_and_one_key_for_both_lines_are_refused() -> None:
    """The recipe must not restrict root's own login, and one key can't have two lines."""
    with pytest.raises(ValueError, match="logs in as root"):
        recipe(Vm("devvm", 102, Address("root", "192.0.2.10"), ""), Keys(POWER))
    with pytest.raises(ValueError, match="the same key"):
        recipe(VM, Keys(POWER, POWER))


@pytest.mark.parametrize("keys", [Keys(POWER), Keys(POWER, READING)])
@pytest.mark.parametrize("source", [None, "192.0.2.50", "2001:db8::/64"])
@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_accepts_the_recipe(keys: Keys, source: str | None) -> None:
    """The recipe is a script in which shellcheck finds nothing."""
    ran = subprocess.run(["shellcheck", "-"], input=recipe(VM, keys, source), capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "")


# --- the command ---


def configuration(directory: Path, power: str, reading: str | None, more: str = "") -> Path:
    """Write breakglass.toml with the two private keys in files of their own."""
    for name, text in (("power", power), ("reading", reading or "")):
        (directory / name).write_text(text)
    agent = f'agent_key_file = "{directory}/reading"' if reading else ""
    path = directory / "breakglass.toml"
    path.touch(0o600)
    path.write_text(f"""
        [callers.operator]
        secret = "{new_secret()}"
        allow = ["status"]
        [vms.devvm]
        ssh = "breakglass@127.0.0.1"
        key_file = "{directory}/power"
        {agent}
        host_key = "any"
        vmid = 102
        {more}
        [sessions]
        secret = "{"s" * 40}"
    """)
    return path


def install_commands(config: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "breakglass", "host", "install-commands", *words]
    environment = os.environ | {"BREAKGLASS_CONFIG": str(config)}
    return subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_install_commands_prints_only_public_keys(tmp_path: Path) -> None:
    """No line of a private key and no secret is printed, and both public keys are."""
    (power, power_public), (reading, reading_public) = new_key(), new_key()
    config = configuration(tmp_path, power, reading)
    ran = install_commands(config)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert power_public in ran.stdout
    assert reading_public in ran.stdout
    secrets = [*power.splitlines(), *reading.splitlines(), *re.findall(r"whsec_\S+|s{40}", config.read_text())]
    assert [line for line in secrets if len(line) > 8 and line in ran.stdout] == []


def test_install_commands_needs_vm_if_there_are_several(tmp_path: Path) -> None:
    """Without --vm, or with an unknown one, the exit code is 2, the VMs are named, and no recipe is printed."""
    other = 'by_hand = []\n[vms.other]\nssh = "breakglass@127.0.0.1"\nkey = "x"\nhost_key = "any"\nvmid = 103\n'
    config = configuration(tmp_path, new_key()[0], None, other)
    for words in ((), ("--vm", "third")):
        ran = install_commands(config, *words)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert "devvm, other" in ran.stderr
    assert install_commands(config, "--vm", "devvm").returncode == 0


def test_install_commands_counts_a_vm_that_is_off(tmp_path: Path) -> None:
    """Of two VMs with one off, none is chosen unasked: the operator may have meant the other one."""
    other = 'by_hand = []\n[vms.other]\nssh = "breakglass@127.0.0.1"\nkey = "x"\nhost_key = "any"\nvmid = 0\n'
    config = configuration(tmp_path, new_key()[0], None, other)
    ran = install_commands(config)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "there are several VMs" in ran.stderr
    assert "other is off" in install_commands(config, "--vm", "other").stderr


def test_install_commands_refuses_an_unusable_key(tmp_path: Path) -> None:
    """For an unusable key the exit code is 2, and its content is not shown."""
    ran = install_commands(configuration(tmp_path, "not a key", None))
    assert (ran.returncode, ran.stdout, "not a key" in ran.stderr) == (2, "", False)


def test_the_public_half_has_no_comment() -> None:
    """The comment of a key can be any text, so it does not go into a root shell."""
    key = asyncssh.generate_private_key("ssh-ed25519", comment="$(reboot)'")
    assert re.fullmatch(r"ssh-ed25519 [A-Za-z0-9+/=]+", public_key(key.export_private_key().decode()))


# --- the recipe, run ---


CHANGED = ("ssh", "pve", "systemd", "passwd", "shadow")  # below /etc: what the tests change


class Installed:
    """A host of its own in a mount namespace, on which the printed recipe was run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.etc, self.root, self.sbin = (directory / name for name in ("etc", "root", "sbin"))
        leave_out = ("ssh_host_*", "*.lock", "alternatives", "ssl", "fonts", "X11")  # most files, and sshd needs none
        shutil.copytree("/etc", self.etc, symlinks=True, ignore=shutil.ignore_patterns(*leave_out))
        self._write_host()
        self.space = self._namespace()
        (self.power, self.power_public), (self.reading, self.reading_public) = new_key(), new_key()
        self.config = configuration(directory, self.power, self.reading)
        self.recipe = install_commands(self.config, "--from", "127.0.0.1").stdout
        self.first = self.run("/bin/sh", "-s", stdin=self.recipe)
        (directory / "etc.kept").mkdir()
        subprocess.run(
            ["cp", "-a", *(str(self.etc / name) for name in CHANGED), str(directory / "etc.kept")], check=True
        )

    def _write_host(self) -> None:
        for made in (self.etc / "pve/qemu-server", self.etc / "pve/priv", self.etc / "pve/local", self.sbin):
            made.mkdir(parents=True)
        (self.root / ".ssh").mkdir(0o700, parents=True)
        (self.etc / "pve/qemu-server/102.conf").write_text("name: devvm\n")
        (self.etc / "ssh/sshd_config.d").mkdir(exist_ok=True)
        self.etc.chmod(0o755)
        (self.root / "breakglass-pve").write_text(bundle())
        for name in ("qm", "systemctl"):
            (self.sbin / name).write_text(f'#!/bin/sh\necho "{name} $*" >>/run/said\n')
            (self.sbin / name).chmod(0o755)
        private, self.host_key = new_key()
        (self.etc / "ssh/ssh_host_ed25519_key").touch(0o600)
        (self.etc / "ssh/ssh_host_ed25519_key").write_text(private)
        (self.etc / "ssh/ssh_host_ed25519_key.pub").write_text(f"{self.host_key} host\n")

    def _namespace(self) -> "subprocess.Popen[str]":
        binds = [f"mount --bind {self.directory}/{name} {at}" for name, at in
                 (("etc", "/etc"), ("root", "/root"), ("sbin", "/usr/local/sbin"))]  # fmt: skip
        empty = [f"mount -t tmpfs -o mode=755 none {at}" for at in ("/run", "/var/lib", "/var/log")]
        script = " && ".join([*binds, *empty, "mkdir /run/sshd", "echo ready", "exec sleep 600"])
        argv = ["unshare", "--mount", "--propagation", "slave", "/bin/sh", "-c", script]
        space = subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        assert space.stdout is not None
        assert space.stdout.readline() == "ready\n"
        return space

    def inside(self, *argv: str) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self.space.pid}/ns/mnt", *argv]

    def run(self, *argv: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        environment = {"PATH": "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"}
        return subprocess.run(
            self.inside(*argv), input=stdin, env=environment, cwd="/", capture_output=True, text=True, timeout=60
        )

    def check(self) -> "subprocess.CompletedProcess[str]":
        return self.run("/usr/local/sbin/breakglass-pve", "check", "--vm", "102")

    def restore(self) -> None:
        """Put back what the recipe left: the files of CHANGED, root's own, and the agent's mode."""
        kept = self.directory / "etc.kept"
        subprocess.run(["rm", "-rf", *(str(self.etc / name) for name in CHANGED)], check=True)
        subprocess.run(["cp", "-a", *(str(kept / name) for name in CHANGED), str(self.etc)], check=True)
        for child in (self.root / ".ssh").iterdir():
            child.unlink()
        (self.sbin / "breakglass-pve").chmod(0o755)

    @property
    def keys(self) -> Path:
        return self.etc / "ssh/authorized_keys.d/breakglass"

    @property
    def drop_in(self) -> Path:
        return self.etc / "ssh/sshd_config.d/00-breakglass.conf"

    def close(self) -> None:
        assert self.space.stdout is not None
        self.space.kill()
        self.space.wait()
        self.space.stdout.close()


@pytest.fixture(scope="module")
def host_of_module() -> Iterator[Installed]:
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
        host = Installed(Path(directory))
        yield host
        host.close()


@pytest.fixture
def host(host_of_module: Installed) -> Iterator[Installed]:
    """The installed host; what a test changes on it is put back."""
    yield host_of_module
    host_of_module.restore()


class Door:
    """sshd with the configuration that the recipe left, on a loopback port."""

    def __init__(self, host: Installed, *options: str) -> None:
        self.host = host
        self.port = reserve_port()
        own = ["-o", "ListenAddress=127.0.0.1", "-o", "PidFile=none", "-p", str(self.port)]
        argv = host.inside("/usr/sbin/sshd", "-D", "-e", *own, *options)
        self.process = subprocess.Popen(argv, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, cwd="/")
        wait_listening(self.port, self.process)

    def login(self, key: str, *words: str) -> "subprocess.CompletedProcess[str]":
        directory = self.host.directory
        identity, known = directory / "identity", directory / "known_hosts"
        identity.touch(0o600)
        identity.write_text(key)
        known.write_text(f"[127.0.0.1]:{self.port} {self.host.host_key}\n")
        settings = ["BatchMode=yes", "IdentitiesOnly=yes", f"UserKnownHostsFile={known}", "ConnectTimeout=10"]
        flags = [flag for setting in settings for flag in ("-o", setting)]
        argv = ["ssh", "-F", "none", *flags, "-i", str(identity), "-p", str(self.port), "breakglass@127.0.0.1"]
        return subprocess.run([*argv, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)

    def close(self) -> None:
        for pid in [*descendants(self.process.pid), self.process.pid]:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass
        self.process.wait()


@pytest.fixture(scope="module", params=["yes", "no"], ids=["with PAM", "without PAM"])
def door_of_module(host_of_module: Installed, request: pytest.FixtureRequest) -> Iterator[Door]:
    door = Door(host_of_module, "-o", f"UsePAM={request.param}")
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
    assert host.host_key in host.first.stdout
    assert "error:" not in host.first.stdout
    assert "warning:" not in host.first.stdout
    assert host.run("cat", "/run/said").stdout.splitlines()[0] == "systemctl try-reload-or-restart ssh"


@pytest.mark.real("sshd")
def test_each_key_runs_only_its_own_verbs(door: Door) -> None:
    """The power key runs a verb; the read-only key gets 16 for a reset, and reads; neither gets a shell."""
    host = door.host
    assert door.login(host.power, "status").returncode == 0
    refused = door.login(host.reading, "reset")
    assert (refused.returncode, refused.stdout.splitlines()[0]) == (16, "approval-required: reset")
    assert door.login(host.reading, "status").returncode == 0
    assert door.login(host.power, "/bin/sh").returncode == 10


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
    assert door.login(host.power, "status").returncode == 0


@pytest.mark.real("sshd")
def test_running_the_recipe_again_changes_nothing(host: Installed) -> None:
    """Pasted into an interactive bash as well, it leaves the same files and keeps a key that somebody else added."""
    added = f'restrict,command="{SERVE} --read-only" {new_key()[1]} a colleague\n'
    host.keys.write_text(added + host.keys.read_text())
    files = [host.keys, host.drop_in, host.etc / "passwd", host.etc / "shadow"]
    before = [file.read_text() for file in files]
    ran = host.run("/bin/bash", "--norc", "-i", "-o", "histexpand", stdin=host.recipe)
    assert ran.returncode == 0, ran.stderr
    assert "event not found" not in ran.stderr
    assert [file.read_text() for file in files] == before


@pytest.mark.real("sshd")
def test_a_drop_in_that_sshd_refuses_is_taken_away(host: Installed) -> None:
    """A broken configuration is not reloaded and not left behind, and the agent's check is not reached."""
    broken = host.recipe.replace("PermitTTY no", "PermitTTY maybe")
    reloads = host.run("cat", "/run/said").stdout
    ran = host.run("/bin/sh", "-s", stdin=broken)
    assert (ran.returncode, host.drop_in.exists()) == (1, False)
    assert "sshd refuses the configuration" in ran.stderr
    assert host.run("cat", "/run/said").stdout == reloads


# --- check, and what it finds ---


def edit(path: str, old: str, new: str) -> Callable[[Installed], None]:
    """Return a sabotage that changes every `old` to `new` in a file below /etc."""

    def do(host: Installed) -> None:
        text = (host.etc / path).read_text()
        assert old in text
        (host.etc / path).write_text(text.replace(old, new))

    return do


def own_key_in(path: str) -> Callable[[Installed], None]:
    def do(host: Installed) -> None:
        (host.directory / path).write_text(f"{host.power_public} somebody\n")

    return do


def drop_in(old: str, new: str) -> Callable[[Installed], None]:
    return edit("ssh/sshd_config.d/00-breakglass.conf", old, new)


def key_file(old: str, new: str) -> Callable[[Installed], None]:
    return edit("ssh/authorized_keys.d/breakglass", old, new)


def linked_into_pve(host: Installed) -> None:
    host.keys.rename(host.etc / "pve/priv/breakglass")
    host.keys.symlink_to("/etc/pve/priv/breakglass")


def logind_kills(host: Installed) -> None:
    (host.etc / "systemd/logind.conf").write_text("[Login]\nKillUserProcesses=yes\nKillExcludeUsers=nobody\n")


SABOTAGES: dict[str, tuple[Callable[[Installed], None], str]] = {
    "ForceCommand": (drop_in("PermitTTY no", "PermitTTY no\n ForceCommand /bin/true"), "ForceCommand for breakglass"),
    "forwarding": (drop_in("DisableForwarding yes", ""), "disableforwarding no"),
    "terminal": (drop_in("PermitTTY no", ""), "permittty yes"),
    "rc file": (drop_in("PermitUserRC no", ""), "permituserrc yes"),
    "broken sshd_config": (drop_in("Match all", "Mitch all"), "sshd -T failed"),
    "root's key file": (drop_in("AuthorizedKeysFile /etc", "#"), "/.ssh/authorized_keys does not exist"),
    "no drop-in": (lambda host: host.drop_in.unlink(), "disableforwarding no"),
    "no command=": (key_file(f'command="{SERVE}"', "no-pty"), "has no command="),
    "no restrict": (key_file("restrict,", ""), "has no restrict"),
    "a shell behind it": (key_file(SERVE, f"{SERVE};sh"), "runs something else"),
    "world-writable keys": (lambda host: host.keys.chmod(0o666), "written by others"),
    "somebody's keys": (lambda host: os.chown(host.keys, 65534, 0), "belongs to uid 65534"),
    "writable directory": (lambda host: host.keys.parent.chmod(0o777), "authorized_keys.d can be written by others"),
    "no keys": (lambda host: host.keys.unlink(), "does not exist"),
    "keys in /etc/pve": (linked_into_pve, "is below /etc/pve"),
    "key of root's too": (own_key_in("root/.ssh/authorized_keys"), "/root/.ssh/authorized_keys:1 has a breakglass key"),
    "key in pmxcfs too": (own_key_in("etc/pve/priv/authorized_keys"), "/etc/pve/priv/authorized_keys:1 has"),
    "writable agent": (lambda host: (host.sbin / "breakglass-pve").chmod(0o775), "breakglass-pve can be written by"),
    "another uid": (edit("passwd", "breakglass:x:0:", "breakglass:x:1234:"), "has uid 1234"),
    "bash": (edit("passwd", "::/:/bin/sh\n", "::/:/bin/bash\n"), 'the shell of breakglass is "/bin/bash"'),
    "expiry": (lambda host: assert_ok(host.run("chage", "-M", "90", "breakglass")), "breakglass expires"),
    "moved VM": (lambda host: (host.etc / "pve/qemu-server/102.conf").unlink(), "has no configuration on this node"),
    "logind": (logind_kills, "logind kills a job"),
}  # fmt: skip


def assert_ok(ran: "subprocess.CompletedProcess[str]") -> None:
    assert ran.returncode == 0, ran.stderr


@pytest.mark.real("sshd")
def test_check_passes_on_what_the_recipe_installed(host: Installed) -> None:
    """`check` ends with 0, every line is ok, and both keys are counted."""
    ran = host.check()
    assert (ran.returncode, ran.stderr) == (0, "")
    assert {line.partition(":")[0] for line in ran.stdout.splitlines()} == {"ok"}
    for sentence in ("1 power key for VM 102", "1 read-only key for VM 102", "KillUserProcesses=no", "/run/breakglass"):
        assert sentence in ran.stdout


@pytest.mark.real("sshd")
@pytest.mark.parametrize("name", SABOTAGES)
def test_check_finds_a_sabotage(host: Installed, name: str) -> None:
    """`check` ends with 1 and an error that names the fault and says what to do."""
    sabotage, expected = SABOTAGES[name]
    sabotage(host)
    ran = host.check()
    assert (ran.returncode, ran.stderr) == (1, "")
    errors = [line for line in ran.stdout.splitlines() if line.startswith("error: ")]
    assert [line for line in errors if expected in line and " / " in line], ran.stdout


@pytest.mark.real("sshd")
def test_check_warns_of_a_missing_kind_of_key(host: Installed) -> None:
    """Without a read-only key it still ends with 0: that key is good to have, not needed for a rescue."""
    host.keys.write_text(host.keys.read_text().splitlines()[0] + "\n")
    ran = host.check()
    assert (ran.returncode, "warning: no read-only key for VM 102" in ran.stdout) == (0, True)


@pytest.mark.real("sshd")
def test_check_serves_another_vm_of_the_host(host: Installed) -> None:
    """Another VM's key in the same file is no error, and its absence is reported for the VM that was asked about."""
    ran = host.run("/usr/local/sbin/breakglass-pve", "check", "--vm", "103")
    assert ran.returncode == 1
    assert "VM 103 has no configuration on this node" in ran.stdout
    assert "warning: no power key for VM 103" in ran.stdout
