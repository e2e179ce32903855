"""The configuration file: its settings, and a report of all its mistakes at once."""

import base64
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from breakglass.base.findings import ConfigError, Finding
from breakglass.config.load import load_config, parse
from breakglass.config.model import Config, Vm
from breakglass.config.secret_files import read_secret

from ..support.rows import each_row, read_rows
from ..support.service import SSH_KEY


def whsec(letter: str, size: int = 32) -> str:
    return "whsec_" + base64.b64encode(letter.encode() * size).decode()


SECRET = f'secret = "{whsec("o")}"'
OPERATOR = f'[callers.operator]\nsecret = "{whsec("o")}"\nallow = ["status", "reset"]\n'
HOST = f"""[hosts.pve1]
ssh = "breakglass@192.0.2.10:2222"
key = '''{SSH_KEY}'''
host_key = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGdvb2Qga2V5Li4uLi4uLi4uLi4uLi4uLi4uLi4uLi4u"]
"""
KEY = f"key = '''{SSH_KEY}'''"
VM = """[vms.devvm]
hosts = ["pve1"]
vmid = 102
"""
HUSH = "c2VjcmV0"  # is in each secret that a problem must not show
SESSIONS = f'[sessions]\nsecret = "{"s" * 32}"\n'
GOOD = OPERATOR + HOST + VM + SESSIONS


def no_files(name: str) -> str:
    return read_secret(name, {})[1]


def read(text: str, files: Mapping[str, str] | None = None) -> Config:
    return parse(text, files.__getitem__ if files is not None else no_files)


def problems(text: str, files: Mapping[str, str] | None = None) -> list[Finding]:
    """Return every problem of a file, even if the rest of it can be used."""
    try:
        found = list(read(text, files).problems)
    except ConfigError as error:
        found = error.problems
    assert all(problem.place and problem.sentence for problem in found)
    return found


def paths(text: str, files: Mapping[str, str] | None = None) -> list[str]:
    return [problem.place for problem in problems(text, files)]


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


PHONE = OPERATOR.replace("operator", "phone").replace(whsec("o"), whsec("p"))
OTHER_VM = VM.replace("devvm", "other").replace("102", "103")


def vm(config: Config) -> Vm:
    return config.vms["devvm"]


# --- settings ---


def test_every_caller_setting_is_read() -> None:
    """A caller can have several keys while they rotate, only some of the VMs, and an end."""
    more = f'secret = ["{whsec("o")}", "{whsec("n")}"]\nvms = ["devvm"]\nnot_after = 2027-06-01T00:00:00Z'
    (operator,) = read(changed(SECRET, more)).callers
    assert operator.keys == (b"o" * 32, b"n" * 32)
    assert operator.vms == frozenset({"devvm"})
    assert operator.not_after == datetime(2027, 6, 1, tzinfo=UTC)


def test_secrets_can_be_files() -> None:
    """Each secret can be the name of a file. Space around the file's text is removed."""
    text = GOOD.replace(f'secret = "{whsec("o")}"', 'secret_file = ["new", "old"]')
    text = text.replace(f"key = '''{SSH_KEY}'''", 'key_file = "key"')
    text = text.replace(f'secret = "{"s" * 32}"', 'secret_file = "session"')
    files = {"new": f"{whsec('n')}\r\n", "old": whsec("o"), "key": f"\n{SSH_KEY}\n\n", "session": "t" * 40 + "\n"}
    config = read(text, files)
    assert config.callers[0].keys == (b"n" * 32, b"o" * 32)
    assert config.hosts["pve1"].key == SSH_KEY.strip()
    assert config.session_secrets == ("t" * 40,)


