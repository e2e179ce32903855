"""The `breakglass` command: what it prints, how it ends, and what it never shows."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from breakglass.agents.bundle import bundle
from breakglass.auth.signing import fingerprint, secret_bytes
from breakglass.cli.docs_text import render
from breakglass.cli.output import visible
from breakglass.cli.terminal_text import opinion_line

from ..support.certificates import tls_context
from ..support.forked import run_command as run
from ..support.peer import playing
from ..support.ports import reserve_port
from ..support.rows import each_row
from ..support.service import SSH_KEY, Service, config_text, give_to_handler, new_secret

ROOT = Path(__file__).parent.parent.parent

pytestmark = [pytest.mark.shared("world", "sshd", "service"), pytest.mark.slow]  # each starts a command


# --- call ---


@pytest.mark.real("sshd", "qemu")
def test_the_exit_code_of_call_is_the_verbs_outcome(service: Service, tmp_path: Path) -> None:
    """The exit code is 0 for done and 1 for refused or rejected; the sentence and the hint are on stderr."""
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text(service.secrets["operator"] + "\n")
    url = f"http://127.0.0.1:{service.port}"

    def calling(*words: str) -> "subprocess.CompletedProcess[str]":
        return run("call", *words, BREAKGLASS_URL=url, BREAKGLASS_SECRET_FILE=str(secret))

    done = calling("reset", "--reason", "hung")
    assert done.returncode == 0
    *_, ends, back = done.stdout.splitlines()
    assert ("(reset done, id msg_" in ends, "balloon" in back) == (True, True)
    refused = calling("start", "--if-state", "stopped")
    assert (refused.returncode, "look again" in refused.stderr) == (1, True)
    assert refused.stderr.splitlines()[-1].endswith(" docs state-differs")
    assert "history done (id " in calling("history").stdout  # it does not look at the state
    looked = calling("status")
    assert "breakglass:" not in looked.stderr  # nothing is wrong
    assert "running (status, id msg_" in looked.stdout
    verdict = json.loads(calling("forensics", "--id", "msg_evidence", "--json").stdout)["verdict"]
    short, full = (calling("forensics", "--id", "msg_evidence", *more).stdout for more in ([], ["--full"]))
    assert (short.count(verdict["sentence"]), full.count(verdict["sentence"])) == (1, 1)
    assert len(short.splitlines()) < 20 < len(full.splitlines())
    assert short.splitlines()[-1] == full.splitlines()[-1]
    assert full.rstrip().endswith(f" docs {verdict['code']}")
    failed = calling("start", "--id", "msg_12345678", "--json", "--if-last", "no such")
    assert list(json.loads(failed.stdout)) == ["error"]
    unknown = new_secret()
    secret.write_text(unknown)
    ran = calling("reset")
    key = f'the signing key in "{secret}" (fingerprint {fingerprint(secret_bytes(unknown))})'
    assert (ran.returncode, f"does not accept {key}" in ran.stderr) == (1, True), ran.stderr


# --- what a person types, and what the command finds by itself ---

SIGNING_KEY = new_secret()
TYPED: list[tuple[str, dict[str, str], int, str, str]] = [
    ("status", {}, 3, "{closed}: connection refused; nothing was sent", "running"),
    ("status", {"BREAKGLASS_URL": "http://no.invalid"}, 3, '"no.invalid" can\'t be resolved', "spelling"),
    ("status", {"BREAKGLASS_URL": f"{{closed}}/#key={SIGNING_KEY}"}, 3, "connection refused; nothing", "running"),
    ("status", {"BREAKGLASS_SECRET": "whsec_abc"}, 2, "BREAKGLASS_SECRET is not base64", "copy all"),
    ("status", {"BREAKGLASS_SECRET_FILE": "{dir}/shared"}, 2, "every user of this", "chmod 600"),
    ("status --id a.b", {}, 2, 'not an id: "a.b"', "8 to 64"),
    ("stop", {}, 2, "stop needs the VM's name; nothing was sent", "breakglass stop devvm\n"),
    ("cycle --id msg_12345678", {}, 2, "cycle needs the VM's name; nothing was sent", ""),
    ("cycle devvm --vm other", {}, 2, "two VMs are named: devvm and other; nothing was sent", ""),
    ("stop --vm a --vm b", {}, 2, "two VMs are named: a and b; nothing was sent", ""),
    ("call cycle --vm=", {}, 2, "the VM's name is empty; nothing was sent", ""),
    ("drill --yes --vm=", {}, 2, "the VM's name is empty; nothing was sent", ""),
    ("doctr", {}, 2, 'there is no command "doctr"', "did you mean doctor?\n"),
    ("docs nope", {}, 2, 'there is no document and no code "nope"', "the documents are README, admin, "),
    ("serve", {"PORT": "{taken}"}, 2, "another program listens on 127.0.0.1:{taken}", "find the program: ss"),
]


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The places that the cases are about."""
    place = tmp_path_factory.mktemp("wrong")
    place.chmod(0o755)
    callers = {"operator": {"secret": SIGNING_KEY, "allow": ["status"]}}
    good = config_text(callers, port=1, key=SSH_KEY, host_key="any")
    for name, text, mode in (("shared", SIGNING_KEY, 0o644), ("good", good, 0o600)):
        (place / name).touch(mode)
        (place / name).write_text(text)
    give_to_handler(place / "good")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = f"http://127.0.0.1:{reserve_port()}"
        yield {"dir": str(place), "closed": closed, "taken": str(taken.getsockname()[1])}


