"""Faults of the configuration and of its keys, seeded one by one: each is found, with its fix.

tests/data/faulty_configurations.yaml has them, and these functions seed them.
"""

import datetime as dt
import os
import subprocess
import time
from typing import Any

import asyncssh
import pytest

from ..support.doctor import Setup, check_fault, each_fault, read_faults
from ..support.service import SSH_KEY, give_to_handler, new_secret

pytestmark = pytest.mark.slow

PLACES = ("configuration", "keys")
DAY = 86400


FAULTS = read_faults("faulty_configurations.yaml")
HOST_KEY = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()


def change(setup: Setup, table: str, values: dict[str, object]) -> None:
    """Set values in a table of the configuration, or in the configuration; None takes the setting out."""
    place: dict[str, Any] = setup.config
    for name in filter(None, table.split(".")):
        place = place.setdefault(name, {})
    for name, value in values.items():
        if value is None:
            place.pop(name, None)
        else:
            place[name] = value


def environment(setup: Setup, **values: str) -> None:
    setup.environment.update(values)


def expires(setup: Setup, days: int) -> None:
    setup.config["callers"]["operator"]["not_after"] = dt.datetime.fromtimestamp(int(time.time() + days * DAY), dt.UTC)


def caller(setup: Setup, name: str, *allow: str) -> None:
    setup.config["callers"][name] = {"secret": new_secret(), "allow": [*allow]}


# --- hosts and VMs ---


def second_host(setup: Setup, **values: object) -> None:
    setup.config["hosts"]["pve2"] = {**setup.config["hosts"]["pve1"], "ssh": "breakglass@127.0.0.1:2", **values}
    setup.config["vms"]["devvm"]["hosts"] = ["pve1", "pve2"]


def one_host_key(setup: Setup) -> None:
    second_host(setup, host_key=HOST_KEY)
    setup.config["hosts"]["pve1"]["host_key"] = HOST_KEY


def second_vm(setup: Setup, **values: object) -> None:
    setup.config["vms"]["other"] = {"hosts": ["pve1"], "vmid": 103, **values}


def off_vm(setup: Setup) -> None:
    second_vm(setup, vmid="none")
    setup.config["callers"]["phone"] = {"secret": new_secret(), "allow": ["status"], "vms": ["other"]}


def unserved_vm(setup: Setup) -> None:
    second_vm(setup)
    setup.config["callers"]["operator"]["vms"] = ["devvm"]


# --- files ---


def in_file(setup: Setup, name: str, text: str) -> None:
    """Write another text into one of the files with a secret."""
    setup.file(name, text)


def text(setup: Setup, old: str, new: str) -> None:
    """Change the text of the configuration."""
    setup.write()
    found = setup.path.read_text()
    assert old in found
    setup.path.write_text(found.replace(old, new))


def gone(setup: Setup, name: str) -> None:
    (setup.directory / name).unlink()


def mode(setup: Setup, name: str, mode: int) -> None:
    setup.write()
    (setup.directory / name).chmod(mode)


def owner(setup: Setup, name: str, uid: int, gid: int, mode: int) -> None:
    setup.write()
    os.chown(setup.directory / name, uid, gid)
    (setup.directory / name).chmod(mode)


def own_file(setup: Setup, text: str, name: str = "phone", mode: int | None = None) -> None:
    """Give a caller its own file."""
    (setup.directory / "callers.d").mkdir()
    setup.file(f"callers.d/{name}.toml", text)
    if mode is not None:
        (setup.directory / f"callers.d/{name}.toml").chmod(mode)


def closed_callers(setup: Setup) -> None:
    own_file(setup, "")
    (setup.directory / "callers.d").chmod(0)


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


def pipe(setup: Setup) -> None:
    setup.constants["cli.doctor.READ_SECONDS"] = 1.0
    (setup.directory / "power").unlink()
    os.mkfifo(setup.directory / "power")


# --- keys and secrets ---


def new_key(setup: Setup, kind: str, **size: Any) -> None:
    key = asyncssh.generate_private_key(kind, **size)
    setup.file("power", key.export_private_key().decode())


def public_key(setup: Setup) -> None:
    setup.file("power", HOST_KEY)


def name_of_public_key(setup: Setup) -> None:
    setup.config["hosts"]["pve1"]["key_file"] = setup.file("power.pub", HOST_KEY)


def encrypted(setup: Setup, name: str) -> None:
    """Give a key a passphrase."""
    (setup.directory / name).chmod(0o600)
    command = ["ssh-keygen", "-q", "-p", "-N", "secret", "-f", str(setup.directory / name)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    give_to_handler(setup.directory / name)


def same_secret_twice(setup: Setup) -> None:
    setup.config["callers"]["phone"] = dict(setup.config["callers"]["operator"])


def session_secret_of_a_caller(setup: Setup) -> None:
    setup.file("session", setup.operator)


def ssh_key_for_sessions(setup: Setup) -> None:
    setup.file("session", SSH_KEY)


@each_fault(FAULTS["faults"])
def test_a_fault_is_found_with_its_fix(setup: Setup, name: str) -> None:
    check_fault(setup, FAULTS["faults"][name], globals(), PLACES)


@pytest.mark.real("root")
@each_fault(FAULTS["as_root"])
def test_a_fault_of_users_and_groups_is_found(setup: Setup, name: str) -> None:
    check_fault(setup, FAULTS["as_root"][name], globals(), PLACES)