def test_a_secret_file_that_can_not_be_read_is_a_problem(tmp_path: Path) -> None:
    """A file that is missing or not text is reported under the key that names it."""
    text = changed(SECRET, 'secret_file = "/nowhere"')
    problem, consequence = problems(text)
    assert (problem.place, consequence.place) == ("callers.operator.secret_file", "callers")
    assert "/nowhere" in problem.sentence
    (tmp_path / "file").touch(0o600)
    (tmp_path / "file").write_bytes(b"\xff")
    path = written(tmp_path, text.replace("/nowhere", str(tmp_path / "file")).encode())
    with pytest.raises(
        ConfigError, match=r'callers\.operator\.secret_file: can.t be read: ".*": it is not a text file'
    ):
        load_config(path, {})


@each_row(("line", "urls", "proxies", "message"), read_rows("settings.yaml")["server"])
def test_the_servers_addresses_are_read(line: str, urls: list[str], proxies: int, message: str) -> None:
    """A wrong URL leaves the others. No proxy has every address, because any client could then forge the log's."""
    config = read(f"{GOOD}[server]\n{line}\n")
    assert (list(config.urls), len(config.proxies)) == (urls, proxies)
    found = [f"{problem.place}: {problem.sentence}" for problem in config.problems]
    assert [each.startswith(message) for each in found] == [True] * bool(message)


def test_the_configuration_shows_no_secret() -> None:
    """It can be logged, because its representation has none, and so can its problems."""
    config = read(GOOD)
    shown = repr(config) + str(config) + repr(config.callers) + repr(config.hosts) + repr(config.vms)
    assert "operator" in shown
    assert [secret for secret in (whsec("o"), "oooo", SSH_KEY.splitlines()[2], "ssss") if secret in shown] == []
    assert HUSH not in str(problems(f'sessions = "{HUSH * 8}"\n' + GOOD.replace(SESSIONS, "")))


# --- mistakes ---

WRONG = read_rows(
    "wrong_settings.yaml",
    operator=OPERATOR,
    vm=VM,
    sessions=SESSIONS,
    secret=SECRET,
    signing=whsec("o"),
    short=whsec("o", 23),
    hush=HUSH,
)["callers"]


@each_row(("old", "new", "path"), WRONG.values())
def test_a_mistake_disables_its_entry_alone(old: str, new: str, path: str) -> None:
    """One mistake in a good file is a problem under its key's path, with an instruction and without any secret.

    A mistake in a caller leaves the others and every VM. Without a caller, a VM or a session secret, nothing starts.
    """
    text = changed(old, new)
    found = problems(text)
    assert [problem.place for problem in found] == ([path, "callers"] if path.startswith("callers.") else [path])
    assert all(problem.fix for problem in found)
    assert HUSH not in "".join(map(str, found))
    if path.startswith("callers."):
        config = read(text + PHONE + OTHER_VM)
        assert [problem.place for problem in config.problems] == [path]
        assert ([caller.name for caller in config.callers], set(config.vms)) == (["phone"], {"devvm", "other"})
    if path in ("callers", "vms", "sessions.secret") or path.startswith("callers."):
        with pytest.raises(ConfigError):
            read(text)


def test_at_least_one_caller_must_be_able_to_sign() -> None:
    """A configuration whose only caller has a bearer token is an error, because a token can't change power."""
    token = f'[callers.alertmanager]\ntoken = "bgt_{"t" * 43}"\nallow = ["forensics"]\n'
    assert paths(changed(OPERATOR, token)) == ["callers"]
    assert [caller.name for caller in read(GOOD + token).callers] == ["operator", "alertmanager"]
    assert read(GOOD + token).problems == ()


def test_callers_that_share_a_secret_are_off() -> None:
    """Two callers with one secret can't be told apart, so both are disabled, and each problem names the other."""
    tablet = OPERATOR.replace("operator", "tablet").replace(f'"{whsec("o")}"', f'["{whsec("t")}", "{whsec("o")}"]')
    config = read(GOOD + PHONE + tablet)
    assert {problem.code for problem in config.problems} == {"secret-shared"}
    found = [(problem.place, problem.sentence.split()[-1]) for problem in config.problems]
    assert found == [("callers.operator.secret", "tablet"), ("callers.tablet.secret", "operator")]
    assert [caller.name for caller in config.callers] == ["phone"]