@each_row(("words", "environment", "code", "said", "hint"), TYPED)
def test_an_error_says_what_to_do(
    wrong: dict[str, str], words: str, environment: dict[str, str], code: int, said: str, hint: str
) -> None:
    """It is one sentence, one instruction and the documented exit code. A verb that changes power names its VM.

    A similar command is printed, and not run.
    """
    given = {"BREAKGLASS_SECRET": SIGNING_KEY, "BREAKGLASS_URL": "{closed}", "BREAKGLASS_CONFIG": "{dir}/good"}
    ran = run(*words.split(), **{name: value.format(**wrong) for name, value in (given | environment).items()})
    assert (ran.returncode, ran.stdout) == (code, "")
    sentence, _, instruction = ran.stderr.partition("\n    ")
    assert sentence.startswith("breakglass: ")
    assert said.format(**wrong) in sentence
    assert hint in instruction
    assert SIGNING_KEY not in ran.stderr


REMEMBERED: list[tuple[str, dict[str, str], int, str]] = [
    ("{closed}", {}, 3, "{closed}: connection refused"),
    ("http://no.invalid", {"BREAKGLASS_URL": "{closed}"}, 3, "{closed}: connection refused"),
    ("{closed}", {"mode": "644"}, 2, 'is not safe: "{dir}/breakglass/client.toml": every user'),
    ("{closed}", {"uid": "1"}, 2, "client.toml belongs to another user"),
    ("{closed}", {"uid": "1", "SUDO_UID": "1"}, 3, "{closed}: conn"),
]


@each_row(("url", "given", "code", "said"), [row for row in REMEMBERED if "uid" not in row[1] or os.geteuid() == 0])
def test_what_client_toml_remembers(
    wrong: dict[str, str], tmp_path: Path, url: str, given: dict[str, str], code: int, said: str
) -> None:
    """It has the URL and the key file for each command, unless the environment has them, and must be safe."""
    client, places = tmp_path / "breakglass/client.toml", wrong | {"dir": str(tmp_path)}
    client.parent.mkdir()
    text = f'url = "{url}"\nsecret_file = "key"'.format(**places)
    for file, content in ((client, text), (client.parent / "key", SIGNING_KEY)):
        file.touch(0o600)
        file.write_text(content)
    client.chmod(int(given.get("mode", "600"), 8))
    os.chown(client, int(given.get("uid", "-1")), -1)
    environment = {key: value.format(**places) for key, value in given.items() if key.isupper()}
    ran = run("status", "devvm", XDG_CONFIG_HOME=str(tmp_path), **environment)
    assert (ran.returncode, said.format(**places) in ran.stderr) == (code, True), ran.stderr


@pytest.mark.all
def test_a_full_disk_does_not_change_the_outcome(service: Service) -> None:
    """If the output can't be written, the exit code says what became of the verb, not that the verb failed."""
    command = ["/bin/sh", "-c", 'exec "$0" "$@" >/dev/full', sys.executable, "-m", "breakglass", "call", "reset"]
    environment = os.environ | {
        "BREAKGLASS_URL": f"http://127.0.0.1:{service.port}",
        "BREAKGLASS_SECRET": service.secrets["operator"],
    }
    for options in ([], ["--json"]):
        ran = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, timeout=100)
        assert "No space left" in ran.stderr
        continues = "reset continues" in ran.stderr and "--id msg_" in ran.stderr
        assert (ran.returncode, continues) == ((0, False) if options else (4, True)), ran.stderr


def test_an_untrusted_certificate_is_named(tmp_path: Path) -> None:
    """For a private CA the error names the variable to set, and nothing was sent."""
    context = tls_context(tmp_path, "localhost")

    def answer(connection: socket.socket) -> None:
        with pytest.raises(OSError, match=r"(?i)alert|eof|reset"):
            context.wrap_socket(connection, server_side=True)

    with playing(answer) as port:
        ran = run("call", "status", BREAKGLASS_URL=f"https://localhost:{port}", BREAKGLASS_SECRET=SIGNING_KEY)
    assert (ran.returncode, "not trusted" in ran.stderr, "SSL_CERT_FILE" in ran.stderr) == (3, True, True), ran.stderr


def test_host_bundle_writes_the_agent(tmp_path: Path) -> None:
    """It is written to an executable file as a whole: if the disk fills up, the old file stays and no other is left."""
    target = tmp_path / "breakglass-pve"
    target.write_text("the old one")
    command = 'ulimit -f 8; exec "$0" -m breakglass host bundle "$1"'
    argv = ["sh", "-c", command, sys.executable, str(target)]
    ran = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert (ran.returncode, "File too large" in ran.stderr) == (1, True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(target.name, "the old one")]
    assert run("host", "bundle", str(target)).returncode == 0
    assert (target.read_text(), os.access(target, os.X_OK)) == (bundle(), True)
    assert run("host", "bundle").stdout == bundle()


def test_docs_prints_a_document() -> None:
    """As text of 80 columns; without a name, it lists the documents."""
    ran = run("docs", "docs/runbook.md")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, render((ROOT / "docs/runbook.md").read_text("utf-8")), "")
    rows = json.loads(run("docs", "--json").stdout)["documents"]
    assert [row["name"] for row in rows] == sorted(path.stem for path in (ROOT / "docs").glob("*.md"))


def test_control_characters_are_printed_as_escapes() -> None:
    """Escape sequences, carriage returns and bidi overrides are escaped; text and newlines stay.

    In a second opinion, which a host may have written, they are left out.
    """
    assert visible("a\x1b[2Jb\rc\u202ed\ne\tü") == "a\\u001b[2Jb\\u000dc\\u202ed\ne\tü"
    assert opinion_line({"text": "\x1b[2J\u202ex"}) == "Claude, None: [2J x"
