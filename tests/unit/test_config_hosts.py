"""[hosts] and [vms]: their settings, the keys that can be used, and the entries that a mistake disables."""

import subprocess
from pathlib import Path

import asyncssh
import pytest

from breakglass.base.findings import ConfigError
from breakglass.config.load import parse
from breakglass.config.model import Address, Config, Host, by_hand, is_vm_name

from ..support.rows import each_row, read_rows
from ..support.service import SSH_KEY, new_ssh_key
from .test_config import GOOD, HOST, KEY, OTHER_VM, VM, changed, no_files, problems, read, vm

GUEST_CA = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGd1ZXN0cy4uLi4uLi4uLi4uLi4uLi4uLi4uLi4uLi4u"
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGdvb2Qga2V5Li4uLi4uLi4uLi4uLi4uLi4uLi4uLi4u"
PKCS8 = asyncssh.import_private_key(SSH_KEY).export_private_key("pkcs8-pem").decode()
GUEST_KEY = new_ssh_key()
ON_PVE2 = HOST.replace("pve1", "pve2").replace("192.0.2.10", "192.0.2.12") + OTHER_VM.replace("pve1", "pve2")


def host(config: Config) -> Host:
    return config.hosts["pve1"]


def with_vm(text: str, name: str = "devvm") -> Config:
    """Return the configuration with more lines in the VM's table, under this name."""
    return parse(GOOD.replace("[vms.devvm]\n", f"[vms.{name}]\n{text}\n"), no_files)


# --- hosts ---


@each_row(
    ("line", "keys", "authorities"),
    [
        (f'host_key = "{HOST_KEY}"', (HOST_KEY,), ()),
        (f'host_key = ["{HOST_KEY}", "{GUEST_CA}"]', (HOST_KEY, GUEST_CA), ()),
        (f'host_ca = ["{HOST_KEY}"]', (), (HOST_KEY,)),
        ('host_key = "any"', (), ()),
    ],
)
def test_host_keys_are_pinned(line: str, keys: tuple[str, ...], authorities: tuple[str, ...]) -> None:
    """They are keys, also a spare one, or a certificate authority. Only the word "any" disables the check."""
    own = host(read(changed(f'host_key = ["{HOST_KEY}"]', line)))
    assert (own.host_keys, own.host_cas, own.any_host_key) == (keys, authorities, '"any"' in line)


@each_row(
    ("spelling", "address", "shown"),
    [
        ("root@pve.example.org", Address("root", "pve.example.org", 22), "pve.example.org:22"),
        ("root@192.0.2.10:65535", Address("root", "192.0.2.10", 65535), "192.0.2.10:65535"),
        ("root@[2001:db8::1]", Address("root", "2001:db8::1", 22), "[2001:db8::1]:22"),
        ("root@[2001:db8::1]:2222", Address("root", "2001:db8::1", 2222), "[2001:db8::1]:2222"),
    ],
)
def test_an_ssh_address_has_a_user_a_host_and_a_port(spelling: str, address: Address, shown: str) -> None:
    """It has a user, a name or an IPv4 or a bracketed IPv6 address, and a port, which is 22 by default."""
    ssh = host(read(changed("breakglass@192.0.2.10:2222", spelling))).ssh
    assert ssh == address
    assert str(ssh) == shown


# --- keys ---


def made_by_ssh_keygen(directory: Path, *options: str) -> str:
    """Return the private key that ssh-keygen makes with a passphrase."""
    file = directory / "made"
    subprocess.run(["ssh-keygen", "-q", "-N", "a passphrase", "-f", file, *options], check=True)
    return file.read_text()


UNUSABLE = {  # the options of ssh-keygen or the text itself, and the words of the problem
    "encrypted": (("-t", "ed25519"), "is an encrypted key", "ssh-keygen -p"),
    "encrypted, in an old format": (("-t", "rsa", "-b", "1024", "-m", "PEM"), "is an encrypted key", "ssh-keygen -p"),
    "public": (f"{HOST_KEY} pve_power.pub", "is a public key", ".pub"),
    "cut": (SSH_KEY[:150], "is not a private key of OpenSSH", "breakglass docs admin"),
    "something else": ("whsec_AAAA", "is not a private key of OpenSSH", "breakglass docs admin"),
}


@each_row(("made", "message", "hint"), UNUSABLE.values())
def test_a_key_that_can_not_be_used_is_a_problem(
    tmp_path: Path, made: str | tuple[str, ...], message: str, hint: str
) -> None:
    """Before any login is tried, the problem names the key's setting and file and says what to do. It shows no key."""
    private = made if isinstance(made, str) else made_by_ssh_keygen(tmp_path, *made)
    for line, path, source in (
        ('key_file = "/run/secrets/a"', "key_file", ' in "/run/secrets/a"'),
        (f"key = '''{private}'''", "key", ""),
    ):
        text = changed(KEY, "").replace("[hosts.pve1]\n", f"[hosts.pve1]\n{line}\n")
        found = problems(text, {"/run/secrets/a": private})
        assert (found[0].place, found[0].sentence) == (f"hosts.pve1.{path}", message + source)
        assert hint in found[0].fix
        assert not any(line in str(problem) for problem in found for line in private.split("\n") if line)