def test_a_secret_shared_with_a_caller_that_is_disabled_counts_as_shared() -> None:
    """A mistake in the other entry does not decide whose secret it is."""
    tablet = OPERATOR.replace("operator", "tablet").replace("allow", "permit")
    config = read(GOOD + PHONE + tablet)
    assert [caller.name for caller in config.callers] == ["phone"]
    assert "callers.operator.secret" in [problem.place for problem in config.problems]


# --- the file itself ---


def written(directory: Path, content: bytes, mode: int = 0o600) -> Path:
    path = directory / "breakglass.toml"
    path.write_bytes(content)
    path.chmod(mode)
    return path


PLACES = {
    "callers.operator.secret_file": f'secret = "{whsec("o")}"',
    "hosts.pve1.key_file": KEY,
    "sessions.secret_file": f'secret = "{"s" * 32}"',
}


@pytest.mark.real("root")
@each_row("place", ["", *PLACES])
@each_row(
    ("mode", "owner", "why"),
    [
        *((mode, 0, "every user of this machine can reach it") for mode in (0o604, 0o602, 0o601)),
        (0o660, 0, "its group can write it"),
        (0o640, 65534, "its group can reach it, and root does not own it"),
    ],
)
def test_a_file_that_others_can_reach_is_refused(tmp_path: Path, place: str, mode: int, owner: int, why: str) -> None:
    """The rule is that of OpenSSH and PostgreSQL, for the configuration and for each secret file that it names.

    A group may read what root or systemd gives it. Only the exact word in the environment disables the rule.
    """
    path = file = written(tmp_path, GOOD.encode())
    if place:
        file = tmp_path / "secret"
        written(tmp_path, changed(PLACES[place], f'{place.rpartition(".")[2]} = "{file}"').encode())
        file.write_text(SSH_KEY if "key" in place else whsec("f"))
    file.chmod(mode)
    os.chown(file, owner, 0)
    for environment in ({}, {"BREAKGLASS_INSECURE_CONFIG_MODE": "yes"}, {"CREDENTIALS_DIRECTORY": f"{tmp_path}/else"}):
        with pytest.raises(ConfigError) as caught:
            load_config(path, environment)
        problem = caught.value.problems[0]
        assert (problem.place.removeprefix(f"{path}"), why in problem.sentence) == (place, True)
        assert file.name in problem.fix
    assert load_config(path, {"BREAKGLASS_INSECURE_CONFIG_MODE": "1"}).problems == ()
    if owner:
        assert load_config(path, {"CREDENTIALS_DIRECTORY": str(tmp_path)}).problems == ()
    os.chown(file, 0, 0)
    file.chmod(0o640)
    assert load_config(path, {}).problems == ()


def test_a_file_in_systemds_directory(tmp_path: Path) -> None:
    """A name that begins with the variable is a credential. If the variable is missing, the problem says so."""
    (tmp_path / "secret_operator").touch(0o600)
    (tmp_path / "secret_operator").write_text(whsec("f"))
    text = changed(SECRET, 'secret_file = "$CREDENTIALS_DIRECTORY/secret_operator"')
    path = written(tmp_path, text.encode())
    config = load_config(path, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert config.problems == ()
    assert str(tmp_path / "secret_operator") in config.files
    with pytest.raises(ConfigError, match='/secret_operator": CREDENTIALS_DIRECTORY is not set'):
        load_config(path, {})


@each_row("content", [b"\xff\xfe", GOOD.encode("utf-16"), b"# th\xe9\n" + GOOD.encode(), b"\0", b"", None])
def test_a_file_that_can_not_be_used_is_a_config_error(tmp_path: Path, content: bytes | None) -> None:
    """It is no other exception. A file that is missing is named with the variable to set."""
    path = tmp_path / "missing.toml" if content is None else written(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    assert all(problem.place and problem.sentence and problem.fix for problem in caught.value.problems)
    assert content is not None or "BREAKGLASS_CONFIG" in caught.value.problems[0].fix
