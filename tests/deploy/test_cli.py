"""The `breakglass` command: what it prints, how it ends, and what it never shows."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from breakglass.agents.bundle import bundle
from breakglass.auth.signing import secret_bytes
from breakglass.cli.output import visible
from breakglass.demo.run import free_port

from ..support.service import Service, new_secret

ROOT = Path(__file__).parent.parent.parent


def run(*words: str, stdin: str = "", cwd: Path = ROOT, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "breakglass", *words],
        input=stdin,
        env=os.environ | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=100,
    )


# --- starting ---


def test_serve_reports_every_mistake_and_exits_2(tmp_path: Path) -> None:
    """No port is bound for a configuration that can't be used; all that is wrong is said at once."""
    config = tmp_path / "breakglass.toml"
    config.touch(0o600)
    config.write_text('[callers.operator]\nsecret = "whsec_AA=="\nallow = ["reboot"]\n[vms.ssh]\n')
    ran = run("serve", BREAKGLASS_CONFIG=str(config), PORT=str(free_port()))
    assert ran.returncode == 2
    for path in ("callers.operator.secret", "callers.operator.allow", "vms.ssh", "vms.ssh.vmid", "sessions.secret"):
        assert path in ran.stderr
    assert "AA==" not in ran.stderr


def test_serve_without_a_configuration_exits_2(tmp_path: Path) -> None:
    """There is no authentication to switch off: without callers nothing comes up."""
    ran = run("serve", cwd=tmp_path)
    assert (ran.returncode, "breakglass.toml" in ran.stderr) == (2, True)


# --- keys and signatures ---


def test_keys_new_prints_an_entry_that_works() -> None:
    """The entry is TOML, its secret is good, and it changes no power until somebody allows that."""
    entry = tomllib.loads(run("keys", "new", "phone").stdout)["callers"]["phone"]
    assert len(secret_bytes(entry["secret"])) == 32
    assert entry["allow"] == ["status", "forensics", "history"]


def test_keys_new_refuses_a_name_that_no_configuration_takes() -> None:
    """A name with a space or a bracket would make another table."""
    assert run("keys", "new", "a b]").returncode == 2


@pytest.mark.real("sshd", "curl")
def test_sign_feeds_curl(service: Service) -> None:
    """`breakglass sign | curl -H @-` is a signed request."""
    body = '{"verb":"status"}'
    headers = run("sign", stdin=body, BREAKGLASS_SECRET=service.secrets["operator"]).stdout
    url = f"http://127.0.0.1:{service.port}/pve"
    curl = ["curl", "-sS", "-H", "@-", "-d", body, url]
    answer = subprocess.run(curl, input=headers, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout)["state"] == "running"


def test_sign_refuses_an_id_that_no_handler_takes() -> None:
    """Better here than as a 401 that does not say why."""
    assert run("sign", "--id", "a.b", BREAKGLASS_SECRET=new_secret()).returncode == 2
    assert run("sign", BREAKGLASS_SECRET="").returncode == 2


# --- call ---


@pytest.mark.real("sshd", "qemu")
def test_call_ends_as_the_verb_did(service: Service, tmp_path: Path) -> None:
    """0 done; 1 for what was refused or rejected; the sentence and the hint are on stderr."""
    secret = tmp_path / "secret"
    secret.write_text(service.secrets["operator"] + "\n")
    url = f"http://127.0.0.1:{service.port}"

    def calling(*words: str) -> "subprocess.CompletedProcess[str]":
        return run("call", *words, BREAKGLASS_URL=url, BREAKGLASS_SECRET_FILE=str(secret))

    done = calling("reset", "--reason", "hung")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith("reset devvm: done, running (id msg_")
    refused = calling("start", "--if-state", "stopped")
    assert (refused.returncode, "look again" in refused.stderr) == (1, True)
    rejected = calling("restart")
    assert (rejected.returncode, "one of status, forensics" in rejected.stderr) == (1, True)
    shown = calling("history").stdout
    assert "reset" in shown


def test_call_says_that_nothing_was_sent() -> None:
    """3 when nobody listens: nothing was sent, and that is certain."""
    ran = run("call", "reset", BREAKGLASS_URL=f"http://127.0.0.1:{free_port()}", BREAKGLASS_SECRET=new_secret())
    assert (ran.returncode, "nothing was sent" in ran.stderr) == (3, True)


@pytest.mark.real("sshd")
def test_call_with_an_unknown_key_fails(service: Service) -> None:
    """1, with the handler's own words."""
    ran = run("call", "reset", BREAKGLASS_URL=f"http://127.0.0.1:{service.port}", BREAKGLASS_SECRET=new_secret())
    assert (ran.returncode, "not signed by a known caller" in ran.stderr) == (1, True)


# --- the rest ---


def test_what_a_terminal_would_obey_is_made_visible() -> None:
    """Escape sequences, carriage returns and bidi overrides are written out; text and newlines stay."""
    assert visible("a\x1b[2Jb\rc\u202ed\ne\tü") == "a\\u001b[2Jb\\u000dc\\u202ed\ne\tü"


def test_host_bundle_writes_the_agent(tmp_path: Path) -> None:
    """To a file that can be run, or to standard output."""
    target = tmp_path / "breakglass-pve"
    assert run("host", "bundle", str(target)).returncode == 0
    assert target.read_text() == bundle()
    assert os.access(target, os.X_OK)
    assert run("host", "bundle").stdout == bundle()
