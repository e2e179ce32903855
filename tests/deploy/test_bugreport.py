"""`breakglass bugreport`: what the file has, and that it has no secret, wherever one stands."""

import json
import stat
from pathlib import Path

import pytest

from breakglass.agents.pve.words import VERSION

from ..support.forked import run_command
from ..support.service import SSH_KEY, new_ssh_key

pytestmark = pytest.mark.slow  # it runs doctor

WORD = "PLANTED"  # in each secret
KEY = f"whsec_{WORD}" + "A" * 25
GUEST_KEY, INLINE_KEY = new_ssh_key(), SSH_KEY
FILES = {
    "caller": KEY,
    "session": f"session-{WORD}-" + "s" * 40,
    "claude": f"ANTHROPIC_API_KEY=sk-ant-{WORD}-file",
    "ntfy": f"tk_{WORD}inthefile",
    "guest": GUEST_KEY,
}
TOML = f"""
[server]
url = ["https://rescue.example.org/", "https://me:{WORD}-that-is-longer-than-what-is-shown@rescue.example.org/"]
[callers.anna]
secret_file = "{{directory}}/caller"
allow = ["status"]
[callers.bob]
secret = ["{KEY}B"]
allow = ["status"]
[callers.carl]
token = "bgt_{WORD}-of-carl"
allow = ["status"]
[callers.pasted]
secret_file = "{WORD}-no-path"
allow = ["status"]
[callers."whsec_name{WORD}"]
allow = ["status"]
[hosts.pve1]
ssh = "breakglass@192.0.2.10"
host_key = "any"
key = '''{INLINE_KEY}'''
[hosts.pve2]
ssh = "root:{WORD}-in-ssh@192.0.2.11"
host_key = "{WORD}-host-key, which is longer than what a problem shows of it"
[vms.devvm]
hosts = ["pve1"]
vmid = 102
by_hand = ["ipmitool -P {WORD}-of-the-bmc chassis power reset"]
guest = "claude@192.0.2.20"
guest_key_file = "{{directory}}/guest"
[sessions]
secret_file = "{{directory}}/session"
[metrics]
token = "bgt_{WORD}-of-metrics"
[chat]
credential_file = "{{directory}}/claude"
https_proxy = "http://user:{WORD}-of-proxy@192.0.2.30:3128"
env = {{{{ MY_SETTING = "{WORD}-in-env" }}}}
[[notify]]
to = "ntfy"
url = "https://{WORD}-user:{WORD}-pass@ntfy.example.org"
topic = "{WORD}-topic"
token_file = "{{directory}}/ntfy"
[[notify]]
to = "webhook"
url = "https://hooks.example.org/services/{WORD}-path?key={WORD}-query"
secret = "{KEY}C"
[[alerts]]
source = "kuma"
vm = "devvm"
match = {{{{ monitor = "{WORD}-monitor" }}}}
[unknown]
password = "{WORD}-unknown"
pin = 912837465
"""
ENVIRONMENT = {
    "BREAKGLASS_SECRET": f"{KEY}D",
    "ANTHROPIC_API_KEY": f"{WORD}-of-environment",
    "https_proxy": f"http://user:{WORD}-of-proxy-2@192.0.2.31:3128",
    "BREAKGLASS_URL": f"http://user:{WORD}-in-url@127.0.0.1:1/#key={WORD}-in-fragment",
}


@pytest.mark.parametrize("more", ["", "broken = ["])
def test_a_bug_report_has_no_secret(tmp_path: Path, more: str) -> None:
    """Whether the configuration is TOML or not, in the environment and in files that it names."""
    for name, text in FILES.items():
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text(text)
    config, file = tmp_path / "breakglass.toml", tmp_path / "report"
    config.touch(0o600)
    config.write_text(TOML.format(directory=tmp_path) + more)
    for place in ("callers.d", "vms.d") if more else ():
        (tmp_path / place).mkdir(0o700)
        (tmp_path / place / "new.toml").touch(0o600)
        (tmp_path / place / "new.toml").write_text(f'secret = "{WORD}-of-{place}"\nby_hand = "{WORD}-by-hand"\n')
    environment = {"BREAKGLASS_CONFIG": str(config), **({} if more else ENVIRONMENT)}  # without, doctor looks at all
    ran = run_command("bugreport", str(file), **environment)
    text = file.read_text()
    assert (ran.returncode, stat.S_IMODE(file.stat().st_mode)) == (0, 0o600), ran.stderr
    assert WORD not in text + ran.stdout + ran.stderr
    assert [x for x in f"{GUEST_KEY}\n{INLINE_KEY}\n912837465".splitlines() if len(x) > 6 and x in text] == []

    report = json.loads(text)
    assert (report["breakglass"], "OpenSSH" in report["versions"]["openssh"]) == (VERSION, True)
    assert "ANTHROPIC_API_KEY" not in report["variables"]
    assert isinstance(report["doctor"], dict) == bool(more), report["doctor"]
    if not more:
        shown = report["configuration"][str(config)]
        assert (shown["hosts"]["pve1"]["ssh"], shown["vms"]["devvm"]["vmid"]) == ("breakglass@192.0.2.10", 102)
        assert shown["server"]["url"] == ["https://rescue.example.org/"] * 2
        assert shown["notify"][1]["url"] == "https://hooks.example.org/"
    again = run_command("bugreport", str(file), **environment)
    assert (again.returncode, file.read_text()) == (2, text)
