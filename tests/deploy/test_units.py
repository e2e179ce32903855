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
from ..support.rows import each_row
from ..support.service import SSH_KEY, new_secret
from ..support.stages import until
from ..support.wheelhouse import wheelhouse

UNITS = ROOT / "deploy/systemd"
# and breakglass-chat@.service, which its socket names
SERVICES = ("breakglass.service", "breakglass-doctor.service", "breakglass-report.service")
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
# It stands for a turn that makes its three walls, with bubblewrap in itself, and leaves a process that ignores signals.
TURN = """\
#!/bin/bash
wall="bwrap --die-with-parent --new-session --unshare-user --unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup"
wall+=" --cap-drop ALL --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64"
wall+=" --proc /proc --dev /dev --tmpfs /tmp --tmpfs /turn"
read -r line
echo "$line: $(id -un)"
inner="$wall --unshare-net --disable-userns"
$wall -- $wall --unshare-net -- $inner -- sh -c 'echo "walls: $(grep -c : /proc/net/dev)"' 2>&1
(trap '' TERM HUP INT; exec setsid sleep 1000 0<&- >/dev/null 2>&1) &
"""
ASK = """\
import socket
with socket.socket(socket.AF_UNIX) as turn:
    turn.connect("/run/breakglass-chat")
    turn.sendall(b"hello\\n")
    turn.shutdown(socket.SHUT_WR)
    while data := turn.recv(4096):
        print(data.decode(), end="")
"""
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
@each_row(("unit", "tenths"), [*((unit, 19) for unit in SERVICES), ("breakglass-chat@.service", 30)])
def test_a_units_exposure_is_low(unit: str, tenths: int) -> None:
    """It is below 2.0 for the process that answers HTTP, doctor and the report, and at most 3.0 for a turn of chat."""
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


def test_chat_is_off_by_default() -> None:
    """The handler's unit does not start the socket of chat."""
    text = (UNITS / "breakglass.service").read_text()
    named = re.findall(r"^(\w+)=.*breakglass-chat", text, re.MULTILINE)
    assert sorted(named) == ["After", "Environment"]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    """A machine on which Breakglass is installed and its handler enabled, without chat."""
    files = tmp_path_factory.mktemp("files")
    for name in ("systemd", "nginx"):
        shutil.copytree(ROOT / "deploy" / name, files / "deploy" / name)
    target = files / "etc/systemd/system/booted.target"
    target.parent.mkdir(parents=True)
    target.write_text("[Unit]\nDescription=The target of a test\n")
    etc = files / "etc/breakglass"
    (etc / "secrets").mkdir(parents=True)
    etc.chmod(0o755)
    write(etc, CONFIG, operator=new_secret(), session="s" * 40, pve_power=SSH_KEY, claude="ANTHROPIC_API_KEY=sk-test")
    (files / "opt").mkdir()
    for name, text in {"turn": TURN, "ask.py": ASK}.items():
        (files / "opt" / name).write_text(text)
        (files / "opt" / name).chmod(0o755)
    shutil.copytree(wheelhouse(), files / "wheels")
    shutil.copytree(Path(pip.__file__).parent, files / "pip/pip")
    (files / "prepare").write_text(PREPARE)
    with booted(tmp_path_factory.mktemp("booted"), files) as system:
        system.run("sh", "-ec", PASTED["units"])
        until(lambda: health(system), "the start")
        yield system


def write(etc: Path, config: str, **secrets: str) -> None:
    (etc / "breakglass.toml").write_text(config)
    for name, text in secrets.items():
        (etc / "secrets" / name).touch(0o600)
        (etc / "secrets" / name).write_text(text)


def health(system: Booted) -> dict[str, object]:
    """Return what the handler says about itself; nothing before it listens."""
    output = system.run("curl", "-sS", "http://127.0.0.1:8080/health", check=False)
    return dict(json.loads(output)) if output.startswith("{") else {}


def status_of(system: Booted, pid: str) -> dict[str, list[str]]:
    """Return the lines of a process's status, by their names."""
    lines = system.run("cat", f"/proc/{pid}/status").splitlines()
    return {name: value.split() for name, _, value in (each.partition(":") for each in lines)}


def configured(system: Booted, config: str, **secrets: str) -> None:
    """Start the handler with this configuration, without the socket of chat, which another test may have started."""
    write(system.root / "etc/breakglass", config, **secrets)
    system.run("systemctl", "disable", "--now", "breakglass-chat.socket")
    system.run("systemctl", "restart", "breakglass")
    until(lambda: health(system), "the restart")


def restarted(system: Booted, old: str) -> bool:
    return system.show("breakglass", "MainPID") not in ("0", old) and bool(health(system))


