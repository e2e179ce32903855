"""The handler as its own process, started as the Procfile starts it, and a client that signs."""

import base64
import contextlib
import gzip
import http.client
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import asyncssh

from breakglass.auth.signing import secret_bytes, sign
from breakglass.client import new_id

from . import prefork
from .contract import check_answer
from .ports import reserve_port
from .sshd import end_with_descendants, wait_listening
from .stages import until

ACCOUNT = "daemon" if os.geteuid() == 0 else ""  # the user of the tests' handlers, which can't be root
HOME = {"HOME": "/nonexistent"} if ACCOUNT else {}  # its home, because ssh could not enter the home of root
READ = ["status", "forensics", "history"]
ALL = [*READ, "start", "stop", "reset", "cycle"]


def new_ssh_key() -> str:
    """Return a new private key."""
    return asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()


SSH_KEY = new_ssh_key()  # for a host that no test logs in to


def new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


@dataclass(frozen=True)
class Reply:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        return value

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.body.splitlines()]


def read_reply(
    connection: http.client.HTTPConnection, method: str, path: str = "/pve", *, is_judged: bool = True
) -> Reply:
    """Return the answer to the request that was sent. Fail if docs/openapi.yaml does not describe it."""
    response = connection.getresponse()
    headers = {name.lower(): value for name, value in response.headers.items()}
    reply = Reply(response.status, headers, response.read())
    if method == "POST":  # pytest shows it if the test fails
        print(path, reply.status, reply.body[:800], reply.body[800:][-800:])
    if is_judged:
        body = gzip.decompress(reply.body) if headers.get("content-encoding") == "gzip" else reply.body
        check_answer(method, path, reply.status, headers, body)
    return reply


def config_text(
    callers: Mapping[str, Mapping[str, object]],
    *,
    port: int,
    key: str,
    host_key: object,
    vmid: int = 102,
    user: str = "",
    urls: Sequence[str] = (),
    session_secret: str = "",
    session_dir: Path | None = None,
    hosts: Sequence[str] = ("pve1",),
    vm_lines: str = "",
    extra: str = "",
) -> str:
    """Return a configuration with one VM, these callers and `extra` tables."""
    tables = [
        f"[callers.{name}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in c.items()) for name, c in callers.items()
    ]
    host = f'[hosts.pve1]\nssh = "{user or "breakglass"}@127.0.0.1:{port}"\n'
    host += f"key = '''{key}'''\nhost_key = {json.dumps(host_key)}\n"
    vm = f"[vms.devvm]\nhosts = {json.dumps(hosts)}\nvmid = {vmid}\n{vm_lines}\n"
    session = f'[sessions]\nsecret = "{session_secret or secrets.token_urlsafe(48)}"\n'
    session += f"dir = {json.dumps(str(session_dir))}\n" if session_dir else ""
    server = f"[server]\nurl = {json.dumps(urls)}\n" if urls else ""
    return "\n".join([*tables, host, vm, session, server, extra])


def as_handler() -> dict[str, Any]:
    """Return subprocess's arguments for the handler's user, or none unless root runs the tests."""
    if not ACCOUNT:
        return {}
    account = pwd.getpwnam(ACCOUNT)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": ()}


def start_handler(
    command: Sequence[str], environment: Mapping[str, str], directory: Path, output: Path, errors: Path | None = None
) -> prefork.Process:
    """Run a Python's command line as the handler's user. The handler appends its output to the files.

    With -m or -c, the process is forked. A program that has a path is started as a person starts it.
    """
    if command[1] not in ("-m", "-c"):
        with output.open("ab") as log:
            return subprocess.Popen(command, env=environment, cwd=directory, stdout=log, **as_handler())
    account = pwd.getpwnam(ACCOUNT) if ACCOUNT else None
    user = (account.pw_uid, account.pw_gid) if account else None
    return prefork.start(command, environment, directory, output, errors, user)


def give_directory(directory: Path) -> Path:
    """Make and return a directory that only the handler may use, such as sessions.dir."""
    directory.mkdir(0o700, parents=True, exist_ok=True)
    if ACCOUNT:
        shutil.chown(directory, ACCOUNT, ACCOUNT)
        let_in(directory)
    return directory


def let_in(path: Path) -> None:
    """Let every user enter the directories above a path."""
    for above in path.parents:
        if not above.stat().st_mode & 0o001:
            above.chmod(above.stat().st_mode | 0o011)


def give_to_handler(*files: Path) -> None:
    """Let the handler's user read these files and enter the directories above them, as documented."""
    if not ACCOUNT:
        return
    group = pwd.getpwnam(ACCOUNT).pw_gid
    for file in files:
        os.chown(file, 0, group)
        file.chmod(0o640)
        let_in(file)


def wait_answering(port: int, process: prefork.Process, log: Path | None = None) -> None:
    """Return once a handler answers."""
    wait_listening(port, process, log)
    try:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
            connection.request("GET", "/health")
            connection.getresponse().read()
    except BaseException:
        end_with_descendants(process)
        raise


def with_constants(*changes: str) -> Sequence[str]:
    """Return a handler's program with other constants, as `web.connection.HEADER_SECONDS = 2.0`."""
    modules = ", ".join(sorted({f"breakglass.{change.partition(' = ')[0].rpartition('.')[0]}" for change in changes}))
    code = "; ".join(f"breakglass.{change}" for change in changes)
    return ("-c", f"import sys, {modules}; {code}; from breakglass.cli.main import main; sys.exit(main())")


