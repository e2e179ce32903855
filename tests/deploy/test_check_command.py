"""`breakglass check`: the report of a start, and no effect."""

import json
import os
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.forked import run_command as run
from ..support.other_user import run_as
from ..support.ports import reserve_port
from ..support.rows import each_row
from ..support.selection import sampled
from ..support.service import ACCOUNT, SSH_KEY, as_handler, config_text, give_to_handler, new_secret

pytestmark = pytest.mark.slow  # a command and its files in each test

CALLERS = {"operator": {"secret": new_secret(), "allow": ["status"]}}
GOOD = config_text(CALLERS, port=1, key=SSH_KEY, host_key="any")
OFF = '\n[callers.phone]\nsecret = "whsec_AA=="\nallow = ["status"]\n[unknown]\n'


def write(directory: Path, text: str, mode: int = 0o640 if ACCOUNT else 0o600) -> Path:
    config = directory / "breakglass.toml"
    config.touch(0o600)
    config.write_text(text)
    give_to_handler(config)
    config.chmod(mode)
    return config


def start(config: Path) -> "subprocess.CompletedProcess[str]":
    """Start a handler that ends at its port, which is taken, after it has read its configuration."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return run("serve", BREAKGLASS_CONFIG=str(config), PORT=str(taken.getsockname()[1]))


def test_a_good_configuration_is_0_and_has_no_effect(tmp_path: Path) -> None:
    """No directory is made, no port is taken, and the output is one line that names what would be served."""
    config = write(tmp_path, GOOD.replace("[sessions]\n", f'[sessions]\ndir = "{tmp_path}/sessions"\n'))
    before = set(tmp_path.rglob("*"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = run("check", str(config), PORT=str(taken.getsockname()[1]))
    assert (ran.returncode, ran.stdout.count("\n")) == (0, 1)
    assert ("operator; hosts: pve1; " in ran.stdout, ran.stdout.endswith(" devvm\n")) == (True, True)
    assert (ran.stderr.count("\n"), "hosts.pve1.host_key" in ran.stderr) == (1, True)
    assert set(tmp_path.rglob("*")) == before
    assert run("check", BREAKGLASS_CONFIG=str(config)).stdout == ran.stdout


@pytest.mark.real("root")
def test_root_without_an_account_is_told_every_mistake(tmp_path: Path) -> None:
    """The missing account is one line of them, and the handler would not start. An account given must be usable."""
    config = write(tmp_path, GOOD + OFF, 0o600)
    os.chown(config, 0, 0)
    ran = run("check", str(config))
    marks = ("would not start", f"{config}'s group", "--user", "callers.phone.secret", "unknown")
    assert (ran.returncode, [mark for mark in marks if mark not in ran.stderr]) == (2, []), ran.stderr
    ran = run("check", str(config), "--user", "root")
    assert (ran.returncode, "not be root" in ran.stderr) == (2, True), ran.stderr


@pytest.mark.real("root")
@each_row(
    ("text", "mode"),
    [
        ('[callers.operator]\nsecret = "whsec_AA=="\nallow = ["reboot"]\n[vms.ssh]\n', 0o640),
        ("[callers", 0o640),
        (GOOD, 0o600),  # of root, so the handler's user can't read it
    ],
)
def test_what_a_start_refuses_is_2_with_the_same_words(tmp_path: Path, text: str, mode: int) -> None:
    """Each problem has the lines that a start prints, which binds no port and shows no secret."""
    config = write(tmp_path, text, mode if ACCOUNT else 0o600)
    checked, started = run("check", str(config)), start(config)
    assert (checked.returncode, checked.stdout) == (started.returncode, started.stdout) == (2, "")
    assert f"{config}: " in checked.stderr.splitlines()[0]
    output = started.stderr.removeprefix("breakglass: the configuration can't be used\n").removeprefix("breakglass: ")
    assert output
    assert checked.stderr.endswith(output)
    assert "AA==" not in started.stderr


def test_an_entry_that_is_off_is_2_with_the_same_problems_as_in_the_log(tmp_path: Path) -> None:
    """The handler would start without it, and `start` in its log has the same problems, warnings and names."""
    config = write(tmp_path, GOOD + OFF)
    ran = run("check", str(config))
    assert (ran.returncode, ran.stdout, "would start" in ran.stderr) == (2, "", True)
    assert re.findall(r"^ *([\w.]+): ", ran.stderr, re.MULTILINE)[2:] == ["callers.phone.secret", "unknown"], ran.stderr
    checked = run("check", "--json", str(config))
    [line] = checked.stdout.splitlines()
    found = json.loads(line)
    assert (checked.returncode, checked.stderr, found.pop("file"), found.pop("starts")) == (2, "", str(config), True)
    environment = os.environ | {"BREAKGLASS_CONFIG": str(config), "PORT": str(reserve_port())}
    command = [sys.executable, "-m", "breakglass", "serve"]
    with subprocess.Popen(command, env=environment, cwd="/", stdout=subprocess.PIPE, **as_handler()) as process:
        assert process.stdout is not None
        logged = json.loads(process.stdout.readline())
        process.terminate()
    assert logged["level"] == "warning"
    assert found == {name: logged[name] for name in ("vms", "callers", "problems", "warnings")}
    assert len(found["problems"]) == 2
    missing = run("check", "--json", str(tmp_path / "none"))
    assert (missing.returncode, json.loads(missing.stdout)["starts"]) == (2, False)
    assert [(each["place"], each["code"]) for each in found["warnings"]] == [("hosts.pve1.host_key", "host-key-any")]


# --- who may read what ---

UID, GID = 12345, 12346  # without an account, as in a container
FILES = {
    "its own file": (UID, GID, 0o600, True),
    "root's, for its group": (0, GID, 0o640, True),
    "for every user": (0, GID, 0o644, False),
    "root's, which its group can write": (0, GID, 0o660, False),
}


def give(directory: Path, uid: int, gid: int, mode: int) -> tuple[Path, Path]:
    """Write a configuration and the SSH key that it names, with this owner and mode."""
    key, config = directory / "key", directory / "breakglass.toml"
    key.write_text(SSH_KEY)
    give_to_handler(key)  # for the directories above
    config.write_text(GOOD.replace(f"key = '''{SSH_KEY}'''", f'key_file = "{key}"'))
    for file in (key, config):
        os.chown(file, uid, gid)
        file.chmod(mode)
    directory.chmod(0o711)
    return config, key


@pytest.mark.real("root")
@pytest.mark.parametrize("name", sampled(FILES, "root's, for its group", "for every user"))
def test_a_file_that_others_can_reach_is_a_problem(tmp_path: Path, name: str) -> None:
    """For the configuration, and for an SSH key in its own file. It may belong to the user or be read by the group."""
    *file, is_safe = FILES[name]
    config, key = give(tmp_path, *file)
    ran = run_as(UID, UID, "check", str(config), groups=[GID])
    if is_safe:
        assert (ran.returncode, "no problems" in ran.stdout) == (0, True), ran.stderr
        return
    assert (ran.returncode, f"{config}: is not safe: " in ran.stderr, "    chmod 6" in ran.stderr) == (2, True, True)
    os.chown(config, UID, GID)
    config.chmod(0o600)
    ran = run_as(UID, UID, "check", str(config), groups=[GID])
    assert (ran.returncode, f'hosts.pve1.key_file: is not safe: "{key}"' in ran.stderr) == (2, True), ran.stderr


@pytest.mark.all
@pytest.mark.real("root")
def test_systemds_credentials_are_no_problem(tmp_path: Path) -> None:
    """LoadCredential= gives root's files to the unit's user by an ACL, whose mask shows as mode 0440."""
    config, key = give(tmp_path, UID, GID, 0o440)
    assert run_as(UID, UID, "check", str(config)).returncode == 2
    assert run_as(UID, UID, "check", str(config), CREDENTIALS_DIRECTORY=str(tmp_path)).returncode == 0

    give(tmp_path, 0, 0, 0o400)
    no_id = 0xFFFFFFFF
    entries = [(0x01, 4, no_id), (0x02, 4, UID), (0x04, 0, no_id), (0x10, 4, no_id), (0x20, 0, no_id)]  # acl(5)
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    for file in (config, key):
        os.setxattr(file, "system.posix_acl_access", acl)
        assert file.stat().st_mode & 0o777 == 0o440
    ran = run_as(UID, UID, "check", str(config), CREDENTIALS_DIRECTORY=str(tmp_path))
    assert ran.returncode == 0, ran.stderr
