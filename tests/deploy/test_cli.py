"""The `breakglass` command: what it prints, how it ends, and what it never shows."""

import fcntl
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from breakglass.agents.bundle import bundle
from breakglass.agents.pve.words import VERSION
from breakglass.auth.signing import fingerprint, secret_bytes
from breakglass.cli.docs_text import render
from breakglass.cli.output import visible
from breakglass.cli.terminal_text import opinion_line
from breakglass.demo.proxmox.world import World

from ..support.certificates import tls_context
from ..support.forked import run_command as run
from ..support.peer import playing
from ..support.ports import reserve_port
from ..support.rows import each_row
from ..support.selection import sampled
from ..support.service import SSH_KEY, Service, give_to_handler, new_secret
from ..support.sshd import Sshd
from ..support.stages import until
from .test_init_questions import Terminal

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
    assert ends.startswith("devvm: running (reset done, id msg_")
    assert back == "no heartbeat is available: the VM has no balloon device, so look at the console"
    refused = calling("start", "--if-state", "stopped")
    assert (refused.returncode, "look again" in refused.stderr) == (1, True)
    assert refused.stderr.splitlines()[-1] == "    what to do: breakglass docs state-differs"
    shown = calling("history").stdout
    assert "reset" in shown
    assert "devvm: history done (id " in shown  # it does not look at the state

    looked = calling("status")
    assert "breakglass:" not in looked.stderr  # nothing is wrong
    assert looked.stdout.startswith("devvm: running (status, id msg_")
    verdict = json.loads(calling("forensics", "--id", "msg_evidence", "--json").stdout)["verdict"]
    short, full = (calling("forensics", "--id", "msg_evidence", *more).stdout for more in ([], ["--full"]))
    assert (short.count(verdict["sentence"]), full.count(verdict["sentence"])) == (1, 1)
    assert len(short.splitlines()) < 20 < len(full.splitlines())
    assert short.splitlines()[-1] == full.splitlines()[-1] == f"    what to do: breakglass docs {verdict['code']}"
    again = calling("status", "--id", looked.stdout.split("id ")[1].partition(")")[0], "--json")
    [line] = again.stdout.splitlines()
    answer = json.loads(line)
    assert (again.returncode, again.stderr) == (0, "")
    assert answer["outcome"] == "done"
    assert answer.keys() == service.pve("status").json.keys()
    assert "stage: " in done.stderr
    assert "stage: " not in calling("reset", "--quiet").stderr
    failed = calling("start", "--id", "msg_12345678", "--json", "--if-last", "no such")
    assert list(json.loads(failed.stdout)) == ["error"]


@pytest.mark.all
@pytest.mark.real("sshd")
def test_call_says_once_why_the_host_refused(world: World, sshd: Sshd) -> None:
    """A look, whose output is not shown, says it too."""
    another = "[vms.other]\nhosts = ['pve1']\nvmid = 999\n"
    service = Service(world.directory, port=sshd.port, key=sshd.power_key, host_key=[sshd.host_key], extra=another)
    at = {"BREAKGLASS_URL": f"http://127.0.0.1:{service.port}", "BREAKGLASS_SECRET": service.secrets["operator"]}
    try:
        for options in (("status",), ("forensics",), ("forensics", "--full"), ("reset",)):
            ran = run("call", *options, "--vm", "other", **at)
            assert (ran.returncode, ran.stderr.count("this key serves VM 102, not 999")) == (1, 1), ran.stderr
    finally:
        service.stop()


@pytest.mark.real("sshd")
def test_call_with_an_unknown_key_fails(service: Service, tmp_path: Path) -> None:
    """The exit code is 1. The key is named as `keys list` names it, with its file, because it may be an old one."""
    secret, file, url = new_secret(), tmp_path / "anna.signing-key", f"http://127.0.0.1:{service.port}"
    file.touch(0o600)
    file.write_text(secret)
    ran = run("call", "reset", BREAKGLASS_URL=url, BREAKGLASS_SECRET_FILE=str(file))
    key = f'the signing key in "{file}" (fingerprint {fingerprint(secret_bytes(secret))})'
    assert (ran.returncode, f"does not accept {key}" in ran.stderr, "keys list" in ran.stderr) == (1, True, True)
    assert ran.stderr.endswith("    what to do: breakglass docs unauthorized\n")


# --- what a person types, and what the command finds by itself ---

