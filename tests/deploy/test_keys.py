"""`breakglass keys` beside a running handler: what it changes is in force after the reload, and not before."""

import argparse
import json
import os
import pty
import signal
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
from breakglass.cli.output import CommandError
from breakglass.cli.reloading import reload_handler

from ..support.forked import run_command
from ..support.ports import reserve_port
from ..support.service import SSH_KEY, Service, config_text, give_to_handler, new_secret

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
    """Run a command that reloads the handler, and returns once the handler has the new configuration."""
    url = f"http://127.0.0.1:{service.port}"
    pid = str(service.process.pid)
    ran = breakglass(service, *words, "--pid", pid, environment={"BREAKGLASS_URL": url})
    assert (ran.returncode, "which is ok" in ran.stderr) == (0, True), ran
    return ran


def accepted(service: Service, name: str, secret: str) -> bool:
    """Tell whether a signed request is accepted, by its caller's name."""
    service.secrets[name] = secret
    reply = service.send("POST", "/echo", b"{}", service.signed(b"{}", name))
    assert reply.status in (200, 401)
    return reply.status == 200 and bool(reply.json["caller"] == name)


def own(config: Path) -> Path:
    return config.parent / "callers.d"


def entries(service: Service) -> dict[str, Any]:
    """Return what is in each file of a caller."""
    return {file.stem: tomllib.loads(file.read_text()) for file in own(service.config).glob("*")}


def write(config: Path, name: str, text: str) -> Path:
    """Write the file of a caller by hand."""
    own(config).mkdir(exist_ok=True, mode=0o755)
    file = own(config) / f"{name}.toml"
    file.touch(0o600)
    file.write_text(text)
    give_to_handler(file)
    return file


# --- new, rotate and revoke ---


def test_a_key_from_its_first_day_to_its_last(service: Service) -> None:
    """It is good after the reload, then the next one beside it, then that one alone, then none."""
    before, others = service.config.read_bytes(), entries(service)
    made = breakglass(service, "keys", "new", "phone", "--allow", "status,reset", "--vms", "devvm")
    first = made.stdout.strip()
    assert (made.returncode, "use this change" in made.stderr, first in made.stderr) == (0, True, False)
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
    assert (service.config.read_bytes(), entries(service)) == (before, others)


def test_other_auth_methods_have_keys_too(service: Service) -> None:
    """A sender's secret is changed as a signing key is."""
    for flag, key in (("--bearer", "token"), ("--grafana", "grafana_secret")):
        made = json.loads(breakglass(service, "keys", "new", "sender", flag, "--json").stdout)
        assert entries(service)["sender"] == {key: made["secret"], "allow": ["forensics"]}
        second = breakglass(service, "keys", "rotate", "sender").stdout.strip()
        assert entries(service)["sender"][key] == [made["secret"], second]
        assert breakglass(service, "keys", "revoke", "sender", "--yes").returncode == 0


def test_the_secret_can_go_to_a_file_of_the_caller(service: Service, tmp_path: Path) -> None:
    """It is new and its owner's alone; the configuration has the secret, too. A refusal leaves no file."""
    file = tmp_path / "tablet"
    made = breakglass(service, "keys", "new", "tablet", "--out", str(file))
    assert (made.returncode, made.stdout, "whsec_" in made.stderr) == (0, "", False)
    assert file.read_text() == entries(service)["tablet"]["secret"] + "\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text()
    assert breakglass(service, "keys", "new", "other", "--out", str(file)).returncode == 2
    assert file.read_text() == text
    refused = breakglass(service, "keys", "new", "tablet", "--out", str(tmp_path / "none"))
    assert (refused.returncode, "keys rotate tablet" in refused.stderr) == (1, True)
    assert (os.listdir(tmp_path), "other" in entries(service)) == (["tablet"], False)
    breakglass(service, "keys", "revoke", "tablet", "--yes")


def test_a_limited_caller_is_printed(service: Service, tmp_path: Path) -> None:
    """With --out nothing secret is printed; without limits, no verb that changes power is allowed."""
    file = tmp_path / 'a "key"'
    words = ("--allow", "status, reset", "--vm", "devvm,mail", "--not-after", "2127-06-01T02:00:00+02:00")
    printed = breakglass(service, "keys", "new", "--print", "anna", *words, "--out", str(file))
    assert (printed.returncode, "whsec_" in printed.stdout + printed.stderr) == (0, False)
    assert (len(secret_bytes(file.read_text().strip())), stat.S_IMODE(file.stat().st_mode)) == (32, 0o600)
    limits = {"allow": ["status", "reset"], "vms": ["devvm", "mail"], "not_after": datetime(2127, 6, 1, tzinfo=UTC)}
    assert tomllib.loads(printed.stdout) == {"secret_file": str(file), **limits}
    entry = tomllib.loads(breakglass(service, "keys", "new", "--print", "anna").stdout)
    assert (len(secret_bytes(entry["secret"])), entry["allow"]) == (32, ["status", "forensics", "history"])


