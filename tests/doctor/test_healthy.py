"""Good configurations of different kinds. Doctor finds no error in them, and no warning except about the clock."""

import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncssh
import pytest

from breakglass.base.findings import Finding

from ..support import claude
from ..support.certificates import tls_context
from ..support.doctor import Setup
from ..support.forked import fork_command
from ..support.model import Model
from ..support.model_proxy import relay, tls_relay
from ..support.service import ACCOUNT, SSH_KEY, new_secret, new_ssh_key

pytestmark = pytest.mark.slow

LOCAL = ("configuration", "keys", "chat", "alerts")
HERE = {"clock-not-kept"}  # what the machine of the tests can have
LATER = datetime.now(UTC).replace(microsecond=0) + timedelta(days=100)

Seed = Callable[[Setup], object]


def public(private: str) -> str:
    return asyncssh.import_private_key(private).export_public_key().decode().strip()


HOST_KEYS = [public(new_ssh_key()) for _ in range(3)]


def all_well(setup: Setup) -> list[Finding]:
    report = setup.doctor(places=LOCAL)
    bad = [str(finding) for finding in report.findings if finding.level != "ok" and finding.code not in HERE]
    assert (bad, report.stderr) == ([], "")
    assert report.code in (0, 1)
    return report.findings


def secrets_in_the_file(setup: Setup) -> None:
    """Write everything into one file."""
    setup.config["callers"] = {"operator": {"secret": new_secret(), "allow": ["status", "cycle"]}}
    host = setup.config["hosts"]["pve1"]
    del host["key_file"]
    host |= {"key": SSH_KEY, "host_key": HOST_KEYS[:1]}
    setup.config["sessions"] = {"secret": "ohw0Ienie4Aex5quahngeiSie4eighuMa8eiXai2"}


def cluster(setup: Setup) -> None:
    """Configure three nodes of a cluster with one pair of keys, and VMs that may run on several of them."""
    first = setup.config["hosts"]["pve1"]
    for number, key in enumerate(HOST_KEYS[:3], 1):
        name = f"pve{number}"
        setup.config["hosts"][name] = {**first, "ssh": f"breakglass@192.0.2.{number}:22", "host_key": key, "node": name}
    setup.config["vms"] = {
        "devvm": {"hosts": ["pve1", "pve2", "pve3"], "vmid": 102},
        "db": {"hosts": ["pve3", "pve1"], "vmid": 103, "by_hand": ["ssh root@192.0.2.3 qm stop 103"]},
        "web": {"hosts": ["pve2"], "vmid": 999999999},
    }


def many_callers(setup: Setup) -> None:
    """Have callers of each kind, keys that are being renewed, one for a VM alone, and doctor's own."""
    setup.config["callers"] |= {
        "phone": {"secret": [new_secret(), new_secret()], "allow": ["status", "reset"], "not_after": LATER},
        "desk": {"secret": new_secret(), "secret_file": setup.file("desk", new_secret()), "allow": ["history"]},
        "team": {"secret": new_secret(), "allow": ["status", "start"], "vms": ["devvm"]},
        "doctor": {"secret": new_secret(), "allow": ["status"]},
        "script": {"token": f"bgt_{secrets.token_urlsafe(32)}", "allow": ["status", "forensics"]},
    }
    setup.config["sessions"]["secret"] = ["ohw0Ienie4Aex5quahngeiSie4eighuMa8eiXai2"]
    setup.config["hosts"]["pve1"]["host_key"] = HOST_KEYS[0]


def from_windows(setup: Setup) -> None:
    """Have the mark with which Notepad begins a file, and its line ends."""
    setup.write()
    setup.path.write_bytes(b"\xef\xbb\xbf" + setup.path.read_bytes().replace(b"\n", b"\r\n"))


SETUPS: dict[str, Seed] = {
    "secrets in the file": secrets_in_the_file,
    "a cluster": cluster,
    "many callers": many_callers,
    "written on Windows": from_windows,
}


@pytest.mark.parametrize("seed", SETUPS.values(), ids=SETUPS)
def test_a_configuration_is_well(setup: Setup, seed: Seed) -> None:
    seed(setup)
    all_well(setup)


def test_as_init_wrote_it(short_dir: Path, setup: Setup) -> None:
    """Doctor accepts the files, modes and settings of `init`."""
    directory = short_dir / "etc"
    flags = ["--url", "https://rescue.example/", "--host", "pve1=192.0.2.10", "--host-key", f"pve1={HOST_KEYS[0]}"]
    flags += ["--vm", "devvm=102", "--operator", "anna"] + (["--user", ACCOUNT] if ACCOUNT else [])
    out, err = short_dir / "out", short_dir / "err"
    environment = setup.environment | {"HOME": str(short_dir), "XDG_STATE_HOME": str(short_dir)}
    short_dir.chmod(0o711)
    assert fork_command(["init", str(directory), *flags], environment, out, err) == 0, err.read_text()
    setup.environment["BREAKGLASS_CONFIG"] = str(directory / "breakglass.toml")
    all_well(setup)


@pytest.fixture
def ours(short_dir: Path, model: Model) -> Iterator[dict[str, object]]:
    """The settings of a model's API behind an authority of our own and a proxy."""
    model.listing = None
    short_dir.chmod(0o755)
    with tls_relay(model, tls_context(short_dir, "localhost")) as tls, relay(None, tls.port) as proxy:
        url = f"https://localhost:{tls.port}/"
        yield {"base_url": url, "https_proxy": f"http://127.0.0.1:{proxy.port}", "ca_file": str(short_dir / "ca.pem")}


@pytest.mark.real("claude", "bwrap")
def test_chat_is_well(setup: Setup, model: Model, ours: dict[str, object]) -> None:
    """Chat is well with a token or a key, through a proxy, and with a guest whose key is pinned.

    Each part of a turn has its line.
    """
    setup.config["callers"]["operator"]["allow"].append("chat")
    setup.config["vms"]["devvm"] |= {"guest": "claude@192.0.2.20:22", "guest_host_key": HOST_KEYS[1]}
    setup.config["vms"]["devvm"]["guest_key_file"] = setup.file("guest", new_ssh_key())
    command = str(claude.reachable(1, setup.directory)) if ACCOUNT else str(claude.find())
    setup.config["chat"] = {"command": command, **ours, "credential_file": str(setup.directory / "credential")}
    for name, header in (("ANTHROPIC_AUTH_TOKEN", "authorization"), ("ANTHROPIC_API_KEY", "x-api-key")):
        setup.file("credential", f"# ours\n\n{name}=sk-ours\n")
        found = {finding.code: finding.sentence for finding in all_well(setup)}
        assert {"chat-isolated", "claude-installed", "sessions-ready", "credential-accepted"} <= found.keys()
        assert "handler itself" in found["chat-isolated"]
        assert model.listed[-1][header].endswith("sk-ours")