SIGNING_KEY = new_secret()
TYPED: dict[str, tuple[str, int, str, str]] = {
    "nothing": ("", 0, "a VM does not answer:\n  status  ", ""),
    "version": ("-V", 0, f"breakglass {VERSION}\n", ""),
    "help": ("help keys new", 0, "example: breakglass keys new phone --pair\n", ""),
    "a short form": ("status", 3, "", "{closed}: connection refused; nothing was sent"),
    "a VM behind an option": ("cycle --reason hung devvm", 3, "", "{closed}: connection refused; nothing was sent"),
    "call with a VM": ("call status devvm", 3, "", "{closed}: connection refused; nothing was sent"),
    "stop without a VM": ("stop", 2, "", "breakglass stop devvm\n"),
    "cycle without a VM": ("cycle --id msg_12345678", 2, "", "cycle needs the VM's name; nothing was sent\n"),
    "two VMs": ("cycle devvm --vm other", 2, "", "two VMs are named: devvm and other; nothing was sent\n"),
    "two VMs by option": ("stop --vm a --vm b", 2, "", "two VMs are named: a and b; nothing was sent\n"),
    "an empty name": ("call cycle --vm=", 2, "", "the VM's name is empty; nothing was sent\n"),
    "a drill of an empty name": ("drill --yes --vm=", 2, "", "the VM's name is empty; nothing was sent\n"),
    "two words": ("cycle devvm other", 2, "", "unrecognized arguments: other\n"),
    "a wrong command": ("doctr", 2, "", 'there is no command "doctr"\n    did you mean doctor?\n'),
    "a wrong verb": ("call forensic devvm", 2, "", 'there is no verb "forensic"; did you mean forensics?\n'),
}


@each_row("name", list(TYPED))
def test_what_a_person_types(wrong: dict[str, str], name: str) -> None:
    """A short form is its verb; one that changes power needs the VM's name. A similar word is printed, and not run."""
    words, code, out, err = TYPED[name]
    ran = run(*words.split(), BREAKGLASS_URL=wrong["closed"], BREAKGLASS_SECRET=SIGNING_KEY)
    assert (ran.returncode, out in ran.stdout, err.format(**wrong) in ran.stderr) == (code, True, True), ran.stderr
    assert (ran.stdout == "", ran.stderr == "") == (out == "", err == "")


REMEMBERED: dict[str, tuple[str, dict[str, str], int, str]] = {
    "both": ('url = "{closed}"\nsecret_file = "key"', {}, 3, "{closed}: connection refused"),
    "another URL": (
        'url = "http://no.invalid"\nsecret_file = "key"',
        {"BREAKGLASS_URL": "{closed}"},
        3,
        "{closed}: connection refused",
    ),
    "another key": ('url = "{closed}"\nsecret_file = "/x"', {"BREAKGLASS_SECRET": SIGNING_KEY}, 3, "{closed}: conn"),
    "no key": ('url = "{closed}"', {}, 2, "no signing key is set\n    set BREAKGLASS_SECRET_FILE, or secret_file in"),
    "no such key": ('secret_file = "x"', {}, 2, 'client.toml can\'t be read: "{dir}/breakglass/x": there is no'),
    "a wrong URL": ('url = "x"', {}, 2, 'url of {dir}/breakglass/client.toml is not an http or https URL: "x"'),
    "a wrong name": ('key = "x"', {}, 2, "client.toml: key is not a text that belongs there\n    correct it, or set"),
    "deep TOML": (f"url = {9999 * '['}", {}, 2, "client.toml is not TOML: "),
    "shared": ('secret_file = "key"', {"mode": "644"}, 2, 'is not safe: "{dir}/breakglass/client.toml": every user'),
    "of another user": ('secret_file = "key"', {"uid": "1"}, 2, "client.toml belongs to another user"),
    "of who ran sudo": ('url = "{closed}"\nsecret_file = "key"', {"uid": "1", "SUDO_UID": "1"}, 3, "{closed}: conn"),
}


@each_row("name", [name for name, row in REMEMBERED.items() if "uid" not in row[1] or os.geteuid() == 0])
def test_what_client_toml_remembers(wrong: dict[str, str], tmp_path: Path, name: str) -> None:
    """It has the URL and the key file for each command, unless the environment has them, and must be safe."""
    text, environment, code, said = REMEMBERED[name]
    client, places = tmp_path / "breakglass/client.toml", wrong | {"dir": str(tmp_path)}
    client.parent.mkdir()
    for file, content in ((client, text.format(**places)), (client.parent / "key", SIGNING_KEY)):
        file.touch(0o600)
        file.write_text(content)
    client.chmod(int(environment.get("mode", "600"), 8))
    os.chown(client, int(environment.get("uid", "-1")), -1)
    given = {key: value.format(**places) for key, value in environment.items() if key.isupper()}
    ran = run("status", "devvm", XDG_CONFIG_HOME=str(tmp_path), **given)
    assert (ran.returncode, said.format(**places) in ran.stderr) == (code, True), ran.stderr