def test_what_is_refused_changes_nothing(service: Service, tmp_path: Path) -> None:
    """Each refusal says what to do instead. A secret that could not be shown is taken back."""
    write(service.config, "desk", f'secret = "{new_secret()}"\nallow = ["status"]\n')
    before, names = service.config.read_bytes(), sorted(os.listdir(own(service.config)))
    for words, code, output in (
        (("new", ".phone"), 2, "no dot"),
        (("new", "phone", "--print", "--allow", "reboot"), 2, "breakglass: --allow: "),
        (("new", "phone", "--vms", "dev vm"), 2, "breakglass: --vms: "),
        (("new", "phone", "--not-after", "2020-01-01"), 2, "breakglass: --not-after: "),
        (("new", "phone", "--pid", str(os.getpid())), 2, "is not breakglass serve"),
        (("revoke", "phone", "--yes"), 1, "has no caller phone"),
        (("revoke", "desk"), 2, "add --yes"),
        (("new", "viewer"), 1, f"viewer is defined in {service.config}"),
        (("rotate", "viewer"), 1, "by hand"),
    ):
        ran = breakglass(service, "keys", *words)
        assert (ran.returncode, ran.stdout, output in ran.stderr) == (code, "", True), ran.stderr
    with open("/dev/full", "w") as full:
        secret = entries(service)["desk"]["secret"]
        for words in (("new", "phone"), ("rotate", "desk")):
            ran = breakglass(service, "keys", *words, capture_output=False, stdout=full, stderr=subprocess.PIPE)
            assert ran.returncode == 1
    assert (service.config.read_bytes(), sorted(os.listdir(own(service.config)))) == (before, names)
    assert entries(service)["desk"]["secret"] == secret
    assert os.listdir(tmp_path) == []


def test_the_last_one_that_signs_stays(service: Service, tmp_path: Path) -> None:
    """Without it, the handler would accept no signature. A caller that has expired is no other one."""
    file = tmp_path / "breakglass.toml"
    file.touch(0o600)
    late = config_text({"late": {"secret": new_secret(), "allow": ["status"]}}, port=1, key=SSH_KEY, host_key="any")
    file.write_text(late.replace("[hosts.", "not_after = 2020-01-01T00:00:00Z\n[hosts.", 1))
    assert breakglass(service, "keys", "new", "bob", "--config", str(file)).returncode == 0
    ran = breakglass(service, "keys", "revoke", "bob", "--yes", "--config", str(file))
    assert (ran.returncode, "the last caller" in ran.stderr) == (1, True), ran.stderr
    assert (own(file) / "bob.toml").exists()


def test_in_a_terminal_a_person_is_asked(service: Service) -> None:
    """The question says what the caller could do. Only a yes is one."""
    breakglass(service, "keys", "new", "guest", "--allow", "status,cycle", "--vms", "devvm")
    for answer, goes in (("", False), ("y", True)):
        ours, theirs = pty.openpty()
        os.write(ours, f"{answer}\n".encode())
        streams = {"stdin": theirs, "stdout": theirs, "stderr": subprocess.PIPE}
        try:
            ran = breakglass(service, "keys", "revoke", "guest", capture_output=False, **streams)
        finally:
            os.close(ours)
            os.close(theirs)
        assert ("cycle; on devvm" in ran.stderr, ran.returncode) == (True, 0 if goes else 1)
        assert ("guest" not in entries(service)) is goes


# --- the reload ---


def reload_handler_at(service: Service) -> str:
    """Return what a command says that has changed something and reloads this handler."""
    arguments = argparse.Namespace(unit=None, pid=service.process.pid)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BREAKGLASS_URL", f"http://127.0.0.1:{service.port}")
        try:
            reload_handler(arguments)
        except CommandError as error:
            return str(error.message)
    return ""


