"""`breakglass keys new --pair` and `keys rotate --pair` at a real terminal, with a real handler and a device."""

import base64
import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import segno
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from breakglass.auth.signing import secret_bytes, sign
from breakglass.cli.keys.pairing_link import make_rows
from breakglass.client import new_id

from ..support.documents import commands
from ..support.forked import run_command
from ..support.ports import reserve_port
from ..support.rows import each_row
from ..support.selection import sampled
from ..support.service import ACCOUNT, ALL, SSH_KEY, Service, give_directory
from ..support.stages import until
from .test_init_questions import Terminal

pytestmark = pytest.mark.slow

LINK = re.compile(r"http://127\.0\.0\.1:\d+/#pair=([\w-]{16})\.([\w-]{22})&as=([\w-]+)")
PAGE = "https://rescue.example.org/"
WHITE, PLAIN = "\x1b[38;5;16;48;5;231m", "\x1b[0m"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """A handler without a host: a verb of a known caller is unreached, and one of an unknown caller is 401."""
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
        give_directory(Path(directory, "var/sessions"))
        service = Service(Path(directory), port=reserve_port(), key=SSH_KEY, host_key="any")
        secret = run(service, "new", "otto", "--allow", ",".join(ALL)).stdout.strip()
        service.secrets["otto"] = secret
        service.reload()
        yield service
        service.stop()


class Pairing(Terminal):
    """A command that pairs a device, and the device. Its 10 minutes are `seconds` here."""

    def __init__(self, service: Service, *words: str, seconds: float = 600, cwd: Path | None = None) -> None:
        self.service = service
        url = f"http://127.0.0.1:{service.port}"
        where = ["--config", str(service.config), "--pid", str(service.process.pid)]
        code = f"import sys, breakglass.config.pairing as p; p.SECONDS = {seconds}; "
        code += "from breakglass.cli.main import main; sys.exit(main())"
        more = {"TERM": "xterm-256color", "COLUMNS": "120"}
        words = ("keys", *words, "--pair", "--url", url, *where)
        super().__init__(*words, program=("-c", code), cwd=cwd or service.directory, **more)

    def read_link(self) -> tuple[str, str, str]:
        """Return the link's id, one-time key and caller, once the command waits for the device."""
        if "Ctrl-C revokes" not in self.shown:
            self.read_until("Ctrl-C revokes")
        [found] = LINK.findall(self.shown)
        return found  # type: ignore[no-any-return]


def ask(service: Service, pairing_id: str) -> tuple[int, str]:
    """Fetch a sealed key; return the status, and the key if there is one."""
    reply = service.send("POST", "/pair", json.dumps({"id": pairing_id}).encode())
    return reply.status, str(reply.json.get("sealed", ""))


def unseal(sealed: str, link: tuple[str, str, str]) -> str:
    """Return the signing key, as the page does."""
    pairing_id, one_time_key, caller = link
    data, key = (base64.urlsafe_b64decode(text + "==") for text in (sealed, one_time_key))
    return AESGCM(key).decrypt(data[:12], data[12:], f"breakglass-pair-v1:{pairing_id}:{caller}".encode()).decode()


def callers(service: Service) -> dict[str, dict[str, object]]:
    """Return the entries in callers' own files, each secret as a list."""
    files = sorted((service.directory / "callers.d").iterdir())
    found = {file.stem: tomllib.loads(file.read_text()) for file in files}
    secrets = {name: entry["secret"] for name, entry in found.items()}
    lists = {name: secret if isinstance(secret, list) else [secret] for name, secret in secrets.items()}
    return {name: {**entry, "secret": lists[name]} for name, entry in found.items()}


def keys_left(service: Service) -> list[str]:
    return [each.name for each in (service.directory / "var/sessions/pairing").iterdir()]


def is_accepted(service: Service, signing_key: str) -> bool:
    body, msg_id, now = b'{"verb":"status"}', new_id(), int(time.time())
    headers = {"webhook-id": msg_id, "webhook-timestamp": str(now)}
    headers["webhook-signature"] = sign(secret_bytes(signing_key), msg_id, now, body)
    return service.send("POST", "/pve", body, headers).status != 401


def secret_of(service: Service, name: str) -> str:
    """Return the newest secret of a caller."""
    secrets = callers(service)[name]["secret"]
    assert isinstance(secrets, list)
    return str(secrets[-1])


def fetch(command: Pairing) -> str:
    """Fetch the key and return it once the handler knows it and the command asks about it."""
    link = command.read_link()
    status, sealed = ask(command.service, link[0])
    assert status == 200
    command.read_until("press Enter;")
    signing_key = unseal(sealed, link)
    until(lambda: is_accepted(command.service, signing_key), "a reload")
    return signing_key


def decode(rows: list[str]) -> list[list[bool]]:
    """Return the dark modules of a drawing, two rows a line, without the quiet zone, which has to be there."""
    halves = {" ": (False, False), "▀": (True, False), "▄": (False, True), "█": (True, True)}
    found = []
    for row in rows:
        pairs = [halves[each] for each in row.removeprefix(WHITE).removesuffix(PLAIN)]
        found += [[pair[0] for pair in pairs], [pair[1] for pair in pairs]]
    size = len(found[0]) - 8
    assert not any(map(any, [*found[:4], *found[4 + size :], *(row[:4] + row[-4:] for row in found)]))
    return [row[4:-4] for row in found[4 : 4 + size]]


