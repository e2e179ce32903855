"""`breakglass keys` beside a running handler: what it changes is in force after the reload, and not before."""

import json
import os
import pty
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from breakglass.auth.signing import fingerprint, secret_bytes

from ..support.forked import run_command
from ..support.ports import reserve_port
from ..support.selection import sampled
from ..support.service import SSH_KEY, Service, new_secret
from ..support.sshd import descendants

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.slow  # a command and its files in each test


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A handler whose host is not there: who may ask is decided before a host is needed."""
    service = Service(tmp_path_factory.mktemp("keys"), port=reserve_port(), key=SSH_KEY, host_key="any")
    yield service
    service.stop()


def breakglass(service: Service, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a command with the handler's configuration."""
    own = {"BREAKGLASS_CONFIG": str(service.config), **more.pop("environment", {})}
    if not more:
        return run_command(*words, **own)
    environment = os.environ | own
    command = [sys.executable, "-m", "breakglass", *words]
    return subprocess.run(command, env=environment, text=True, timeout=100, **{"capture_output": True, **more})


def reloading(service: Service, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command that reloads the handler, and return once the handler has the new configuration."""
    before = service.log().count('"event": "reload"')
    ran = breakglass(service, *words, "--pid", str(service.process.pid))
    assert ran.returncode == 0, ran.stderr
    assert "was told to read" in ran.stderr
    service.logged('"event": "reload"', times=before + 1)
    return ran


def accepted(service: Service, name: str, secret: str) -> bool:
    """Tell whether a signed request is accepted, by its caller's name."""
    service.secrets[name] = secret
    reply = service.send("POST", "/echo", b"{}", service.signed(b"{}", name))
    assert reply.status in (200, 401)
    return reply.status == 200 and bool(reply.json["caller"] == name)


def entries(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(service.config.read_text())["callers"]
    return found


# --- new, rotate and revoke ---


def test_a_key_from_its_first_day_to_its_last(service: Service) -> None:
    """It is good after the reload, then the next one beside it, then that one alone, then none."""
    before = service.config.stat()
    made = breakglass(service, "keys", "new", "phone", "--allow", "status,reset", "--vms", "devvm")
    first = made.stdout.strip()
    assert (made.returncode, "does not know this yet" in made.stderr, first in made.stderr) == (0, True, False)
    assert entries(service)["phone"] == {"secret": first, "allow": ["status", "reset"], "vms": ["devvm"]}
    assert not accepted(service, "phone", first)
    second = reloading(service, "keys", "rotate", "phone").stdout.strip()
    assert (accepted(service, "phone", first), accepted(service, "phone", second)) == (True, True)
    dropped = reloading(service, "keys", "rotate", "phone", "--drop-old")
    assert (dropped.stdout, "whsec_" in dropped.stderr) == ("", False)
    assert fingerprint(secret_bytes(first)) in dropped.stderr
    assert (accepted(service, "phone", first), accepted(service, "phone", second)) == (False, True)
    again = breakglass(service, "keys", "rotate", "phone", "--drop-old")
    assert (again.returncode, "nothing was changed" in again.stderr) == (0, True)
    reloading(service, "keys", "revoke", "phone", "--yes")
    assert not accepted(service, "phone", second)
    after = service.config.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


@pytest.mark.parametrize(("flag", "key"), [("--bearer", "token"), ("--grafana", "grafana_secret")])
def test_other_auth_methods_have_keys_too(service: Service, flag: str, key: str) -> None:
    """A sender's secret is changed as a signing key is."""
    first = breakglass(service, "keys", "new", "sender", flag).stdout.strip()
    assert entries(service)["sender"] == {key: first, "allow": ["forensics"]}
    second = breakglass(service, "keys", "rotate", "sender").stdout.strip()
    assert entries(service)["sender"][key] == [first, second]
    assert breakglass(service, "keys", "revoke", "sender", "--yes").returncode == 0


def test_a_handler_that_the_procfile_starts_is_told(tmp_path: Path) -> None:
    """`python handler serve` runs the repository's folder, whose name is not breakglass."""
    _, started = (ROOT / "Procfile").read_text().split(" python ")
    program = (str(ROOT / started.split()[0]),)
    service = Service(tmp_path, port=reserve_port(), key=SSH_KEY, host_key="any", program=program)
    try:
        assert started.split()[1:] == ["serve"]
        reloading(service, "keys", "new", "phone")
        assert "phone" in entries(service)
    finally:
        service.stop()


def test_the_secret_can_go_to_a_file_of_the_caller(service: Service, tmp_path: Path) -> None:
    """It is new and its owner's alone; the configuration has the secret, too. A refusal leaves no file."""
    file = tmp_path / "tablet"
    made = breakglass(service, "keys", "new", "tablet", "--out", str(file))
    assert (made.returncode, made.stdout, "whsec_" in made.stderr) == (0, "", False)
    assert file.read_text() == entries(service)["tablet"]["secret"] + "\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    taken = breakglass(service, "keys", "new", "other", "--out", str(file))
    assert (taken.returncode, "exists, and was not changed" in taken.stderr, "other" in entries(service)) == (
        2,
        True,
        False,
    )
    refused = breakglass(service, "keys", "new", "tablet", "--out", str(tmp_path / "none"))
    assert (refused.returncode, "keys rotate tablet" in refused.stderr) == (1, True)
    assert os.listdir(tmp_path) == ["tablet"]
    breakglass(service, "keys", "revoke", "tablet", "--yes")


def test_what_is_refused_changes_nothing(service: Service, tmp_path: Path) -> None:
    """Each refusal says what to do instead. A secret that could not be shown is taken back."""
    before = service.config.read_bytes()
    for words, code, output in (
        (("new", "a b"), 2, "not a usable caller name"),
        (("new", "phone", "--vms", "mail"), 1, "callers.phone.vms"),
        (("new", "phone", "--config", str(tmp_path / "none")), 2, "keys new NAME --print"),
        (("new", "phone", "--pid", str(os.getpid())), 2, "is not breakglass serve"),
        (("new", "phone", "--pid", "0"), 2, "there is no process 0"),
        (("rotate", "phone"), 1, "has no caller phone"),
        (("revoke", "phone", "--yes"), 1, "has no caller phone"),
        (("revoke", "viewer"), 2, "add --yes"),
    ):
        ran = breakglass(service, "keys", *words)
        assert (ran.returncode, output in ran.stderr) == (code, True), ran.stderr
    with open("/dev/full", "w") as full:
        for words in (("new", "phone"), ("rotate", "viewer")):
            ran = breakglass(service, "keys", *words, capture_output=False, stdout=full, stderr=subprocess.PIPE)
            assert ran.returncode == 1
    assert {**entries(service), "viewer": None} == {**tomllib.loads(before.decode())["callers"], "viewer": None}
    assert entries(service)["viewer"]["secret"] in (service.secrets["viewer"], [service.secrets["viewer"]])
    assert os.listdir(tmp_path) == []


def test_the_last_one_that_signs_stays(service: Service, tmp_path: Path) -> None:
    """Without it the handler would not start, or would accept no signature: one that has expired is no other."""
    file = tmp_path / "breakglass.toml"
    file.touch(0o600)
    text = service.config.read_text()
    late = f'[callers.late]\nsecret = "{new_secret()}"\nallow = ["status"]\nnot_after = 2020-01-01T00:00:00Z\n'
    file.write_text(f"{text}\n{late}")
    breakglass(service, "keys", "new", "am", "--bearer", "--config", str(file))
    for name in ("operator", "operator2", "viewer"):
        ran = breakglass(service, "keys", "revoke", name, "--yes", "--config", str(file))
    assert (ran.returncode, "the last caller that signs" in ran.stderr, "keys rotate viewer" in ran.stderr) == (
        1,
        True,
        True,
    )
    assert breakglass(service, "keys", "revoke", "late", "--yes", "--config", str(file)).returncode == 0
    ran = breakglass(service, "keys", "revoke", "viewer", "--yes", "--config", str(file))
    assert (ran.returncode, "the handler would not start" in ran.stderr) == (1, True)


def test_a_file_of_a_secret_is_named_when_its_caller_goes(service: Service, tmp_path: Path) -> None:
    """`doctor` signs as the caller of that name; the file is what BREAKGLASS_SECRET_FILE names."""
    secret = tmp_path / "doctor"
    secret.touch(0o600)
    secret.write_text(new_secret())
    text = service.config.read_text()
    service.config.write_text(f'{text}\n[callers.doctor]\nsecret_file = "{secret}"\nallow = ["status"]\n')
    environment = {"BREAKGLASS_SECRET_FILE": str(secret)}
    ran = breakglass(service, "keys", "revoke", "doctor", "--yes", environment=environment)
    assert ran.returncode == 0, ran.stderr
    assert [word for word in (f"still there: {secret}", "drill sign with it", "timer") if word not in ran.stderr] == []


@pytest.mark.parametrize(
    ("answer", "goes"), sampled([("n", False), ("", False), ("y", True)], ("y", True), ("", False))
)
def test_in_a_terminal_a_person_is_asked(service: Service, answer: str, goes: bool) -> None:
    """The question says what the caller could do."""
    breakglass(service, "keys", "new", "guest", "--allow", "status,cycle", "--vms", "devvm")
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    try:
        ran = breakglass(
            service,
            "keys",
            "revoke",
            "guest",
            capture_output=False,
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.PIPE,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert "guest may: status, cycle; on devvm" in ran.stderr
    assert (ran.returncode, "guest" not in entries(service)) == (0 if goes else 1, goes)
    if not goes:
        breakglass(service, "keys", "revoke", "guest", "--yes")


# --- the reload ---


@pytest.mark.real("root")
def test_the_launcher_is_not_taken_for_the_handler(service: Service) -> None:
    """It has the same command line, and ignores SIGHUP."""
    [launcher] = descendants(service.process.pid)
    before = service.config.read_bytes()
    ran = breakglass(service, "keys", "new", "phone", "--pid", str(launcher))
    assert (ran.returncode, "launcher" in ran.stderr) == (2, True), ran.stderr
    assert service.config.read_bytes() == before


def test_a_unit_is_reloaded(service: Service, tmp_path: Path) -> None:
    """Its failure is said after the change is made, and that there is no systemd before."""
    systemctl, asked = tmp_path / "systemctl", tmp_path / "asked"
    path = {"PATH": f"{tmp_path}"}
    none = breakglass(service, "keys", "new", "phone", "--unit", "breakglass", environment=path)
    assert (none.returncode, "no systemctl" in none.stderr, "phone" in entries(service)) == (2, True, False)
    systemctl.write_text(f'#!/bin/sh\necho "$@" >{asked}\n')
    systemctl.chmod(0o755)
    good = breakglass(service, "keys", "new", "phone", "--unit", "breakglass", environment=path)
    assert (good.returncode, asked.read_text()) == (0, "reload -- breakglass\n"), good.stderr
    systemctl.write_text("#!/bin/sh\necho 'Unit breakglass not found.' >&2; exit 5\n")
    bad = breakglass(service, "keys", "revoke", "phone", "--yes", "--unit", "breakglass", environment=path)
    assert (bad.returncode, "phone" in entries(service)) == (1, False)
    assert "is changed, but the handler was not told: Unit breakglass not found." in bad.stderr


# --- list ---


def test_the_list_says_who_may_do_what_until_when(service: Service, tmp_path: Path) -> None:
    """Each caller has a line, with what it is off for, and none has a secret."""
    file, now = tmp_path / "breakglass.toml", datetime.now(UTC)
    file.touch(0o600)
    old, new = new_secret(), new_secret()
    file.write_text(
        f'{service.config.read_text()}\n[callers."a.b"]\nsecret = ["{old}", "{new}"]\n'
        'allow = ["status"]\nvms = ["devvm"]\n'
        f"not_after = {now + timedelta(days=40, hours=1):%Y-%m-%dT%H:%M:%SZ}\n"
        f'[callers.a]\ntoken = "bgt_{"t" * 43}"\nallow = ["forensics"]\nnot_after = 2020-01-01T00:00:00Z\n'
        '[callers.bad]\nsecret = "hunter2"\nallow = ["status"]\nvms = ["none"]\n'
        '[callers."x\\ny"]\nallow = ["status"]\n'
    )
    keys = [fingerprint(secret_bytes(each)) for each in (old, new)]
    lines: list[dict[str, Any]] = [
        {"time": "2026-11-27T03:12:09Z", "event": "request", "caller": "a.b", "key": keys[0], "outcome": "done"},
        {"time": "2026-11-26T03:12:09Z", "event": "request", "caller": "a.b", "key": keys[0], "outcome": "done"},
        {"time": "2026-11-25T01:00:00Z", "event": "alert", "source": "kuma", "caller": "a", "taken": []},
        {"time": "2026-11-25T01:00:00Z", "event": "request", "caller": "gone", "key": "00000000"},
        {"time": "2026-11-25T01:00:00Z", "event": "request", "caller": "viewer", "outcome": "paired-twice"},
        {"time": 7, "caller": "viewer"},
        {"time": "2026-11-25T01:00:00Z", "caller": ["viewer"]},
    ]
    log = tmp_path / "log"
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    log.write_bytes(b'{"time": "2026-11-28T01:00:00Z", "caller": "a.b\n\xff\n[1]\n' + text.encode() + b'{"caller"')
    shown = breakglass(service, "keys", "list", "--config", str(file), "--log", str(log))
    assert shown.returncode == 0, shown.stderr
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in shown.stdout.splitlines()}
    assert list(rows) == ["operator", "operator2", "viewer", "a.b", "a", "bad", r"x\ny"]
    assert rows["a.b"] == (
        f"signature 2 secrets status devvm expires in 40 days {keys[0]} 2026-11-27T03:12:09Z, {keys[1]} not in this log"
    )
    assert rows["a"] == "bearer 1 secret forensics all VMs expired 2020-01-01 2026-11-25T01:00:00Z"
    assert "off: secret does not begin with whsec_; vms has an unknown word" in rows["bad"]
    assert rows["viewer"].endswith("no expiry not in this log")
    piped = breakglass(service, "keys", "list", "--json", "--config", str(file), "--log", "-", input=text)
    found = {each["name"]: each for each in json.loads(piped.stdout)["callers"]}
    assert found["a.b"]["last_used"] == "2026-11-27T03:12:09Z"
    assert found["a.b"]["keys"] == [
        {"key": keys[0], "last_used": lines[0]["time"]},
        {"key": keys[1], "last_used": None},
    ]
    assert (found["a"]["expired"], found["a"]["method"], found["viewer"]["vms"]) == (True, "bearer", None)
    output = shown.stdout + piped.stdout
    # "bgt_" alone may be in the name of the file's directory
    unseen = [*service.secrets.values(), old, new, "t" * 43, "hunter2", "gone"]
    assert [word for word in unseen if word in output] == []


def test_the_log_of_a_handler_is_understood(service: Service) -> None:
    """The fingerprints in the list are those that the handler writes."""
    assert accepted(service, "viewer", service.secrets["viewer"])
    service.logged('"caller": "viewer"')
    ran = breakglass(service, "keys", "list", "--json", "--log", str(service.audit_file))
    [viewer] = [each for each in json.loads(ran.stdout)["callers"] if each["name"] == "viewer"]
    assert viewer["last_used"] == viewer["keys"][0]["last_used"]
    assert viewer["last_used"]
