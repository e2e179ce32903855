"""A handler with chat on, usually without a Proxmox host, and a client that reads its streams."""

import contextlib
import http.client
import json
import signal
import socket
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from breakglass.client import new_id

from . import claude
from .contract import find_faults
from .model import Model
from .ports import reserve_port
from .rendered import series
from .service import (
    ALL,
    SSH_KEY,
    Reply,
    Service,
    give_directory,
    give_to_handler,
)
from .sshd import Sshd
from .stages import until

Event = dict[str, Any]
METRICS_TOKEN = "bgt_" + "m" * 43
# The outcome of a proposal is looked up within 3 s, but a busy host may need longer.
PATIENT = "from breakglass.chat import proposals; proposals.SECONDS = 60"


def fake(*steps: Mapping[str, object]) -> str:
    """Return a prompt that contains the model's next answers."""
    return f"look. FAKE={json.dumps(steps)}"


def bash(command: str, **more: object) -> dict[str, object]:
    """Return a step in which the model runs a command."""
    return {"tool": "Bash", "input": {"command": command, "description": "look"}, **more}


class Talker(Service):
    """A running handler whose claude talks to `model`. Without a `host` every verb is unreached.

    `chat` has more lines of the table [chat], such as another `command`; a `base_url` replaces the model. The code in
    `patched` runs first, to change a constant that would make a test slow. `wait_for_places` needs `metrics`.
    """

    allowed = (*ALL, "chat")

    def __init__(
        self,
        directory: Path,
        model: Model,
        *,
        sessions: Path | None = None,
        chat: str = "",
        host: Sshd | None = None,
        patched: str = "",
        credential: str = "ANTHROPIC_API_KEY=sk-test",
        metrics: bool = False,
        **env: str,
    ) -> None:
        self.model = model
        self.sessions = give_directory(sessions or directory / "sessions")
        self.credential = directory / f"credential-{new_id()}"
        self.credential.touch(0o600)
        self.credential.write_text(credential)
        give_to_handler(self.credential)
        lines = [chat, f"credential_file = {json.dumps(str(self.credential))}"]
        if "base_url" not in chat:
            lines.append(f"base_url = {json.dumps(model.url)}")
        if "command" not in chat:
            lines.append(f"command = {json.dumps(str(claude.find()))}")
        # A turn keeps its place for a moment after its end, and one caller gets only two of the default's three places.
        if "max_turns_at_once" not in chat:
            lines.append("max_turns_at_once = 8")
        lines.append(f"env = {{ {', '.join(f'{name} = {json.dumps(value)}' for name, value in env.items())} }}")
        super().__init__(
            directory,
            **(host.access if host else {"port": reserve_port(), "key": SSH_KEY, "host_key": "any"}),
            program=("-c", f"import sys; {patched or 'pass'}; from breakglass.cli.main import main; sys.exit(main())"),
            session_dir=self.sessions,
            extra="\n".join(["[chat]", *lines, f'[metrics]\ntoken = "{METRICS_TOKEN}"' if metrics else "", ""]),
        )

    def start(self) -> None:
        self.audit_file.write_bytes(b"")
        super().start()

    def wait_for_chat(self, state: str) -> None:
        """Return once /health reports this state of chat."""
        until(lambda: self.health()["chat"] == state, f"chat in the state {state}")

    @property
    def calls(self) -> list[list[str]]:
        """The prompt and the arguments of each ended turn of a scripted claude, from the transcripts."""
        with contextlib.closing(sqlite3.connect(f"file:{self.sessions}/chat.sqlite3?mode=ro", uri=True)) as db:
            pieces = [bytes(data) for (data,) in db.execute("SELECT data FROM piece ORDER BY rowid")]
        return [json.loads(line) for line in b"".join(pieces).splitlines()]

    def scrape(self) -> dict[str, float]:
        """Return the series of /metrics."""
        return series(self.send("GET", "/metrics", headers={"authorization": f"Bearer {METRICS_TOKEN}"}).body.decode())

    def wait_for_places(self) -> None:
        """Return once no turn has a place at this handler. A client reads the end of a turn a moment earlier."""
        until(lambda: self.scrape()["turns_running"] == 0, "the end of earlier turns")

    def change(self, old: str, new: str) -> None:
        """Change the configuration and make the handler reload it. Return once chat uses it."""
        text = self.config.read_text()
        assert old in text, old
        before = self._wait_for_applied(1)  # a handler that has just started is still applying its first configuration
        self.config.write_text(text.replace(old, new))
        self.process.send_signal(signal.SIGHUP)
        self._wait_for_applied(before + 1)

    def _wait_for_applied(self, count: int) -> int:
        """Return how many configurations chat has applied, once there are at least this many."""
        until(lambda: self.audit_file.read_text().count('"isolated"') >= count, "the use of a configuration")
        return self.audit_file.read_text().count('"isolated"')

    @contextlib.contextmanager
    def changed(self, old: str, new: str) -> Iterator[None]:
        """Change the configuration until the block ends."""
        self.change(old, new)
        try:
            yield
        finally:
            self.change(new, old)

    # --- asking ---

    def open(self, caller: str = "operator", msg_id: str = "", **fields: object) -> "Stream":
        """Send a request to /chat and return its stream."""
        return Stream(self, caller, msg_id or new_id(), json.dumps(fields).encode())

    def chat(self, prompt: str, caller: str = "operator", msg_id: str = "", **fields: object) -> list[Event]:
        """Run a turn and return its events, without pings."""
        with self.open(caller, msg_id, prompt=prompt, **fields) as stream:
            return list(stream)

    def ask(self, caller: str = "operator", msg_id: str = "", **fields: object) -> Reply:
        """Send a request to /chat that has no stream."""
        body = json.dumps(fields).encode()
        return self.send("POST", "/chat", body, self.signed(body, caller, msg_id))

    def change_sessions(self, statement: str) -> None:
        """Change the handler's sessions in its file."""
        with contextlib.closing(sqlite3.connect(self.sessions / "chat.sqlite3", timeout=60)) as db, db:
            db.execute("PRAGMA foreign_keys = ON")
            db.execute(statement)

    def kill(self) -> None:
        """Kill the handler, as the kernel does when memory runs out."""
        self.stop(signal.SIGKILL)