def test_a_fault_in_the_files_takes_no_other_caller_away(service: Service) -> None:
    """A file with a fault disables its caller alone; a directory that can't be read, or is gone, none at all."""
    secret, place = new_secret(), own(service.config)
    write(service.config, "eva", f'secret = "{secret}"\nallow = ["status"]\n')
    write(service.config, "bad", 'secret = "hunter2"\n')

    def reload(event: str) -> dict[str, Any]:
        count = service.log().count(f'"event": "{event}"')
        service.process.send_signal(signal.SIGHUP)
        notes = service.logged(f'"event": "{event}"', times=count + 1).splitlines()
        found: dict[str, Any] = json.loads([line for line in notes if f'"event": "{event}"' in line][-1])
        return found

    paths = {problem["place"] for problem in reload("reload")["problems"]}
    assert paths == {"callers.d/bad.toml: secret", "callers.d/bad.toml: allow"}
    (place / "bad.toml").unlink()
    mode = place.stat().st_mode
    for hide, bring_back in (
        (lambda: place.chmod(0), lambda: place.chmod(mode)),
        (lambda: place.chmod(0o644), lambda: place.chmod(mode)),  # its names can be read, and no file
        (lambda: place.rename(f"{place}.old"), lambda: Path(f"{place}.old").rename(place)),
    ):
        hide()
        try:
            [problem] = reload("reload-rejected")["problems"]
            assert "callers.d" in problem["place"]
            assert service.health()["config"].startswith("rejected since")
            assert accepted(service, "eva", secret)
            assert "rejects" in reload_handler_at(service)
        finally:
            bring_back()
    (place / "eva.toml").unlink()
    assert reload("reload")["problems"] == []
    assert not accepted(service, "eva", secret)


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
    assert "breakglass not found." in bad.stderr


# --- list ---


def test_the_list_says_who_may_do_what_until_when(service: Service, tmp_path: Path) -> None:
    """Each caller has a line, with why it is disabled, and none has a secret."""
    file, now = tmp_path / "breakglass.toml", datetime.now(UTC)
    file.touch(0o600)
    old, new = new_secret(), new_secret()
    file.write_text(
        f'{service.config.read_text()}\n[callers."a.b"]\nsecret = ["{old}", "{new}"]\n'
        'allow = ["status"]\nvms = ["devvm"]\n'
        f"not_after = {now + timedelta(days=40, hours=1):%Y-%m-%dT%H:%M:%SZ}\n"
        '[callers."x\\ny"]\nallow = ["status"]\n'
    )
    write(file, "a", f'token = "bgt_{"t" * 43}"\nallow = ["forensics"]\nnot_after = 2020-01-01T00:00:00Z\n')
    write(file, "bad", 'secret = "hunter2"\nallow = ["status"]\nvms = ["none"]\n')
    keys = [fingerprint(secret_bytes(each)) for each in (old, new)]
    lines: list[dict[str, Any]] = [
        {"time": "2026-11-27T03:12:09Z", "event": "request", "caller": "a.b", "key": keys[0], "outcome": "done"},
        {"time": "2026-11-26T03:12:09Z", "event": "request", "caller": "a.b", "key": keys[0], "outcome": "done"},
        {"time": "2026-11-25T01:00:00Z", "event": "alert", "source": "kuma", "caller": "a", "taken": []},
        {"time": "2026-11-25T01:00:00Z", "event": "request", "caller": "viewer", "outcome": "paired-twice"},
    ]
    log = tmp_path / "log"
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    log.write_bytes(b'{"time": "2026-11-28T01:00:00Z", "caller": "a.b\n\xff\n[1]\n' + text.encode() + b'{"caller"')
    shown = breakglass(service, "keys", "list", "--config", str(file), "--log", str(log))
    assert shown.returncode == 0, shown.stderr
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in shown.stdout.splitlines()}
    assert list(rows) == ["operator", "operator2", "viewer", "a.b", r"x\ny", "a", "bad"]
    marks = [("a.b", f"in 40 days {keys[0]} 2026-11-27T03:12:09Z, {keys[1]} not"), ("a.b", "2 secrets status devvm")]
    marks += [("a", "bearer 1"), ("a", "forensics all VMs expired 2020-01-01 2026-11-25T01:00:00Z")]
    marks += [("bad", "disabled: secret"), ("bad", "; vms has"), ("viewer", "no expiry not")]
    assert [(name, mark) for name, mark in marks if mark not in rows[name]] == []
    unseen = [*service.secrets.values(), old, new, "bgt_", "hunter2"]
    assert [word for word in unseen if word in shown.stdout] == []