@each_row("more", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_gets_colours_and_a_line_that_counts(tmp_path: Path, more: dict[str, str]) -> None:
    """The seconds of the wait are in one line, which is erased before the next one. A dumb terminal gets text alone."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        at = {"BREAKGLASS_URL": f"http://127.0.0.1:{server.getsockname()[1]}", "BREAKGLASS_SECRET": SIGNING_KEY}
        with Terminal("cycle", "devvm", **at, **{"TERM": "xterm", "NO_COLOR": ""} | more) as person:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                if "TERM" not in more:
                    person.read_until("\r\x1b[Kcycle devvm, 1 s")
                body = b'{"error": {"code": "x", "message": "no", "hint": "wait"}}'
                connection.sendall(b"HTTP/1.1 400 X\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
                code = person.end()
    prefix = "breakglass" if more else "\x1b[31mbreakglass\x1b[0m"
    erased = "" if "TERM" in more else "\r\x1b[K"
    assert (code, person.shown.endswith(f"{erased}{prefix}: no\r\n    wait\r\n")) == (1, True), repr(person.shown)
    assert ("\x1b" in person.shown) == ("TERM" not in more)


# --- what is wrong, and what to do ---

WRONG: dict[str, tuple[dict[str, str], str, int, str, str]] = {
    "half a key": ({"BREAKGLASS_SECRET": "whsec_abc"}, "call status", 2, "BREAKGLASS_SECRET is not base64", "copy all"),
    "no key file": ({"BREAKGLASS_SECRET_FILE": "{dir}/x"}, "call status", 2, "there is no such file", "set it to"),
    "a directory": ({"BREAKGLASS_SECRET_FILE": "{dir}"}, "call status", 2, "it is a directory", "set it to"),
    "empty": ({"BREAKGLASS_SECRET_FILE": "{dir}/empty"}, "call status", 2, "does not begin with whsec_", "copy all"),
    "binary": ({"BREAKGLASS_SECRET_FILE": "{dir}/binary"}, "call status", 2, "it is not a text file", "set it to"),
    "shared": ({"BREAKGLASS_SECRET_FILE": "{dir}/shared"}, "call status", 2, "every user of this", "chmod 600"),
    "port in URL": ({"BREAKGLASS_URL": "http://h:99999"}, "call status", 2, 'URL: "http://h:99999"', "set it to"),
    "empty URL": ({"BREAKGLASS_URL": ""}, "chat", 2, "BREAKGLASS_URL is empty", "set it to the handler's address"),
    "name in URL": ({"BREAKGLASS_URL": "http://me:pw@h"}, "call status", 2, "contains a user name", "take it out"),
    "the page's link": (
        {"BREAKGLASS_URL": f"{{closed}}/#key={SIGNING_KEY}"},
        "call status",
        3,
        "connection refused; nothing was sent",
        "running",
    ),
    "DNS": ({"BREAKGLASS_URL": "http://no.invalid"}, "call status", 3, '"no.invalid" can\'t be resolved', "spelling"),
    "id": ({}, "call status --id a.b", 2, 'not an id: "a.b"', "8 to 64"),
    "id of sign": ({}, "sign --id a.b", 2, 'not an id: "a.b"', "8 to 64"),
    "example's URL": ({"BREAKGLASS_CONFIG": "{dir}/good"}, "alert-example pve --url x", 2, "--url is not", "set it to"),
    "no config": ({"BREAKGLASS_CONFIG": "{dir}/x"}, "serve", 2, "there is no such file", "set BREAKGLASS_CONFIG"),
    "config is a directory": ({"BREAKGLASS_CONFIG": "{dir}"}, "serve", 2, "is a directory", "set BREAKGLASS_CONFIG"),
    "config is binary": ({"BREAKGLASS_CONFIG": "{dir}/binary"}, "serve", 2, "is not a text file", "set BREAKGLASS"),
    "PORT": ({"PORT": "99999"}, "serve", 2, 'PORT is "99999", which is not a number', "set PORT to such"),
    "a taken port": (
        {"BREAKGLASS_CONFIG": "{dir}/good", "PORT": "{taken}"},
        "serve",
        2,
        "another program listens on 127.0.0.1:{taken}",
        "find the program: ss",
    ),
    "HOST is empty": ({"BREAKGLASS_CONFIG": "{dir}/good", "HOST": ""}, "serve", 2, "HOST is empty", "set it to"),
    "HOST": ({"BREAKGLASS_CONFIG": "{dir}/good", "HOST": "192.0.2.1"}, "serve", 2, "not an address of this", "list"),
    "HOST's name": ({"BREAKGLASS_CONFIG": "{dir}/good", "HOST": "no.invalid"}, "serve", 2, "be resolved", "set it"),
    "no directory": ({}, "host bundle {dir}/x/agent", 1, "can't write \"", "choose another place"),
    "onto a directory": ({}, "host bundle {dir}", 2, "is a directory", "name the file: "),
    "document": ({}, "docs nope", 2, 'there is no document and no code "nope"', "the documents are README, admin, "),
    "long TMPDIR": ({"TMPDIR": "{long}"}, "demo", 2, "is too long for the sockets", "set TMPDIR"),
}


def usable_config() -> str:
    return f"""
        [callers.operator]
        secret = "{SIGNING_KEY}"
        allow = ["status"]
        [hosts.pve1]
        ssh = "breakglass@127.0.0.1"
        key = '''{SSH_KEY}'''
        host_key = "any"
        [vms.devvm]
        hosts = ["pve1"]
        vmid = 102
        [sessions]
        secret = "{"s" * 40}"
    """


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The places that the cases are about."""
    place = tmp_path_factory.mktemp("wrong")
    place.chmod(0o755)
    texts = {"empty": b"", "binary": b"\xff\x00", "shared": SIGNING_KEY.encode(), "good": usable_config().encode()}
    for name, text in texts.items():
        (place / name).touch(0o644 if name == "shared" else 0o600)
        (place / name).write_bytes(text)
        if name != "shared":
            give_to_handler(place / name)
    long = place / ("l" * 90)
    long.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = f"http://127.0.0.1:{reserve_port()}"
        yield {"dir": str(place), "long": str(long), "closed": closed, "taken": str(taken.getsockname()[1])}


STARTED = [name for name, row in WRONG.items() if row[1].startswith(("serve", "sign", "chat", "demo"))]


@each_row("name", [name for name in WRONG if name not in STARTED])
def test_each_error_says_what_to_do(wrong: dict[str, str], name: str) -> None:
    """An error is one sentence with the value, one instruction and the documented exit code."""
    check_error(wrong, *WRONG[name])


@pytest.mark.parametrize("name", sampled(STARTED, "no config", "a taken port", "HOST"))
def test_each_error_of_a_program_says_what_to_do(wrong: dict[str, str], name: str) -> None:
    """A program that ends before its start prints nothing else, such as a `start` in the log."""
    check_error(wrong, *WRONG[name])


def check_error(
    wrong: dict[str, str], environment: dict[str, str], words: str, code: int, said: str, hint: str
) -> None:
    given = {"BREAKGLASS_SECRET": SIGNING_KEY} | {key: value.format(**wrong) for key, value in environment.items()}
    ran = run(*words.format(**wrong).split(), **given)
    assert (ran.returncode, ran.stdout) == (code, "")
    sentence, _, instruction = ran.stderr.partition("\n    ")
    assert sentence.startswith("breakglass: ")
    assert said.format(**wrong) in sentence
    assert hint in instruction
    assert SIGNING_KEY not in ran.stderr


def test_sign_without_a_standard_input_says_so() -> None:
    """A closed standard input is an error with an instruction."""
    command = ["/bin/sh", "-c", 'exec "$0" -m breakglass sign <&-', sys.executable]
    ran = subprocess.run(command, env=os.environ | {"BREAKGLASS_SECRET": SIGNING_KEY}, capture_output=True, text=True)
    assert (ran.returncode, "standard input is closed" in ran.stderr, "Traceback" in ran.stderr) == (2, True, False)


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
        assert "can't write the output: No space left on device" in ran.stderr
        continues = "reset continues" in ran.stderr and "--id msg_" in ran.stderr
        assert (ran.returncode, continues) == ((0, False) if options else (4, True)), ran.stderr


def test_a_handler_without_tls_is_named() -> None:
    """For an https URL with a plain port, `call` says that TLS failed and nothing was sent."""

    def answer(connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with playing(answer) as port:
        ran = run("call", "status", BREAKGLASS_URL=f"https://localhost:{port}", BREAKGLASS_SECRET=SIGNING_KEY)
    assert (ran.returncode, "TLS failed" in ran.stderr, "use http://" in ran.stderr) == (3, True, True)


def test_an_untrusted_certificate_is_named(tmp_path: Path) -> None:
    """For a private CA the error names the variable to set, and nothing was sent."""
    context = tls_context(tmp_path, "localhost")

    def answer(connection: socket.socket) -> None:
        with pytest.raises(OSError, match=r"(?i)alert|eof|reset"):
            context.wrap_socket(connection, server_side=True)

    with playing(answer) as port:
        ran = run("call", "status", BREAKGLASS_URL=f"https://localhost:{port}", BREAKGLASS_SECRET=SIGNING_KEY)
    assert (ran.returncode, "its certificate is not trusted: " in ran.stderr) == (3, True), ran.stderr
    assert "set SSL_CERT_FILE" in ran.stderr


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


@pytest.mark.all
def test_a_closed_pipe_prints_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the reader of the output has ended, like `head`, stderr stays empty."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # with it, Python keeps nothing for its end
    reading, writing = os.pipe()
    os.close(reading)
    argv = [sys.executable, "-m", "breakglass", "host", "bundle"]
    ran = subprocess.run(argv, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=100)
    os.close(writing)
    assert ran.stderr == ""


def test_ctrl_c_prints_no_traceback() -> None:
    """`sign` waits for its body: Ctrl-C ends it with 130 and no traceback."""
    argv = [sys.executable, "-m", "breakglass", "sign"]
    environment = os.environ | {"BREAKGLASS_SECRET": SIGNING_KEY}
    with subprocess.Popen(
        argv, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(b"{")
            process.stdin.flush()
            pipe = process.stdin
            until(lambda: not any(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))), "its read")  # then it is in our code
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=60) == (b"", b"")
        finally:
            process.kill()
        assert process.returncode == 130


