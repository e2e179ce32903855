"""The units in deploy/systemd: what systemd says about them, and what they do under a systemd that is PID 1."""

import json
import re
import resource
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
from ..support.scripted_claude import RESULT, line
from ..support.service import SSH_KEY, new_secret, new_ssh_key
from ..support.stages import until
from ..support.wheelhouse import wheelhouse

UNITS = ROOT / "deploy/systemd"
SERVICES = ("breakglass.service", "breakglass-chat.service", "breakglass-doctor.service")
OTHERS = ("breakglass-chat.socket", "breakglass-doctor.timer")
OVER_PROC = {  # each mounts something over a part of /proc, or refuses namespaces, or openat2(2), which bwrap needs
    *(
        "RestrictSUIDSGID",
        "ProtectProc",
        "ProcSubset",
        "ProtectKernelTunables",
        "ProtectKernelLogs",
        "ProtectHostname",
        "PrivatePIDs",
    ),
    *("RestrictNamespaces", "InaccessiblePaths", "ReadOnlyPaths", "TemporaryFileSystem", "BindPaths", "PrivateUsers"),
}
CONFIG = """\
[server]
user = "breakglass"

[callers.operator]
secret_file = "$CREDENTIALS_DIRECTORY/secret_operator"
allow = ["status", "history", "chat"]

[hosts.pve1]
ssh = "breakglass@127.0.0.1:9"
key_file = "$CREDENTIALS_DIRECTORY/secret_pve_power"
read_only_key_file = "$CREDENTIALS_DIRECTORY/secret_pve_read"
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
uids = "200000-200003"
command = "/opt/claude"
base_url = "http://127.0.0.1:9"
credential_file = "$CREDENTIALS_DIRECTORY/secret_claude"
"""
# It runs a command as claude does, in the sandbox inside its wall, and says what that has printed, and its own cgroup.
CLAUDE = f"""\
#!/bin/bash
said=$("$CLAUDE_CODE_SHELL_PREFIX" 'id -u; pwd' 2>&1 | tr '\\n' ' ')
group=$(grep ^0:: /proc/self/cgroup)
{line(type="assistant", message={"id": "m", "content": [{"type": "text", "text": "SAID"}]})}
{RESULT}
""".replace("SAID", "'\"$said$group\"'")
PREPARE = """\
/usr/bin/python3 -m venv --without-pip /opt/breakglass
export PYTHONPATH=/pip # this checkout's own may be below /tmp, which is another directory here
/usr/bin/python3 -m pip --quiet --python /opt/breakglass/bin/python install --no-index --find-links /wheels breakglass
"""


[_account, _units, _reloads, _chat, _check, _check_credentials] = commands("docs/runbook.md", "Installing the handler")
RUNBOOK = {"account": _account, "units": _units, "reloads": _reloads, "chat": _chat, "check": _check}
RUNBOOK["check with credentials"] = _check_credentials
[RUNBOOK["daily"]] = commands("docs/runbook.md", "Every day")


def settings(unit: str) -> set[str]:
    """Return the names of what a unit sets."""
    return set(re.findall(r"^(\w+)=", (UNITS / unit).read_text(), re.MULTILINE))