def test_a_device_is_paired(service: Service) -> None:
    """The new caller has its limits and can sign; the key's file was the handler's user's, and is gone."""
    [text] = commands("docs/admin.md", "On a phone")
    words = shlex.split(text.strip().removeprefix("breakglass keys").removesuffix("--pair --unit breakglass"))
    with Pairing(service, *words) as command:
        link = command.read_link()
        [waiting] = (service.directory / "var/sessions/pairing").iterdir()
        owner = ACCOUNT or Path("/proc/self").owner()
        assert (waiting.name, waiting.stat().st_mode & 0o777, waiting.owner()) == (link[0], 0o600, owner)
        url = LINK.search(command.shown)
        assert url
        rows = [f"{WHITE}{row}{PLAIN}" for row in make_rows(url[0])]
        assert "\n".join(rows) in command.shown.replace("\r\n", "\n")
        modules = decode(rows)
        assert modules == [list(map(bool, row)) for row in segno.make(url[0], error="l", micro=False).matrix]
        signing_key = fetch(command)
        command.type("\n")
        assert command.end() == 0
        assert "anna-phone is paired." in command.shown
        assert signing_key not in command.shown
    assert callers(service)["anna-phone"] == {"secret": [signing_key], "allow": [*ALL, "chat"]}
    assert keys_left(service) == []
    log = service.logged('"paired"')
    assert [text for text in (signing_key, *link[:2]) if text in log] == []


@pytest.mark.real("ptrace")  # the command reads the directory of the handler
def test_one_more_key_is_paired(service: Service, tmp_path: Path) -> None:
    """`keys rotate` leaves the older keys as they are. Enter counts from the question on.

    A relative sessions.dir is relative to the handler, wherever the command runs.
    """
    old = service.secrets["otto"]
    with Pairing(service, "rotate", "otto", cwd=tmp_path) as command:
        command.read_link()
        command.type("\n\n")
        new = fetch(command)
        command.type("\n")
        assert command.end() == 0
        assert "otto is paired." in command.shown
    assert callers(service)["otto"]["secret"] == [old, new]
    assert is_accepted(service, old)


ENDS = [("late", "rotate otto", 1), ("Ctrl-C", "new dora", 130), ("twice", "new dora", 1), ("hang-up", "new dora", 130)]


@pytest.mark.parametrize(("how", "words", "code"), sampled(ENDS, *ENDS[:2]))
def test_a_key_that_is_not_taken_once_is_revoked(service: Service, how: str, words: str, code: int) -> None:
    """If no device fetches it in time, if two had the link, and if the command is interrupted. Older keys stay."""
    before, signing_key = callers(service), ""
    with Pairing(service, *words.split(), seconds=1 if how == "late" else 600) as command:
        if how != "late":
            signing_key = fetch(command)
        if how == "twice":  # the second device gets nothing
            assert ask(service, command.read_link()[0]) == (404, "")
        elif how == "Ctrl-C":
            command.type("\x03")
        if how == "hang-up":
            command.hang_up()
            assert command.process.wait(60) == code
        else:
            assert (command.end(), "is revoked" in command.shown) == (code, True), command.shown
    assert callers(service) == before
    assert keys_left(service) == []
    until(lambda: how == "late" or not is_accepted(service, signing_key), "a reload")


@pytest.mark.all
def test_a_revocation_that_fails_says_what_to_do(service: Service) -> None:
    """The configuration can't be changed any more, and the error has the command that does it later."""
    before = service.config.read_text()
    with Pairing(service, "new", "gerda") as command:
        command.read_link()
        signing_key = secret_of(service, "gerda")
        service.config.write_text("[callers\n")
        try:
            command.type("\x03")
            assert command.end() == 130
        finally:
            service.config.write_text(before)
        assert "is NOT revoked" in command.shown
        assert "keys revoke gerda" in command.shown
    assert run(service, "revoke", "gerda", "--yes", "--pid", str(service.process.pid)).returncode == 0
    assert keys_left(service) == []
    until(lambda: not is_accepted(service, signing_key), "a reload")


def run(service: Service, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "breakglass", "keys", *words, "--config", str(service.config)]
    return subprocess.run(command, cwd=service.directory, stdin=subprocess.DEVNULL, capture_output=True, text=True)


@each_row(
    ("words", "code", "said"),
    [
        (("new", "ida"), 2, "the handler's address is not known"),
        (("new", "ida", "--url", "http://192.0.2.1/"), 2, "is not an https address"),
        (("new", "ida", "--url", "https://a@rescue.example.org/"), 2, "contains a user name"),
        (("new", "ida", "--url", PAGE, "--bearer"), 2, "--pair can't be combined with"),
        (("rotate", "operator", "--url", PAGE), 1, "which breakglass keys does not change"),
    ],
)
def test_what_can_t_be_paired_changes_nothing(service: Service, words: tuple[str, ...], code: int, said: str) -> None:
    """No key is handed out, also for a caller in the configuration, whose entry no command changes."""
    before, text = callers(service), service.config.read_text()
    ran = run_command("keys", *words, "--pair", "--config", str(service.config))
    assert (ran.returncode, ran.stdout, said in ran.stderr) == (code, "", True), ran.stderr
    assert (callers(service), service.config.read_text()) == (before, text)
