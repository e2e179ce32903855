"""The recipe for the Proxmox host as a text, and the command that prints it. test_install.py runs it."""

import re
import shutil
import subprocess
from pathlib import Path

import asyncssh
import pytest

from breakglass.cli.install import recipe
from breakglass.config.model import Address, Host, Vm
from breakglass.config.ssh_keys import public_key

from ..support.installing import configuration, install_commands, new_key
from ..support.rows import each_row

pytestmark = pytest.mark.slow  # a command and its files in each test

POWER = "ssh-ed25519 AAAApower"
HOST = Host("pve1", Address("breakglass", "192.0.2.10", 2222), "the private key")
ROOT_HOST = Host("pve1", Address("root", "192.0.2.10", 2222), "the private key")
VM = Vm("devvm", 102, (HOST,))
SERVE = "/usr/local/sbin/breakglass-pve serve --vms 102"


def heredoc(text: str, name: str) -> list[str]:
    """Return the lines that the recipe writes between <<NAME or <<'NAME' and NAME."""
    return re.split(f"<<'?{name}'?\n", text)[1].partition(f"\n{name}\n")[0].splitlines()


# --- the text ---


@each_row(("vmids", "listed"), [((119, *range(110, 119), 102), "102,110-119"), ((103, 102, 102), "102-103")])
def test_one_line_serves_all_vms_of_the_host(vmids: tuple[int, ...], listed: str) -> None:
    """The list is in order and has ranges; the recipe's first line has it too."""
    text = recipe(HOST, [Vm(f"vm{number}", vmid, (HOST,)) for number, vmid in enumerate(vmids)], POWER)
    [line] = heredoc(text, "KEY")
    assert line == f'restrict,command="{SERVE[:-3]}{listed}" {POWER} breakglass power'
    assert f" pve1 (192.0.2.10), for VM {listed}. " in text.splitlines()[1]
    assert text.count(f'--vms {listed}"') == 1


WRONG = ["192.0.2.0; reboot", "*", "192.0.2.50, 192.0.2.51", "192.0.2.50'", "", "fe80::1%';reboot;'"]


@each_row(
    ("user", "source", "as_root", "expected"),
    [
        *(("breakglass", source, False, "^--from: .* does not appear") for source in WRONG),
        ("root", "192.0.2.50", False, "^hosts.pve1.ssh logs in as root"),
        ("breakglass", "192.0.2.50", True, "^hosts.pve1.ssh logs in as breakglass"),
        ("root", None, True, "^--account root needs --from"),
    ],
)
def test_an_account_or_address_that_does_not_fit_is_refused(
    user: str, source: str | None, as_root: bool, expected: str
) -> None:
    """An address is checked before it goes into a root shell; the handler logs in to the account that is set up."""
    with pytest.raises(ValueError, match=expected):
        recipe(Host("pve1", Address(user, "192.0.2.10"), ""), [VM], POWER, source, as_root=as_root)


def test_several_addresses_are_written_as_sshd_reads_them() -> None:
    """A comma between them for sshd, a space for fail2ban; a network without bits behind its prefix."""
    text = recipe(HOST, [VM], POWER, "192.0.2.50,10.1.2.3/8,2001:DB8::1")
    assert "given='192.0.2.50,10.0.0.0/8,2001:db8::1'\n" in text
    assert "ignoreip = 127.0.0.1/8 ::1 192.0.2.50 10.0.0.0/8 2001:db8::1" in text


@each_row(("host", "source"), [(HOST, None), (ROOT_HOST, "192.0.2.50,2001:db8::/64")])
@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_accepts_the_recipe(host: Host, source: str | None) -> None:
    """Each placeholder is filled in, and the recipe is a script in which shellcheck finds nothing."""
    text = recipe(host, [VM], POWER, source, as_root=host is ROOT_HOST)
    assert re.findall(r"@[A-Z_]+@|^#(?:if|else|end)\b.*", text, re.MULTILINE) == []
    ran = subprocess.run(["shellcheck", "-"], input=text, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "")


# --- the command ---


def test_install_commands_prints_only_public_keys(tmp_path: Path) -> None:
    """No line of the private key and no secret is printed, and the public key is. An unusable key is not shown."""
    power, power_public = new_key()
    config = configuration(tmp_path, power)
    ran = install_commands(config)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert power_public in ran.stdout
    secrets = [*power.splitlines(), *re.findall(r"whsec_\S+|s{40}", config.read_text())]
    assert [line for line in secrets if len(line) > 8 and line in ran.stdout] == []
    ran = install_commands(configuration(tmp_path, "not a key"))
    assert (ran.returncode, ran.stdout, "not a key" in ran.stderr) == (2, "", False)


def test_install_commands_serves_the_vms_that_name_the_host(tmp_path: Path) -> None:
    """Each host's line has the VMs that may run there, on whichever place they name it; without one it is refused."""
    more = "[hosts.pve2]\nHOST_KEYS[hosts.pve3]\nHOST_KEYS"
    more += '[vms.other]\nhosts = ["pve2", "pve1"]\nvmid = 103\n[vms.third]\nhosts = ["pve2"]\nvmid = 110\n'
    config = configuration(tmp_path, new_key()[0], more)
    texts = [install_commands(config, "--host", name).stdout for name in ("pve1", "pve2")]
    assert [heredoc(text, "KEY")[0].split(" ssh-")[0] for text in texts] == [
        f'restrict,command="{SERVE}-103"',
        f'restrict,command="{SERVE[:-3]}103,110"',
    ]
    for words, said in (
        ((), "use pve1 or pve2 or pve3"),
        (("--host", "devvm"), "use pve1 or pve2 or pve3"),
        (("--host", "pve3"), "no VM names pve3 in its hosts"),
        (("--host", "pve1", "--account", "root", "--from", "192.0.2.50"), "hosts.pve1.ssh logs in as breakglass"),
    ):
        ran = install_commands(config, *words)
        assert (ran.returncode, ran.stdout, said in ran.stderr) == (2, "", True), ran.stderr


def test_the_public_half_has_no_comment() -> None:
    """The comment of a key can be any text, so it does not go into a root shell."""
    key = asyncssh.generate_private_key("ssh-ed25519", comment="$(reboot)'")
    assert re.fullmatch(r"ssh-ed25519 [A-Za-z0-9+/=]+", public_key(key.export_private_key().decode()))
