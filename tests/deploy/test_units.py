"""The units in deploy/systemd: what systemd says about them, and what they do under a systemd that is PID 1."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pip
import pytest

from ..support import claude
from ..support.booted import Booted, booted
from ..support.documents import commands
from ..support.locks import ROOT
from ..support.service import SSH_KEY, new_secret
from ..support.stages import until
from ..support.wheelhouse import wheelhouse

UNITS = ROOT / "deploy/systemd"
EXPOSURES = {
    **dict.fromkeys(("breakglass.service", "breakglass-doctor.service", "breakglass-report.service"), "19"),
    "breakglass-chat@.service": "30",
}
OTHERS = ("breakglass-chat.socket", "breakglass-doctor.timer", "breakglass-report.timer")
CONFIG = """\
[callers.operator]
secret_file = "$CREDENTIALS_DIRECTORY/secret_operator"
allow = ["status", "history", "chat"]

[hosts.pve1]
ssh = "breakglass@127.0.0.1:9"
key_file = "$CREDENTIALS_DIRECTORY/secret_pve_power"
host_key = "any"

[vms.devvm]
hosts = ["pve1"]
vmid = 102

[sessions]
secret_file = "$CREDENTIALS_DIRECTORY/secret_session"
dir = "/var/lib/breakglass"
"""
CHAT = """
[chat]
command = "/opt/claude"
base_url = "http://127.0.0.1:9"
credential_file = "$CREDENTIALS_DIRECTORY/secret_claude"
"""
ASK = "import socket; socket.socket(socket.AF_UNIX).connect('/run/breakglass-chat')"
PREPARE = """\
/usr/bin/python3 -m venv --without-pip /opt/breakglass
export PYTHONPATH=/pip # this checkout's own may be below /tmp, which is another directory here
/usr/bin/python3 -m pip --quiet --python /opt/breakglass/bin/python install --no-index --find-links /wheels breakglass
"""


[_install, _] = commands("docs/packages.md", "Without the package")
_units = _install[_install.index("cd deploy/systemd") :]
[_reloads, _chat, _, _check, _check_credentials] = commands("docs/admin.md", "Installing the handler")
_units = _units.replace("/usr/src/breakglass/", "/") + "systemctl enable --now breakglass"
PASTED = {"units": _units, "reloads": _reloads, "chat": _chat, "check": _check}
PASTED["check with credentials"] = _check_credentials
[PASTED["daily"]] = commands("docs/monitoring.md", "Every day")


@pytest.mark.real("systemd")
def test_systemd_finds_no_fault_in_the_units() -> None:
    """It says nothing at all, where Breakglass is installed.

    The exposure is below 2.0 for the process that answers HTTP and for doctor, and 3.0 for a turn of chat.
    """
    install = (
        'mount -t tmpfs t /opt; mkdir -p /opt/breakglass/bin; ln -s /bin/true /opt/breakglass/bin/breakglass; "$@"'
    )
    command = ["unshare", "--mount", "sh", "-ec", install, "sh", "systemd-analyze", "verify"]
    command += [str(UNITS / unit) for unit in (*EXPOSURES, *OTHERS) if "@" not in unit]  # a socket names that one
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")
    for unit, tenths in EXPOSURES.items():
        command = ["systemd-analyze", "security", "--offline=true", f"--threshold={tenths}", str(UNITS / unit)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    """A machine on which Breakglass is installed and its handler enabled, without chat."""
    files = tmp_path_factory.mktemp("files")
    for name in ("systemd", "nginx"):
        shutil.copytree(ROOT / "deploy" / name, files / "deploy" / name)
    target = files / "etc/systemd/system/booted.target"
    target.parent.mkdir(parents=True)
    target.write_text("[Unit]\nDescription=The target of a test\n")
    secrets = {"session": "s" * 40, "pve_power": SSH_KEY, "claude": "ANTHROPIC_API_KEY=sk-test"}
    secrets |= {name: new_secret() for name in ("operator", "operator2")}
    etc = files / "etc/breakglass"
    (etc / "secrets").mkdir(parents=True)
    etc.chmod(0o755)
    (etc / "breakglass.toml").write_text(CONFIG)
    for name, text in secrets.items():
        (etc / "secrets" / name).touch(0o600)
        (etc / "secrets" / name).write_text(text)
    shutil.copytree(wheelhouse(), files / "wheels")
    shutil.copytree(Path(pip.__file__).parent, files / "pip/pip")
    (files / "prepare").write_text(PREPARE)
    with booted(tmp_path_factory.mktemp("booted"), files) as system:
        system.run("sh", "-ec", PASTED["units"])
        until(lambda: health(system), "the start")
        yield system


def health(system: Booted) -> dict[str, object]:
    """Return what the handler says about itself; nothing before it listens."""
    output = system.run("curl", "-sS", "http://127.0.0.1:8080/health", check=False)
    return dict(json.loads(output)) if output.startswith("{") else {}


def status_of(system: Booted, pid: str) -> dict[str, list[str]]:
    """Return the lines of a process's status, by their names."""
    lines = system.run("cat", f"/proc/{pid}/status").splitlines()
    return {name: value.split() for name, _, value in (each.partition(":") for each in lines)}