def test_docs_prints_a_document() -> None:
    """As text of 80 columns, with or without the ending that links have; without a name, it lists the documents."""
    text = render((ROOT / "docs/runbook.md").read_text("utf-8"))
    for name in ("runbook", "docs/runbook.md"):
        ran = run("docs", name)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, text, "")
    lines = [line for line in run("docs").stdout.splitlines() if line[0] != " "]
    names = sorted(path.stem for path in (ROOT / "docs").glob("*.md"))
    assert [line.split("  ")[0] for line in lines] == names
    rows = json.loads(run("docs", "--json").stdout)["documents"]
    assert [row["name"] for row in rows] == names
    assert all(row["purpose"] for row in rows)
    assert run("docs", "runbook", "--json").returncode == 2


@each_row("words,expected", [("st", "status start stop states"), ("keys ro", "rotate"), ("cycle --an", "--anyway")])
def test_bash_completes(words: str, expected: str) -> None:
    """`completion` prints what makes bash complete commands, their own commands and their options."""
    press = (
        'COMP_WORDS=(breakglass $1); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _shtab_breakglass; echo "${COMPREPLY[*]}"'
    )
    argv = ["bash", "-c", f"{run('completion', 'bash').stdout}\n{press}", "bash", words]
    ran = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert (sorted(ran.stdout.split()), "#compdef breakglass" in run("completion", "zsh").stdout) == (
        sorted(expected.split()),
        True,
    )


