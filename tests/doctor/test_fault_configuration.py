"""Faults of the configuration and of its keys, seeded one by one: each is found, with its fix."""

import datetime as dt
import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

import asyncssh
import pytest

from ..support.doctor import Fault, Setup, cases, check_fault
from ..support.service import SSH_KEY, give_to_handler, new_secret

pytestmark = pytest.mark.slow

PLACES = ("configuration", "keys")
DAY = 86400


def at(days: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(int(time.time() + days * DAY), dt.UTC)


def change(*path: str, **values: object) -> Callable[[Setup], None]:
    """Return a seed that sets values in a table of the configuration; None takes the setting out."""

    def seed(setup: Setup) -> None:
        table: dict[str, Any] = setup.config
        for name in path:
            table = table.setdefault(name, {})
        for name, value in values.items():
            if value is None:
                table.pop(name, None)
            else:
                table[name] = value

    return seed


def in_file(name: str, text: str) -> Callable[[Setup], object]:
    """Return a seed that writes another text into one of the files with a secret."""
    return lambda setup: setup.file(name, text)


def mode(name: str, mode: int) -> Callable[[Setup], object]:
    """Return a seed that gives a file another mode."""

    def seed(setup: Setup) -> None:
        setup.write()
        (setup.directory / name).chmod(mode)

    return seed


def owner(name: str, uid: int, gid: int, mode: int) -> Callable[[Setup], None]:
    """Return a seed that gives a file to another user."""

    def seed(setup: Setup) -> None:
        setup.write()
        os.chown(setup.directory / name, uid, gid)
        (setup.directory / name).chmod(mode)

    return seed


def second_host(setup: Setup, **values: object) -> None:
    setup.config["hosts"]["pve2"] = {**setup.config["hosts"]["pve1"], "ssh": "breakglass@127.0.0.1:2", **values}
    setup.config["vms"]["devvm"]["hosts"] = ["pve1", "pve2"]


def both(*seeds: Callable[[Setup], object]) -> Callable[[Setup], None]:
    """Return a seed that does several."""

    def seed(setup: Setup) -> None:
        for each in seeds:
            each(setup)

    return seed


def on_pve2(**values: object) -> Callable[[Setup], None]:
    """Return a seed that adds a second host for the VM."""
    return lambda setup: second_host(setup, **values)


def second_vm(setup: Setup, **values: object) -> None:
    setup.config["vms"]["other"] = {"hosts": ["pve1"], "vmid": 103, **values}


def two_guests(setup: Setup) -> None:
    guest = {"guest": "claude@192.0.2.20", "guest_host_key": "any"}
    setup.config["vms"]["devvm"] |= guest
    second_vm(setup, **guest)


def private(kind: str, **more: Any) -> str:
    return asyncssh.generate_private_key(kind, **more).export_private_key().decode()


def encrypted(name: str) -> Callable[[Setup], object]:
    """Return a seed that gives a key a passphrase."""

    def seed(setup: Setup) -> None:
        (setup.directory / name).chmod(0o600)
        command = ["ssh-keygen", "-q", "-p", "-N", "secret", "-f", str(setup.directory / name)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        give_to_handler(setup.directory / name)

    return seed


def public() -> str:
    return asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()


def same_secret_twice(setup: Setup) -> None:
    setup.config["callers"]["phone"] = dict(setup.config["callers"]["operator"])


def session_secret_of_a_caller(setup: Setup) -> None:
    setup.file("session", setup.operator)


def session_secret_of_prometheus(setup: Setup) -> None:
    setup.config["metrics"] = {"token": (token := "bgt_" + "aB3dE" * 9)}
    setup.file("session", token)


def name_of_public_key(setup: Setup) -> None:
    setup.config["hosts"]["pve1"]["key_file"] = setup.file("power.pub", public())


def pipe(setup: Setup) -> None:
    setup.constants["cli.doctor.READ_SECONDS"] = 1.0
    (setup.directory / "power").unlink()
    os.mkfifo(setup.directory / "power")


def off_vm(setup: Setup) -> None:
    second_vm(setup, vmid="none")
    setup.config["callers"]["phone"] = {"secret": new_secret(), "allow": ["status"], "vms": ["other"]}


def unserved_vm(setup: Setup) -> None:
    second_vm(setup)
    setup.config["callers"]["operator"]["vms"] = ["devvm"]


def open_directory(setup: Setup) -> None:
    (setup.directory / "keys").mkdir()
    setup.config["hosts"]["pve1"]["key_file"] = setup.file("keys/power", SSH_KEY)
    (setup.directory / "keys").chmod(0o777)


def closed_directory(setup: Setup) -> None:
    (setup.directory / "keys").mkdir()
    setup.config["hosts"]["pve1"]["key_file"] = setup.file("keys/power", SSH_KEY)
    os.chown(setup.directory / "keys", 0, 0)
    (setup.directory / "keys").chmod(0o700)


def foreign_directory(setup: Setup) -> None:
    os.chown(setup.directory, 54321, -1)


def gone(name: str) -> Callable[[Setup], None]:
    def seed(setup: Setup) -> None:
        setup.write()
        (setup.directory / name).unlink()

    return seed


def text(old: str, new: str) -> Callable[[Setup], None]:
    """Return a seed that changes the text of the configuration."""

    def seed(setup: Setup) -> None:
        setup.write()
        found = setup.path.read_text()
        assert old in found
        setup.path.write_text(found.replace(old, new))

    return seed


def own_file(text: str, name: str = "phone", mode: int | None = None) -> Callable[[Setup], None]:
    """Return a seed that gives a caller its own file."""

    def seed(setup: Setup) -> None:
        (setup.directory / "callers.d").mkdir()
        setup.file(f"callers.d/{name}.toml", text)
        if mode is not None:
            (setup.directory / f"callers.d/{name}.toml").chmod(mode)

    return seed


def closed_callers(setup: Setup) -> None:
    own_file("")(setup)
    (setup.directory / "callers.d").chmod(0)


HOST_KEY = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()

FAULTS = [
    # the file
    Fault(
        "no such file",
        lambda setup: setup.environment.update(BREAKGLASS_CONFIG="/nowhere.toml"),
        "file-missing",
        "BREAKGLASS_CONFIG",
    ),
    Fault(
        "a directory in the file's place", lambda setup: setup.path.mkdir(), "file-not-readable", "BREAKGLASS_CONFIG"
    ),
    Fault("not TOML", text("[sessions]", "[sessions"), "config-file", "brackets"),
    Fault("R4 typographic quotes", text('"pve1"]', "“pve1”]"), "config-file", "left double quotation mark (U+201C)"),
    Fault("R6 a no-break space", text("[sessions]\n", "[sessions]\n\u00a0"), "config-file", "no-break space (U+00A0)"),
    Fault("no callers", change(callers={}), "caller-disabled", "keys new NAME --allow status"),
    Fault("no hosts", change(hosts={}), "host-disabled", "[hosts.NAME]"),
    Fault("no VMs", change(vms={}), "vm-disabled", "[vms.NAME]"),
    Fault("not text", lambda setup: setup.path.write_bytes(b"\xff\xfe\x00"), "file-not-readable", "TOML"),
    Fault("a file that every user can read", mode("breakglass.toml", 0o644), "file-exposed", "chmod 6"),
    Fault("a key that every user can read", mode("power", 0o644), "file-exposed", "chmod 6"),
    Fault("a directory that every user can write", open_directory, "directory-exposed", "chmod go-w"),
    Fault(
        "an insecure mode",
        lambda setup: setup.environment.update(BREAKGLASS_INSECURE_CONFIG_MODE="1"),
        "insecure-mode",
        "unset",
    ),
    # callers' own files
    Fault("a caller's file that is not TOML", own_file("allow = ["), "caller-disabled", "brackets"),
    Fault("a caller's file that every user can read", own_file("", mode=0o644), "file-exposed", "callers.d/phone.toml"),
    Fault("a caller in both places", own_file("", "operator"), "caller-disabled", "remove [callers.operator] from"),
    Fault("a directory of callers that can't be read", closed_callers, "file-not-readable", "chmod 750"),
    # settings
    Fault("an unknown setting", change("hosts", "pve1", port=22), "unknown-setting", "take it out"),
    Fault("an address without a user", change("hosts", "pve1", ssh="192.0.2.10"), "host-disabled", "breakglass@"),
    Fault("no host key", change("hosts", "pve1", host_key=None), "host-disabled", "host_key"),
    Fault("a host that is unknown", change("vms", "devvm", hosts=["pve9"]), "vm-disabled", "pve1"),
    Fault("a VM without a number", change("vms", "devvm", vmid=None), "vm-disabled", "vmid = 102"),
    Fault("a number that no VM has", change("vms", "devvm", vmid=7), "vmid-impossible", "qm list"),
    Fault(
        "a guest that is a host",
        change("vms", "devvm", guest="claude@127.0.0.1:1", guest_host_key="any"),
        "guest-is-host",
        "guest",
    ),
    Fault("a token of the metrics that is none", change("metrics", token="secret"), "secret-weak", "keys new"),
    Fault("two guests with one address", two_guests, "guests-share-address", "vms.other"),
    Fault("an unknown verb", change("callers", "operator", allow=["restart"]), "caller-disabled", "cycle"),
    Fault("a URL that is none", change("server", url="rescue.example.org"), "server-setting", "https://"),
    Fault(
        "two hosts with one address",
        on_pve2(ssh="breakglass@127.0.0.1:1"),
        "same-machine",
        "hosts.pve2",
    ),
    Fault(
        "one address in two spellings",
        both(on_pve2(ssh="root@PVE.example.:22"), change("hosts", "pve1", ssh="breakglass@pve.example:22")),
        "same-machine",
        "hosts.pve2",
    ),
    Fault(
        "two hosts with one node",
        both(on_pve2(node="pve1"), change("hosts", "pve1", node="pve1")),
        "hosts-share-node",
        "hostname -s",
    ),
    Fault(
        "two hosts with one host key",
        both(on_pve2(host_key=HOST_KEY), change("hosts", "pve1", host_key=HOST_KEY)),
        "hosts-share-host-key",
        "pin",
    ),
    Fault(
        "a host without a VM",
        both(on_pve2(), change("vms", "devvm", hosts=["pve1"])),
        "host-unused",
        "pve2",
    ),
    Fault("two VMs with one number", lambda setup: second_vm(setup, vmid=102), "vms-share-number", "qm list"),
    # SSH keys
    Fault("no key", change("hosts", "pve1", key_file=None), "host-disabled", "key"),
    Fault("a garbage key", in_file("power", "garbage"), "key-garbage", "ssh-keygen"),
    Fault("an encrypted key", encrypted("power"), "key-encrypted", "ssh-keygen -p"),
    Fault("a pipe in a key's place", pipe, "read-hangs", "replace a pipe"),
    Fault("a path with ~", change("hosts", "pve1", key_file="~/power"), "file-missing", "without ~"),
    Fault("the name of the public key", name_of_public_key, "key-public", "the file without .pub"),
    Fault("an Ed448 key", in_file("power", private("ssh-ed448")), "key-unsupported", "ssh-keygen -t ed25519"),
    Fault("a public key", in_file("power", public()), "key-public", "put the private key into"),
    Fault("an empty key", in_file("power", ""), "file-empty", "write"),
    Fault("a key's file that is gone", gone("power"), "file-missing", "ls -l"),
    Fault(
        "a file that only a unit has",
        change("hosts", "pve1", key_file="$CREDENTIALS_DIRECTORY/power"),
        "file-not-readable",
        "as root",
    ),
    Fault("a key of PuTTY", in_file("power", "PuTTY-User-Key-File-3: ssh-ed25519\n"), "key-garbage", "ssh-keygen"),
    Fault("a DSA key", in_file("power", private("ssh-dss")), "key-unsupported", "ed25519"),
    Fault("a weak RSA key", in_file("power", private("ssh-rsa", key_size=1024)), "key-unsupported", "ed25519"),
    # callers
    Fault("an expired key", change("callers", "operator", not_after=at(-1)), "caller-expired", "a later not_after"),
    Fault(
        "a key that expires soon",
        change("callers", "operator", not_after=at(13)),
        "caller-expires",
        "keys rotate operator",
    ),
    Fault(
        "an expiry that is no time",
        change("callers", "operator", not_after="2030-01-01"),
        "caller-disabled",
        "without quotes",
    ),
    Fault("a caller for a VM that is off", off_vm, "caller-without-vm", "vms.other"),
    Fault("a caller for an unknown VM", change("callers", "operator", vms=["devvm1"]), "caller-disabled", "devvm"),
    Fault("a VM without a caller", unserved_vm, "vm-without-caller", "--vms other"),
    Fault(
        "a VM that no caller may switch", change("callers", "operator", allow=["status"]), "vm-without-power", "cycle"
    ),
    Fault(
        "two ways to authenticate",
        change("callers", "operator", token="bgt_" + "a" * 43),
        "caller-disabled",
        "separate caller",
    ),
    Fault(
        "a caller that may only chat",
        change("callers", "phone", secret=new_secret(), allow=["chat"]),
        "caller-without-chat",
        "allow",
    ),
    Fault(
        "a doctor that may do more",
        change("callers", "doctor", secret=new_secret(), allow=["status", "cycle"]),
        "doctor-may-act",
        '["status"]',
    ),
    # secrets
    Fault("a short signing key", in_file("operator", "whsec_AAAA"), "secret-weak", "keys new operator"),
    Fault(
        "a signing key of one letter",
        in_file("operator", "whsec_" + "A" * 43 + "="),
        "secret-weak",
        "keys rotate operator",
    ),
    Fault("one secret for two callers", same_secret_twice, "secret-shared", "keys new"),
    Fault("a short session secret", in_file("session", "secret"), "secret-weak", "openssl rand"),
    Fault("a session secret of one letter", in_file("session", "x" * 40), "secret-weak", "openssl rand"),
    Fault("no session secret", change("sessions", secret_file=None), "session-secret", "secret_file"),
    Fault("a session secret that a caller has", session_secret_of_a_caller, "session-secret-shared", "openssl rand"),
    Fault("a session secret that Prometheus has", session_secret_of_prometheus, "session-secret-shared", "openssl"),
    Fault("a session secret that is an SSH key", in_file("session", SSH_KEY), "session-secret-shared", "openssl rand"),
]

AS_ROOT = [
    Fault(
        "a user who is not the handler's", owner("breakglass.toml", 54321, 54321, 0o600), "file-not-readable", "sudo -E"
    ),
    Fault("a file of another user", owner("breakglass.toml", 54321, 54321, 0o600), "file-not-readable", "chmod 640"),
    Fault("a key of another user", owner("power", 54321, 54321, 0o600), "file-not-readable", "chmod 640"),
    Fault("a key that root alone can read", owner("power", 0, 0, 0o600), "file-not-readable", "chmod 640"),
    Fault("a directory that root alone can enter", closed_directory, "file-not-readable", "chmod g+x"),
    Fault("a directory of another user", foreign_directory, "directory-exposed", "chown root"),
    Fault("a file of another group", owner("power", 0, 54321, 0o640), "file-not-readable", "chown root:"),
    Fault("another user's file", owner("power", 54321, 1, 0o640), "file-exposed", "chown root:daemon"),
    Fault("the handler's file", owner("power", 1, 1, 0o640), "file-exposed", "chmod 600"),
    Fault("a file that its group can write", mode("breakglass.toml", 0o660), "file-exposed", "chmod 640"),
    Fault("no account of the group's name", owner("breakglass.toml", 0, 0, 0o640), "no-start", "--user"),
]


@pytest.mark.parametrize(
    "fault",
    cases(
        FAULTS,
        "not TOML",
        "a key that every user can read",
        "an unknown setting",
        "two hosts with one address",
        "two VMs with one number",
        "a garbage key",
        "an encrypted key",
        "an expired key",
        "a caller for a VM that is off",
        "a short session secret",
        "a session secret that a caller has",
    ),
)
def test_a_fault_is_found_with_its_fix(setup: Setup, fault: Fault) -> None:
    check_fault(setup, fault, PLACES)


@pytest.mark.real("root")
@pytest.mark.parametrize("fault", cases(AS_ROOT, "a key of another user"))
def test_a_fault_of_users_and_groups_is_found(setup: Setup, fault: Fault) -> None:
    check_fault(setup, fault, PLACES)