class Stream:
    """One answer of /chat, read line by line."""

    def __init__(self, service: Service, caller: str, msg_id: str, body: bytes) -> None:
        self.turn = msg_id
        self.seen: list[Event] = []
        self._connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=120)
        self._connection.request("POST", "/chat", body, service.signed(body, caller, msg_id))
        self.response = self._connection.getresponse()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def __iter__(self) -> Iterator[Event]:
        assert self.response.status == 200, self.response.read()
        while line := self.response.readline():
            event = json.loads(line)
            assert find_faults({"$ref": "#/components/schemas/Event"}, event) == [], event
            if event["type"] != "ping":
                self.seen.append(event)
                yield event

    def until(self, kind: str, **fields: object) -> Event:
        """Read on to the next event of a type."""
        for event in self:
            if event["type"] == kind and fields.items() <= event.items():
                return event
        raise AssertionError(f"no {kind} {fields} in {self.seen}")

    def rest(self) -> list[Event]:
        """Read to the end, and return all events since the beginning."""
        for _ in self:
            pass
        return self.seen


def answer_text(events: list[Event]) -> str:
    """Return the answer as a client assembles it."""
    texts: dict[int, str] = {}
    for event in events:
        if event["type"] == "text" and "retract" in event:
            texts = {n: text for n, text in texts.items() if n < event["retract"]}
        elif event["type"] == "text":
            texts[event["n"]] = event["text"]
    return "".join(texts.values())


def kinds(events: list[Event]) -> list[str]:
    """Return the events' types, without repetitions."""
    found: list[str] = []
    for event in events:
        if [event["type"]] != found[-1:]:
            found.append(event["type"])
    return found


def last_error(events: list[Event]) -> Event:
    """Return the error with which a turn ended, and check its last line."""
    assert events[-1]["type"] == "done"
    assert events[-1]["ok"] is False
    assert events[-2]["type"] == "error"
    return events[-2]


@contextlib.contextmanager
def unread_turn(talker: Talker, prompt: str) -> Iterator[tuple[str, socket.socket]]:
    """Begin a turn over a connection with a small window, but read nothing from it."""
    turn, body = new_id(), json.dumps({"prompt": prompt}).encode()
    headers = {**talker.signed(body, msg_id=turn), "content-length": str(len(body)), "connection": "close", "host": "x"}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", talker.port))
        connection.sendall(f"POST /chat HTTP/1.1\r\n{head}\r\n".encode() + body)
        assert connection.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 200"  # the turn has begun
        yield turn, connection