def without_chat(system: Booted) -> None:
    """Make the system as it is after the installation; another test may have switched chat on."""
    (system.root / "etc/breakglass/breakglass.toml").write_text(CONFIG)
    system.run("systemctl", "disable", "--now", "breakglass-chat.socket")
    system.run("systemctl", "restart", "breakglass")
    until(lambda: health(system).get("chat") == "none", "a handler without chat")


def restarted(system: Booted, old: str) -> bool:
    return system.show("breakglass", "MainPID") not in ("0", old) and bool(health(system))


@pytest.mark.all
@pytest.mark.real("systemd")
@pytest.mark.real("curl")
def test_the_handlers_unit_starts(system: Booted) -> None:
    """It runs as its own user, without a capability, with the secrets that systemd gives it.

    With them a verb is signed and sent, and the configuration is checked in the directory that systemd made.
    """
    without_chat(system)
    assert health(system)["config"] == "ok", system.journal("breakglass")
    pid = system.show("breakglass", "MainPID")
    status = status_of(system, pid)
    account = system.run("id", "-u", "breakglass").strip()
    assert status["Uid"] == [account] * 4
    assert {name: status[name] for name in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")} == {
        "CapEff": ["0" * 16],
        "CapBnd": ["0" * 16],
        "NoNewPrivs": ["1"],
        "Seccomp": ["2"],
    }
    assert system.run("stat", "-c", "%U %a", "/run/credentials/breakglass.service/secret_pve_power") == "root 440\n"
    secret = "BREAKGLASS_SECRET_FILE=/etc/breakglass/secrets/operator"
    output = system.run("env", secret, "/opt/breakglass/bin/breakglass", "call", "status", "--json", check=False)
    assert json.loads(output.splitlines()[0])["outcome"] == "unreached", output + system.journal("breakglass")
    path = "PATH=/opt/breakglass/bin:$PATH\n"
    output = system.run("sh", "-ec", path + PASTED["check"], check=False)
    assert "CREDENTIALS_DIRECTORY is not set" in output
    assert "no problems" in system.run("sh", "-ec", path + PASTED["check with credentials"])


@pytest.mark.all
@pytest.mark.real("systemd")
@pytest.mark.real("curl")
def test_a_reload_and_a_death(system: Booted) -> None:
    """A reload keeps the process; one that dies is started again; a stop is no failure."""
    pid = system.show("breakglass", "MainPID")
    restart, reload = PASTED["reloads"].splitlines()
    system.run("sh", "-c", restart)
    until(lambda: restarted(system, pid), "the restart")
    pid, reloads = system.show("breakglass", "MainPID"), system.journal("breakglass").count('"event": "reload"')
    system.run("sh", "-c", reload)
    until(lambda: system.journal("breakglass").count('"event": "reload"') > reloads, "the reload")
    assert system.show("breakglass", "MainPID") == pid
    system.run("kill", "-KILL", pid)
    until(lambda: restarted(system, pid), "another start")
    system.run("systemctl", "stop", "breakglass")
    assert system.show("breakglass", "Result") == "success"
    system.run("systemctl", "start", "breakglass")
    until(lambda: health(system), "a start")


DOCTOR = """
[callers.doctor]
secret_file = "$CREDENTIALS_DIRECTORY/secret_operator2"
allow = ["status"]
"""
NOTIFY = """
[[notify]]
to = "ntfy"
url = "http://127.0.0.1:8088"
topic = "morning"
on = ["report"]
"""


@pytest.mark.all
@pytest.mark.real("systemd")
@pytest.mark.real("curl")
def test_doctors_and_the_reports_unit_run_every_day(system: Booted) -> None:
    """They have the handler's secrets and run as its user. The host, which is not there, is an error of doctor's.

    The report is sent at 08:00, even if it can only say that it is not known what happened.
    """
    without_chat(system)
    (system.root / "etc/breakglass/breakglass.toml").write_text(CONFIG + DOCTOR + NOTIFY)
    system.run("systemctl", "restart", "breakglass")
    until(lambda: health(system), "the restart")
    *install, look = PASTED["daily"].splitlines()
    system.run("sh", "-ec", "\n".join(install))
    end = "follow from the errors are not shown; no host is recorded as proven"
    until(lambda: end in system.run("sh", "-ec", look), "doctor's findings in the journal, which may be behind")
    assert "ok: handler: The handler accepts the signing key of doctor." in system.run("sh", "-ec", look)
    assert system.show("breakglass-doctor", "Result") == "exit-code"
    system.run("systemctl", "enable", "--now", "breakglass-report.timer")
    for unit in ("breakglass-doctor.timer", "breakglass-report.timer"):
        assert (system.show(unit, "ActiveState"), system.show(unit, "Persistent")) == ("active", "yes")
    assert " 08:00:00 " in system.show("breakglass-report.timer", "NextElapseUSecRealtime")
    system.run("systemd-run", "--unit=receiver", "/usr/bin/python3", "-um", "http.server", "8088", "--directory=/tmp")
    head = ("curl", "-sSI", "http://127.0.0.1:8088/")
    until(lambda: system.run(*head, check=False).startswith("HTTP/"), "a receiver that listens")
    system.run("systemctl", "start", "breakglass-report", check=False)
    until(lambda: '"POST /' in system.journal("receiver"), "the message")
    system.run("systemctl", "disable", "--now", "breakglass-doctor.timer", "breakglass-report.timer")