@pytest.mark.all
@pytest.mark.real("systemd")
@pytest.mark.real("curl")
def test_the_handlers_unit_starts(system: Booted) -> None:
    """It runs as its own user, without a capability, with the secrets that systemd gives it.

    With them a verb is signed and sent, and the configuration is checked in the directory that systemd made.
    """
    configured(system, CONFIG)
    state = health(system)
    assert (state["config"], state["chat"]) == ("ok", "none"), system.journal("breakglass")
    pid = system.show("breakglass", "MainPID")
    status = status_of(system, pid)
    account = system.run("id", "-u", "breakglass").strip()
    assert status["Uid"] == [account] * 4
    rights = [status[name] for name in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")]
    assert rights == [["0" * 16], ["0" * 16], ["1"], ["2"]]
    limit = re.search(r"Max open files +\d+ +(\d+) ", system.run("cat", f"/proc/{pid}/limits"))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # a systemd that is no machine's can't raise it
    assert limit is not None
    assert int(limit[1]) == (65536 if most == resource.RLIM_INFINITY else min(65536, most))
    place = "/run/credentials/breakglass.service/secret_"
    modes = system.run("stat", "-c", "%U %a", f"{place}operator", f"{place}pve_power")
    assert modes == "root 440\nroot 440\n"
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


@pytest.mark.all
@pytest.mark.real("systemd")
@pytest.mark.real("bwrap")
def test_a_turns_unit_lets_it_make_its_walls(system: Booted) -> None:
    """Only the handler's account gets a turn, it runs as its own user, and what it leaves is ended with it."""
    drop_in = system.root / "etc/systemd/system/breakglass-chat@.service.d/stand-in.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nExecStart=\nExecStart=/opt/turn\n")
    system.run("systemctl", "daemon-reload")
    system.run("systemctl", "start", "breakglass-chat.socket")
    ask = ("/usr/bin/python3", "/opt/ask.py")
    as_user = ("setpriv", "--clear-groups", "--reuid")
    assert system.run(*as_user, "breakglass", "--regid", "breakglass", *ask) == "hello: breakglass-chat\nwalls: 1\n"
    refused = system.run(*as_user, "breakglass-chat", "--regid", "breakglass-chat", *ask, check=False)
    assert "PermissionError" in refused
    until(lambda: not system.run("pgrep", "-x", "sleep", check=False), "the end of what the turn has left")
    drop_in.unlink()
    system.run("systemctl", "daemon-reload")


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
PINGS_FAILURES = """\
[Service]
ExecStart=
ExecStart=/opt/breakglass/bin/breakglass doctor --ping %d/secret_ping --ping-failures
"""
RECEIVER = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Taking(BaseHTTPRequestHandler):
    def do_GET(self):
        print(self.command, self.path, self.rfile.read(int(self.headers["content-length"] or 0)).decode(), flush=True)
        self.send_response(200)
        self.end_headers()
    do_HEAD = do_POST = do_GET