@each_row(("names", "is_on"), [('["pve1", "pve2"]', True), ('["pve2", "pve1"]', False)])
def test_only_the_first_host_switches_a_vm_off(names: str, is_on: bool) -> None:
    """If another host of the VM has a mistake, the VM can be rescued through its first host."""
    text = GOOD.replace('hosts = ["pve1"]', f"hosts = {names}") + VM.replace("devvm", "other").replace("102", "103")
    config = read(f"{text}[hosts.pve2]\nssh = 'no address'\n{KEY}\nhost_key = 'any'\n")
    assert ("devvm" in config.vms) == is_on
    assert [p.place for p in config.problems] == ["hosts.pve2.ssh", "vms.devvm.hosts"]


# --- where a VM runs ---


def test_a_vm_names_the_hosts_on_which_it_may_run() -> None:
    """The first host is the one that gets requests. A name that occurs twice counts once."""
    config = read((GOOD + ON_PVE2).replace('hosts = ["pve1"]', 'hosts = ["pve2", "pve1", "pve2"]'))
    assert [own.name for own in vm(config).hosts] == ["pve2", "pve1"]
    assert vm(config).host is config.hosts["pve2"]
    first, second = (by_hand(vm(config), host, "reset") for host in vm(config).hosts)
    assert first == ("ssh -p 2222 root@192.0.2.12 qm reset 102",)
    assert second == ("ssh -p 2222 root@192.0.2.10 qm reset 102",)


# --- by hand ---


@each_row(
    ("verb", "wanted"),
    [
        ("reset", ["reset"]),
        ("stop", ["stop"]),
        ("cycle", ["stop", "start"]),
        ("status", ["status", "reset", "stop", "start"]),
        ("no-such-verb", ["status", "reset", "stop", "start"]),
    ],
)
def test_by_hand_shows_what_the_verb_needs(verb: str, wanted: list[str]) -> None:
    """A verb that changes power has its own command, a cycle has two, and any other word gets all of them."""
    own = vm(read(GOOD))
    assert by_hand(own, own.host, verb) == tuple(f"ssh -p 2222 root@192.0.2.10 qm {word} 102" for word in wanted)
    usual = vm(read(GOOD.replace("192.0.2.10:2222", "192.0.2.10")))
    assert by_hand(usual, usual.host, "reset") == ("ssh root@192.0.2.10 qm reset 102",)


def test_only_the_vms_entry_allows_a_drill() -> None:
    """A drill power-cycles the VM."""
    assert [vm(with_vm(line)).drill for line in ("", "drill = false", "drill = true")] == [False, False, True]


# --- what is wrong ---

WRONG = read_rows("wrong_settings.yaml", host=HOST, vm=VM, key=KEY, host_key=HOST_KEY)["hosts"]


@each_row(("old", "new", "path"), WRONG.values())
def test_a_mistake_in_a_host_or_a_vm_disables_that_one_alone(old: str, new: str, path: str) -> None:
    """One mistake is a problem under its key's path, with an instruction; a host's VMs are disabled with it.

    The others work, and a disabled VM keeps its number. If no VM is left, nothing starts.
    """
    text, of_host = changed(old, new), path.startswith("hosts")
    places = [path, "vms.devvm.hosts"] if of_host else [path]
    found = problems(text)
    assert [problem.place for problem in found] == [*places, "vms"]
    assert all(problem.fix for problem in found)
    with pytest.raises(ConfigError):
        read(text)
    if path == "hosts":
        return
    config = read(text + ON_PVE2)
    assert [problem.place for problem in config.problems] == places
    assert (list(config.vms), len(config.hosts_off), "pve1" in config.hosts) == (["other"], of_host, not of_host)
    name = "devvm" if of_host else "../x" if "/" in path else path.split(".")[1]
    assert config.vms_off == {name: None if path == "vms.devvm.vmid" or old == VM else 102}
    assert [caller.name for caller in config.callers] == ["operator"]


# --- settings that only claude uses ---

GUEST = 'guest = "claude@192.0.2.20:2222"\nguest_host_ca = ["' + GUEST_CA + '"]'


def test_the_guest_has_a_key_of_its_own() -> None:
    """The key is in this file or in its own file, is never shown with the VM, and must differ from the host's key."""
    own_key = new_ssh_key().strip()
    text = GOOD.replace("[vms.devvm]\n", f"[vms.devvm]\n{GUEST}\n")
    assert vm(read(text)).guest_key == ""
    inline = vm(read(text.replace(GUEST, f"{GUEST}\nguest_key = '''{own_key}'''")))
    assert inline.guest_key == own_key
    assert vm(read(text.replace(GUEST, f'{GUEST}\nguest_key_file = "a"'), {"a": own_key})) == inline
    assert own_key not in repr(inline)


@each_row(
    ("line", "path"),
    read_rows("settings.yaml", ca=GUEST_CA, guest_key=GUEST_KEY, guest=GUEST, key=KEY, pkcs8=PKCS8)["guests"],
)
def test_a_fault_in_guest_leaves_the_vm_on(line: str, path: str) -> None:
    """The VM stays usable, but claude can't log in to it."""
    config = with_vm(line)
    assert vm(config).guest is None
    assert [problem.place for problem in config.problems] == [f"vms.devvm.{path}"]


def test_a_vm_with_a_guest_can_not_be_named_like_a_shell_word() -> None:
    """The shell would run such a command on the handler and not in the guest. The VM's verbs still work."""
    words = subprocess.run(["bash", "-c", "compgen -bk"], capture_output=True, text=True, check=True).stdout.split()
    for word in filter(is_vm_name, words):
        config = with_vm(GUEST, word)
        assert config.vms[word].guest is None
        assert [problem.place for problem in config.problems] == [f"vms.{word}.guest"]