DROP_IN = "/etc/systemd/system/breakglass.service.d/fault.conf"
RELOAD = "systemctl daemon-reload; systemctl restart breakglass"
RUN = "env CREDENTIALS_DIRECTORY=/run/credentials/breakglass.service BREAKGLASS_CONFIG=/etc/breakglass/breakglass.toml"
RUN += " BREAKGLASS_CHAT=/run/breakglass-chat BREAKGLASS_SECRET_FILE=/etc/breakglass/secrets/operator"
RUN += " PATH=/opt/breakglass/bin:/usr/sbin:/usr/bin:/sbin:/bin breakglass doctor --json"


@pytest.mark.all
@pytest.mark.real("systemd")
@pytest.mark.real("curl")
def test_doctor_names_the_fault_of_a_unit(system: Booted) -> None:
    """Each fault of the units that a reviewer planted, or a later one, has a cure that works; without one, no finding.

    The fix is pasted, or its drop-in edited.
    """
    without_chat(system)
    toml = system.root / "etc/breakglass/breakglass.toml"
    toml.write_text(CONFIG + CHAT.replace("/opt/claude", "/bin/true"))
    system.run("sh", "-c", RELOAD)
    system.run("sh", "-ec", PASTED["chat"])
    few = f"mkdir -p {Path(DROP_IN).parent}; printf '[Service]\\nLimitNOFILE=40\\n' >{DROP_IN}; {RELOAD}"
    rows = [
        ("R15", "systemctl disable breakglass", "not-enabled", "systemctl enable breakglass"),
        ("R28", few, "few-files", ""),
        ("C4", "systemctl disable --now breakglass-chat.socket", "turn-not-started", "systemctl enable"),
    ]
    ours = {code for _, _, code, _ in rows}
    for name, fault, code, fix in rows:
        system.run("sh", "-c", fault)
        until(lambda: health(system), f"{name}: the start")
        found = findings(system)
        its = [each for each in found if each["code"] in ours]
        assert len(its) == 1, (name, "\n".join(str(each) for each in found))
        [finding] = its
        assert (name, finding["code"], fix in finding["fix"]) == (name, code, True), finding
        system.run("sh", "-c", finding["fix"] if fix else f"rm {DROP_IN}; {RELOAD}")
        until(lambda: health(system), f"{name}: the start")
        assert [each for each in findings(system) if each["code"] in ours] == [], name
    without_chat(system)


def findings(system: Booted) -> list[dict[str, str]]:
    output = system.run(*RUN.split(), check=False)
    found: list[dict[str, str]] = json.loads(output)["findings"]
    return found


MODEL = """
import threading
from breakglass.demo.investigation import next_step
from breakglass.demo.messages_api import Model
print(Model(next_step).url, flush=True)
threading.Event().wait()
"""


@pytest.mark.all
@pytest.mark.real("systemd")
@pytest.mark.real("curl")
@pytest.mark.real("bwrap")
@pytest.mark.real("claude")
def test_the_real_claude_works_in_a_turns_unit(system: Booted) -> None:
    """The runbook's commands switch it on. It runs commands in its sandbox; the host, which is not there, is missed.

    Only the handler's account gets a turn.
    """
    without_chat(system)
    program = claude.find()
    assert program is not None
    shutil.copy(program, system.root / "opt/real-claude")
    (system.root / "opt/model.py").write_text(MODEL)
    system.run("systemd-run", "--unit=model", "/opt/breakglass/bin/python", "/opt/model.py")
    until(lambda: "http://" in system.journal("model"), "the model")
    [url] = re.findall(r"http://\S+", system.journal("model"))
    chat = CHAT.replace("http://127.0.0.1:9", url).replace("/opt/claude", "/opt/real-claude")
    (system.root / "etc/breakglass/breakglass.toml").write_text(CONFIG + chat)
    system.run("systemctl", "restart", "breakglass")
    until(lambda: health(system).get("chat") not in (None, "none", "starting", "on"), "chat without its socket")
    system.run("sh", "-ec", PASTED["chat"])
    until(lambda: health(system).get("chat") == "on", "chat with its socket")
    assert health(system)["chat_started_by"] == "systemd"
    ask = "printf 'it hangs\\n' | BREAKGLASS_SECRET_FILE=/etc/breakglass/secrets/operator"
    output = system.run("sh", "-c", f"{ask} /opt/breakglass/bin/breakglass chat", check=False)
    assert "$ pve status" in output
    assert "refused the connection; nothing was sent" in output, output + system.journal("breakglass")
    as_user = ("setpriv", "--clear-groups", "--reuid=breakglass-chat", "--regid=breakglass-chat")
    assert "PermissionError" in system.run(*as_user, "/usr/bin/python3", "-c", ASK, check=False)