HTTPServer(("127.0.0.1", 8088), Taking).serve_forever()
"""
TIMER = ("ActiveState", "Persistent", "RandomizedDelayUSec")


@pytest.mark.all
@pytest.mark.real("systemd")
@pytest.mark.real("curl")
def test_doctors_unit_and_the_reports_run_every_day(system: Booted) -> None:
    """They have the handler's secrets and run as its user.

    The host, which is not there, is an error, and only that is pinged. The report, due at 08:00, says if none is made.
    """
    ping = "http://127.0.0.1:8088/a-secret-check"
    configured(system, CONFIG + DOCTOR + NOTIFY, operator2=new_secret(), ping=ping)
    (system.root / "opt/receiver.py").write_text(RECEIVER)
    system.run("systemd-run", "--unit=receiver", "/usr/bin/python3", "/opt/receiver.py")
    until(lambda: system.run("curl", "-sSI", ping, check=False).startswith("HTTP/"), "a receiver that listens")
    *install, look = PASTED["daily"].splitlines()
    system.run("sh", "-ec", "\n".join(install))
    output = ""

    def is_said() -> bool:
        """Tell whether the journal has it all, because it may be behind what the unit has printed."""
        nonlocal output
        output = system.run("sh", "-ec", look)
        return "no host is recorded as proven" in output

    until(is_said, "doctor's findings in the journal")
    assert re.search(r"ok: handler: .* doctor\.", output), output
    assert "a-secret-check" not in output
    assert system.show("breakglass-doctor", "Result") == "exit-code"
    system.run("systemctl", "enable", "--now", "breakglass-report.timer")
    shown = [system.show(f"breakglass-{name}.timer", what) for name in ("doctor", "report") for what in TIMER]
    assert shown == ["active", "yes", "6h", "active", "yes", "0"]
    assert " 08:00:00 " in system.show("breakglass-report.timer", "NextElapseUSecRealtime")
    assert "GET" not in system.journal("receiver")
    drop_in = system.root / "etc/systemd/system/breakglass-doctor.service.d/failures.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(PINGS_FAILURES)
    system.run("systemctl", "daemon-reload")
    for unit in ("breakglass-doctor", "breakglass-report"):
        system.run("systemctl", "start", unit, check=False)
        assert system.show(unit, "Result") == "exit-code"
        system.run("systemctl", "disable", "--now", f"{unit}.timer")
    until(lambda: "GET /a-secret-check/fail " in system.journal("receiver"), "the ping")
    until(lambda: "It is not known" in system.journal("receiver"), "the message")


DROP_IN = "/etc/systemd/system/breakglass.service.d/fault.conf"
RELOAD = "systemctl daemon-reload; systemctl restart breakglass"
RUN = "env CREDENTIALS_DIRECTORY=/run/credentials/breakglass.service BREAKGLASS_CONFIG=/etc/breakglass/breakglass.toml"
RUN += " BREAKGLASS_CHAT=/run/breakglass-chat BREAKGLASS_SECRET_FILE=/etc/breakglass/secrets/operator"
RUN += " PATH=/opt/breakglass/bin:/usr/sbin:/usr/bin:/sbin:/bin breakglass doctor --json"


def drop_in(line: str) -> str:
    return f"mkdir -p {Path(DROP_IN).parent}; printf '[Service]\\n{line}\\n' >{DROP_IN}; {RELOAD}"


@pytest.mark.all
@pytest.mark.real("systemd")
@pytest.mark.real("curl")
def test_doctor_names_the_fault_of_a_unit(system: Booted) -> None:
    """Each fault of the units that a reviewer planted, or a later one, has a cure that works; without one, no finding.

    The fix is pasted, or its drop-in edited.
    """
    configured(system, CONFIG + CHAT.replace("/opt/claude", "/bin/true"))
    system.run("sh", "-c", f"cp -p /etc/breakglass/breakglass.toml /etc/breakglass/other.toml; {RELOAD}")
    system.run("sh", "-ec", PASTED["chat"])
    mask = "systemctl mask --now breakglass-chat"
    other = "echo '# other' >>/etc/breakglass/other.toml; "
    packaged = "mv /etc/systemd/system/breakglass-chat* /usr/lib/systemd/system/; systemctl daemon-reload"
    rows = [
        ("R14", other + drop_in("Environment=BREAKGLASS_CONFIG=/etc/breakglass/other.toml"), "config-other-file", ""),
        ("R15", "systemctl disable breakglass", "not-enabled", "systemctl enable breakglass"),
        ("R28", drop_in("LimitNOFILE=40"), "few-files", ""),
        ("C4", "systemctl disable --now breakglass-chat.socket", "turn-not-started", "systemctl enable"),
        ("C7", f"{packaged}; {mask}@.service", "turn-not-started", "systemctl unmask breakglass-chat@"),
        ("N24", f"{mask}.socket", "turn-not-started", "systemctl unmask breakglass-chat.s"),
    ]
    ours = {code for _, _, code, _ in rows}
    for name, fault, code, fix in rows:
        system.run("sh", "-c", fault)
        until(lambda: health(system), f"{name}: the start")
        [finding] = [each for each in findings(system) if each["code"] in ours]
        assert (name, finding["code"], fix in finding["fix"]) == (name, code, True), finding
        system.run("sh", "-c", finding["fix"] if fix else f"rm {DROP_IN}; {RELOAD}")
        until(lambda: health(system), f"{name}: the start")
        assert [each for each in findings(system) if each["code"] in ours] == [], name


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
    """The runbook's commands switch it on. It runs commands in its sandbox; the host, which is not there, is missed."""
    program = claude.find()
    assert program is not None
    shutil.copy(program, system.root / "opt/real-claude")
    (system.root / "opt/model.py").write_text(MODEL)
    system.run("systemd-run", "--unit=model", "/opt/breakglass/bin/python", "/opt/model.py")
    until(lambda: "http://" in system.journal("model"), "the model")
    [url] = re.findall(r"http://\S+", system.journal("model"))
    chat = CHAT.replace("http://127.0.0.1:9", url).replace("/opt/claude", "/opt/real-claude")
    configured(system, CONFIG + chat)
    until(lambda: health(system).get("chat") not in (None, "none", "starting", "on"), "chat without its socket")
    system.run("sh", "-ec", PASTED["chat"])
    until(lambda: health(system).get("chat") == "on", "chat with its socket")
    assert health(system)["chat_started_by"] == "systemd"
    ask = "printf 'it hangs\\n' | BREAKGLASS_SECRET_FILE=/etc/breakglass/secrets/operator"
    output = system.run("sh", "-c", f"{ask} /opt/breakglass/bin/breakglass chat", check=False)
    assert "$ pve status" in output
    assert "refused the connection" in output, output + system.journal("breakglass")