@pytest.mark.real("systemd")
@pytest.mark.parametrize(
    ("unit", "tenths"), [("breakglass.service", 19), ("breakglass-chat.service", 44), ("breakglass-doctor.service", 19)]
)
def test_a_units_exposure_is_low(unit: str, tenths: int) -> None:
    """It is below 2.0 for the process that answers HTTP and for doctor, and below 4.5 for the launcher."""
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={tenths}", str(UNITS / unit)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.real("systemd")
def test_systemd_finds_no_fault_in_the_units() -> None:
    """It says nothing at all, where Breakglass is installed."""
    install = (
        'mount -t tmpfs t /opt; mkdir -p /opt/breakglass/bin; ln -s /bin/true /opt/breakglass/bin/breakglass; "$@"'
    )
    command = ["unshare", "--mount", "sh", "-ec", install, "sh", "systemd-analyze", "verify"]
    command += [str(UNITS / unit) for unit in (*SERVICES, *OTHERS)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


def test_nothing_masks_proc_for_the_launcher() -> None:
    """The program bwrap makes namespaces and mounts a /proc, which the kernel refuses below one that is masked."""
    assert settings("breakglass-chat.service") & OVER_PROC == set()
    assert settings("breakglass.service") & OVER_PROC, "the names are no longer those that units use"


def test_the_launcher_is_off_by_default() -> None:
    """The handler's unit starts neither the launcher nor its socket."""
    text = (UNITS / "breakglass.service").read_text()
    named = re.findall(r"^(\w+)=.*breakglass-chat", text, re.MULTILINE)
    assert sorted(named) == ["After", "Environment"]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    """A machine on which Breakglass is installed and its handler enabled, without chat."""
    files = tmp_path_factory.mktemp("files")
    shutil.copytree(UNITS, files / "deploy/systemd")
    target = files / "etc/systemd/system/booted.target"
    target.parent.mkdir(parents=True)
    target.write_text("[Unit]\nDescription=The target of a test\n")
    secrets = {
        "operator": new_secret(),
        "session": "s" * 40,
        "pve_power": SSH_KEY,
        "pve_read": new_ssh_key(),
        "claude": "ANTHROPIC_API_KEY=sk-test",
    }
    etc = files / "etc/breakglass"
    (etc / "secrets").mkdir(parents=True)
    etc.chmod(0o755)
    (etc / "breakglass.toml").write_text(CONFIG)
    for name, text in secrets.items():
        (etc / "secrets" / name).touch(0o600)
        (etc / "secrets" / name).write_text(text)
    (files / "opt").mkdir()
    (files / "opt/claude").write_text(CLAUDE)
    (files / "opt/claude").chmod(0o755)
    shutil.copytree(wheelhouse(), files / "wheels")
    shutil.copytree(Path(pip.__file__).parent, files / "pip/pip")
    (files / "prepare").write_text(PREPARE)
    with booted(tmp_path_factory.mktemp("booted"), files) as system:
        for script in (RUNBOOK["account"], RUNBOOK["units"]):
            system.run("sh", "-ec", script, cwd="/deploy/systemd")
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


def say(system: Booted, prompt: str) -> str:
    """Do a turn; return what `breakglass chat` prints."""
    variable = "BREAKGLASS_SECRET_FILE=/etc/breakglass/secrets/operator"
    command = f"printf '{prompt}\\n' | {variable} /opt/breakglass/bin/breakglass chat"
    return system.run("sh", "-c", command, check=False)


def without_chat(system: Booted) -> None:
    """Make the system as it is after the installation; another test may have switched chat on."""
    (system.root / "etc/breakglass/breakglass.toml").write_text(CONFIG)
    system.run("systemctl", "disable", "--now", "breakglass-chat.socket", "breakglass-chat.service")
    system.run("systemctl", "restart", "breakglass")
    until(lambda: health(system).get("chat") == "none", "a handler without chat")


def restarted(system: Booted, old: str) -> bool:
    return system.show("breakglass", "MainPID") not in ("0", old) and bool(health(system))


@pytest.mark.all
@pytest.mark.real("systemd")
@pytest.mark.real("curl")
def test_the_handlers_unit_starts(system: Booted) -> None:
    """As its own user, without a capability, with the secrets that systemd gives it."""
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
    limit = re.search(r"Max open files +\d+ +(\d+) ", system.run("cat", f"/proc/{pid}/limits"))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # a systemd that is no machine's can't raise it
    assert limit is not None
    assert int(limit[1]) == (65536 if most == resource.RLIM_INFINITY else min(65536, most))
    modes = system.run(
        "stat",
        "-c",
        "%U %a",
        *(f"/run/credentials/breakglass.service/secret_{name}" for name in ("operator", "pve_power")),
    )
    assert modes == "root 440\nroot 440\n"


@pytest.mark.all
@pytest.mark.real("systemd")
@pytest.mark.real("curl")
def test_a_verb_is_signed_and_sent(system: Booted) -> None:
    """The caller's key is the one in the credential; the host, which is not there, is what is missing."""
    secret = "BREAKGLASS_SECRET_FILE=/etc/breakglass/secrets/operator"
    output = system.run("env", secret, "/opt/breakglass/bin/breakglass", "call", "status", "--json", check=False)
    assert json.loads(output.splitlines()[0])["outcome"] == "unreached", output + system.journal("breakglass")


@pytest.mark.all
@pytest.mark.real("systemd")
@pytest.mark.real("curl")
def test_the_configuration_is_checked_with_systemds_credentials(system: Booted) -> None:
    """In the directory that systemd made, the check finds no fault; without one it says what is missing."""
    path = "PATH=/opt/breakglass/bin:$PATH\n"
    output = system.run("sh", "-ec", path + RUNBOOK["check"], check=False)
    assert "CREDENTIALS_DIRECTORY is not set" in output
    assert "no problems" in system.run("sh", "-ec", path + RUNBOOK["check with credentials"])


@pytest.mark.all
@pytest.mark.real("systemd")
@pytest.mark.real("curl")
def test_a_reload_and_a_death(system: Booted) -> None:
    """A reload keeps the process; one that dies is started again; a stop is no failure."""
    pid = system.show("breakglass", "MainPID")
    restart, reload = RUNBOOK["reloads"].splitlines()
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


@pytest.mark.all
@pytest.mark.real("systemd")
@pytest.mark.real("curl")
@pytest.mark.real("bwrap")
def test_the_launchers_unit_starts_turns(system: Booted) -> None:
    """Chat is on once its socket is; a turn's command runs in the sandbox, behind the wall, in the turn's cgroup."""
    without_chat(system)
    assert system.show("breakglass-chat.service", "ActiveState") == "inactive"
    config = Path(system.root, "etc/breakglass/breakglass.toml")
    config.write_text(CONFIG + CHAT)
    system.run("systemctl", "reload", "breakglass")
    until(lambda: health(system).get("chat") == "failed", "chat without a launcher")
    system.run("sh", "-ec", RUNBOOK["chat"])
    until(lambda: health(system).get("chat") == "on", "chat with a launcher")
    output = say(system, "hello")
    assert re.search(r"200\d\d\d /var/lib/breakglass/work/\S+/cwd 0::\S*/breakglass-chat.service/turn-200", output), (
        output
    )
    main = system.show("breakglass-chat.service", "MainPID")
    assert status_of(system, main)["Uid"] == ["0"] * 4
    system.run("systemctl", "stop", "breakglass-chat.service")
    assert system.show("breakglass-chat.service", "Result") == "success", system.journal("breakglass-chat")
    until(lambda: health(system).get("chat") == "failed", "the end of chat")
    system.run("systemctl", "reload", "breakglass")
    until(lambda: health(system).get("chat") == "on", "chat with another launcher")
    assert system.show("breakglass-chat.service", "MainPID") != main


DOCTOR = """
[callers.doctor]
secret_file = "$CREDENTIALS_DIRECTORY/secret_operator2"
allow = ["status"]
"""
PINGS_FAILURES = """\
[Service]
ExecStart=
ExecStart=/opt/breakglass/bin/breakglass doctor --ping %d/secret_ping --ping-failures
"""


@pytest.mark.all
@pytest.mark.real("systemd")
@pytest.mark.real("curl")
def test_doctors_unit_runs_every_day(system: Booted) -> None:
    """With the handler's secrets, as its user. The host, which is not there, is an error, and only that is pinged."""
    without_chat(system)
    etc = system.root / "etc/breakglass"
    (etc / "breakglass.toml").write_text(CONFIG + DOCTOR)
    for name, text in {"operator2": new_secret(), "ping": "http://127.0.0.1:8089/a-secret-check"}.items():
        (etc / "secrets" / name).touch(0o600)
        (etc / "secrets" / name).write_text(text)
    system.run("systemctl", "restart", "breakglass")
    until(lambda: health(system), "the restart")
    system.run("systemd-run", "--unit=monitor", "/usr/bin/python3", "-um", "http.server", "8089", "--directory", "/tmp")
    head = ("curl", "-sSI", "http://127.0.0.1:8089/")
    until(lambda: system.run(*head, check=False).startswith("HTTP/"), "a monitor that listens")
    *install, look = RUNBOOK["daily"].splitlines()
    system.run("sh", "-ec", "\n".join(install), cwd="/deploy/systemd")
    output = ""

    def is_said() -> bool:
        """Tell whether the journal has it all: it may be behind what the unit has printed."""
        nonlocal output
        output = system.run("sh", "-ec", look)
        return "error: handler: The handler is not connected to pve1" in output

    until(is_said, "doctor's findings in the journal")
    assert "ok: handler: The handler accepts the signing key of doctor." in output, output
    assert "a-secret-check" not in output
    assert system.show("breakglass-doctor", "Result") == "exit-code"
    timer = {
        name: system.show("breakglass-doctor.timer", name)
        for name in ("ActiveState", "Persistent", "RandomizedDelayUSec")
    }
    assert timer == {"ActiveState": "active", "Persistent": "yes", "RandomizedDelayUSec": "6h"}
    assert "GET" not in system.journal("monitor")
    drop_in = system.root / "etc/systemd/system/breakglass-doctor.service.d/failures.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(PINGS_FAILURES)
    system.run("systemctl", "daemon-reload")
    system.run("systemctl", "start", "breakglass-doctor", check=False)
    until(lambda: "GET /a-secret-check/fail " in system.journal("monitor"), "the ping")
    system.run("systemctl", "disable", "--now", "breakglass-doctor.timer")
    (etc / "breakglass.toml").write_text(CONFIG)


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
def test_the_real_claude_works_in_the_launchers_unit(system: Booted) -> None:
    """It runs commands in its sandbox; the runner's ssh looks for the host, which is not there."""
    program = claude.find()
    assert program is not None
    shutil.copy(program, system.root / "opt/real-claude")
    (system.root / "opt/model.py").write_text(MODEL)
    system.run("systemd-run", "--unit=model", "/opt/breakglass/bin/python", "/opt/model.py")
    until(lambda: "http://" in system.journal("model"), "the model")
    [url] = re.findall(r"http://\S+", system.journal("model"))
    chat = CHAT.replace("http://127.0.0.1:9", url).replace("/opt/claude", "/opt/real-claude")
    (system.root / "etc/breakglass/breakglass.toml").write_text(CONFIG + chat)
    system.run("systemctl", "enable", "--now", "breakglass-chat.socket")
    system.run("systemctl", "restart", "breakglass")
    until(lambda: health(system).get("chat") == "on", "chat")
    output = say(system, "it hangs")
    assert "$ pve status" in output
    assert "ssh: connect to host 127.0.0.1 port 9: Connection refused" in output, output + system.journal("breakglass")


# systemd gives up after five starts in this time. Its own is 10 s, in which a busy machine starts fewer.
PATIENT = "[Unit]\nStartLimitIntervalSec=600\n"
CONNECT = (
    "import socket; s = socket.socket(1, 5); s.connect('/run/breakglass-chat'); s.recv(1)"  # AF_UNIX, SOCK_SEQPACKET
)


@pytest.mark.all
@pytest.mark.real("systemd")
@pytest.mark.real("curl")
@pytest.mark.real("bwrap")
def test_a_launcher_that_could_not_start_is_there_again(system: Booted) -> None:
    """A mistake in the configuration ends each start, so systemd gives up; the runbook's commands bring it back."""
    config = system.root / "etc/breakglass/breakglass.toml"
    config.write_text(CONFIG + CHAT)
    drop_in = system.root / "etc/systemd/system/breakglass-chat.service.d/patient.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(PATIENT)
    system.run("systemctl", "daemon-reload")
    system.run("systemctl", "enable", "--now", "breakglass-chat.socket")
    system.run("systemctl", "stop", "breakglass-chat.service")
    config.write_text("no TOML")
    system.run("/opt/breakglass/bin/python", "-c", CONNECT, check=False)
    until(lambda: system.show("breakglass-chat.socket", "ActiveState") == "failed", "the end of the attempts")
    result = system.show("breakglass-chat.socket", "Result")
    config.write_text(CONFIG + CHAT)
    [row] = [line for line in (ROOT / "docs/runbook.md").read_text().splitlines() if line.startswith(f"| `{result}`")]
    for command in re.findall(r"`(systemctl [^`]+)`", row.split("|")[2]):
        system.run(*command.split())
    until(lambda: health(system).get("chat") == "on", "chat with a launcher")
    drop_in.unlink()
    drop_in.parent.rmdir()
    system.run("systemctl", "daemon-reload")