class Service:
    """A running handler with the callers `operator`, `operator2` (all verbs) and `viewer` (reads)."""

    allowed: Sequence[str] = ALL  # for the operators
    process: prefork.Process
    python: str | Path = sys.executable
    program: Sequence[str] = ("-m", "breakglass")  # for Python
    errors: Path | None = None
    is_judged = True  # whether answers must follow docs/openapi.yaml; False for a test whose host sends hostile values

    def __init__(
        self,
        directory: Path,
        *,
        port: int,
        key: str,
        host_key: object,
        program: Sequence[str] = program,
        secrets: Mapping[str, str] | None = None,  # secrets of some callers; the others get new ones
        errors: Path | None = None,  # the handler's stderr; if None, that of the tests
        **more: Any,
    ) -> None:
        self.directory, self.program, self.errors = directory, program, errors
        self.port = reserve_port()
        self.secrets = {name: new_secret() for name in ("operator", "operator2", "viewer")} | dict(secrets or {})
        callers = {
            name: {"secret": secret, "allow": READ if name == "viewer" else self.allowed}
            for name, secret in self.secrets.items()
        }
        self.config = directory / f"breakglass-{self.port}.toml"
        self.config.touch(0o600)
        text = config_text(callers, port=port, key=key, host_key=host_key, **more)
        self.config.write_text(text)
        give_to_handler(self.config)
        self.start()

    def start(self) -> None:
        """Start the handler, or start it again at its old port, and return once it answers."""
        environment = {**os.environ, **HOME, "BREAKGLASS_CONFIG": str(self.config), "PORT": str(self.port)}
        command = [str(self.python), *self.program, "serve"]
        self.process = start_handler(command, environment, self.directory, self.audit_file, self.errors)
        wait_answering(self.port, self.process, self.errors)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def audit_file(self) -> Path:
        return self.directory / f"audit-{self.port}.jsonl"

    # --- asking ---

    def signed(self, body: bytes, caller: str = "operator", msg_id: str = "", at: int | None = None) -> dict[str, str]:
        """Return signing headers."""
        msg_id = msg_id or new_id()
        now = int(time.time()) if at is None else at
        signature = sign(secret_bytes(self.secrets[caller]), msg_id, now, body)
        return {"webhook-id": msg_id, "webhook-timestamp": str(now), "webhook-signature": signature}

    def send(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, seconds: float = 120
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            connection.request(method, path, body, headers or {})
            return read_reply(connection, method, path, is_judged=self.is_judged)
        finally:
            connection.close()

    def pve(
        self, verb: str, *, caller: str = "operator", msg_id: str = "", stream: bool = False, **fields: object
    ) -> Reply:
        """Sign and send a verb."""
        body = json.dumps({"verb": verb, **fields}).encode()
        headers = self.signed(body, caller, msg_id)
        if stream:
            headers["accept"] = "application/x-ndjson"
        else:
            headers["prefer"] = "wait=90"  # a test that holds a verb may take longer than a plain client's 45 s
        return self.send("POST", "/pve", body, headers)

    def together(self, calls: list[dict[str, Any]]) -> list[Reply]:
        """Send many verbs at once."""
        with ThreadPoolExecutor(len(calls)) as pool:
            return list(pool.map(lambda call: self.pve(**call), calls))

    def answering(self, seconds: float = 120) -> None:
        """Return once the handler holds a connection to the host."""
        why = lambda: f"a connection to the host, with the log {self.log()[-2000:]},"  # noqa: E731
        until(lambda: self.health()["vms"][0]["proxmox"] == "answering", why, seconds)

    def not_answering(self, seconds: float = 60) -> None:
        """Return once the handler has noticed that its connection is gone."""
        until(lambda: self.health()["vms"][0]["proxmox"] != "answering", "a lost connection", seconds)

    def health(self) -> dict[str, Any]:
        return self.send("GET", "/health").json

    # --- looking ---

    def log(self) -> str:
        """Return the whole lines of the log so far."""
        text = self.audit_file.read_text()
        return text[: text.rfind("\n") + 1]

    def logged(self, *words: str, times: int = 1) -> str:
        """Return the log once each of these words is in it `times` times. A thread writes it after the answer."""
        until(lambda: all(self.log().count(each) >= times for each in words), f"{words} in the log")
        return self.log()

    def audit(self) -> list[dict[str, Any]]:
        """End the handler and return the log lines of requests."""
        self.stop()
        lines = [json.loads(line) for line in self.audit_file.read_text().splitlines()]
        return [line for line in lines if "outcome" in line]

    # --- its configuration ---

    def reload(self) -> None:
        """Make the handler read its configuration again, and return once it has."""
        before = self.log().count('"event": "reload')  # or reload-rejected
        self.process.send_signal(signal.SIGHUP)
        self.logged('"event": "reload', times=before + 1)

    @contextlib.contextmanager
    def configured(self, text: str) -> Iterator[None]:
        """Run the handler with another configuration until the block ends."""
        before = self.config.read_text()
        try:
            self.config.write_text(text)
            self.reload()
            yield
        finally:
            self.config.write_text(before)
            self.reload()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the handler, and fail if it does not end."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            self.process.wait(60)
        finally:
            end_with_descendants(self.process)