def test_docs_uses_the_pager_on_a_terminal(tmp_path: Path) -> None:
    """A page goes through $PAGER, as wide as the terminal; the lines about a code do not."""
    environment = os.environ | {"PAGER": f"tee {tmp_path}/paged", "COLUMNS": "60", "TERM": "xterm"}
    shown = {}
    for name in ("runbook", "storage-hung"):
        command = ["script", "-qec", shlex.join([sys.executable, "-m", "breakglass", "docs", name]), "/dev/null"]
        shown[name] = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True).stdout
    text = (tmp_path / "paged").read_text("utf-8")
    assert text == render((ROOT / "docs/runbook.md").read_text("utf-8"), 60)
    assert shown["runbook"].replace("\r", "") == text
    assert "pvesm status" in shown["storage-hung"]


# --- the rest ---


def test_control_characters_are_printed_as_escapes() -> None:
    """Escape sequences, carriage returns and bidi overrides are escaped; text and newlines stay.

    In a second opinion, which a host may have written, they are left out.
    """
    assert visible("a\x1b[2Jb\rc\u202ed\ne\tü") == "a\\u001b[2Jb\\u000dc\\u202ed\ne\tü"
    assert opinion_line({"text": "\x1b[2J\u202ex"}) == "Claude, None: [2J x"
