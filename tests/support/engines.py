"""Firefox and WebKitGTK, as Debian has them, behind one small interface.

Both take the commands of WebDriver: Firefox over its Marionette socket, WebKitGTK over HTTP. The tests use few of the
commands, so they need no client library and no geckodriver.
"""

import http.client
import json
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL
from tempfile import mkdtemp
from typing import Any, ClassVar

from . import parts
from .ports import reserve_port
from .signals import signal_group
from .sshd import wait_listening
from .stages import until

SECONDS = 60.0
WIDTH, HEIGHT = 1280, 900  # a desktop screen, on which no part of the page is hidden behind a tab
KEYS = {"Enter": "\ue007", "Escape": "\ue00c"}
NOT_YET = ("no such element", "element not interactable", "element click intercepted", "stale element reference")
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # WebDriver's name for a reference to an element
_PREFERENCES = {
    "marionette.port": 0,  # any port: Firefox writes the one that it has into its profile
    "network.proxy.type": 1,  # a proxy that does not exist, so that Firefox loads nothing from other hosts by itself
    "network.proxy.http": "127.0.0.1",
    "network.proxy.http_port": 9,
    "network.proxy.ssl": "127.0.0.1",
    "network.proxy.ssl_port": 9,
    "toolkit.cosmeticAnimations.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
}


class CommandError(Exception):
    """A command of WebDriver that failed."""

    def __init__(self, found: Mapping[str, str]) -> None:
        super().__init__(found)
        self.code = found["error"]


class Engine:
    """A browser that takes the commands of WebDriver."""

    def _command(self, name: str, parameters: Mapping[str, object]) -> Any:
        raise NotImplementedError

    def open(self, url: str) -> None:
        """Show an address."""
        self._command("Navigate", {"url": "about:blank"})
        self._command("Navigate", {"url": url})

    def reload(self) -> None:
        """Load the page again as its own button does, because WebDriver's Refresh bypasses the worker in Firefox."""
        self.run("document.documentElement.dataset.left = 1; setTimeout(() => location.reload())")
        until(self._has_reloaded, "another document")

    def _has_reloaded(self) -> bool:
        try:
            return bool(self.run("return document.readyState === 'complete' && !document.documentElement.dataset.left"))
        except CommandError:  # the old document has gone and the new one is not here yet
            return False

    def run(self, body: str) -> Any:
        """Run the body of an asynchronous function in the page, and return its result."""
        script = f"""const done = arguments[arguments.length - 1];
            (async () => {{ {body} }})().then((value) => done({{value}}), (error) => done({{error: String(error)}}))"""
        answer = self._command("ExecuteAsyncScript", {"script": script, "args": []})
        if answer is None:  # Firefox says this about a document that is being left
            raise CommandError({"error": "no answer"})
        assert "error" not in answer, answer
        return answer.get("value")

    def click(self, selector: str) -> None:
        """Click on an element as a person does."""
        self._on_element(selector, "ElementClick")

    def type(self, selector: str, text: str) -> None:
        """Type into an element."""
        self._on_element(selector, "ElementSendKeys", text=text)

    def press(self, key: str) -> None:
        """Press one of KEYS."""
        focus = self._command("GetActiveElement", {})[_ELEMENT]
        self._command("ElementSendKeys", {"id": focus, "text": KEYS[key]})

    def _on_element(self, selector: str, command: str, **more: str) -> None:
        """Send a command for an element once it exists and can be reached, as Playwright does."""
        last: list[CommandError] = []

        def is_done() -> bool:
            try:
                found = self._command("FindElement", {"using": "css selector", "value": selector})
                self._command(command, {"id": found[_ELEMENT], **more})
            except CommandError as error:
                if error.code not in NOT_YET:
                    raise
                last[:] = [error]
                return False
            return True

        try:
            until(is_done, f"{command} on {selector}")
        except AssertionError as late:
            raise late from (last[0] if last else None)


class OfMarionette(Engine):
    """Firefox, over the socket of `--marionette`, where a message consists of its length, a colon and JSON."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.settimeout(SECONDS)
        self._stream = self._socket.makefile("rb")
        self._number = 0
        assert self._receive()["marionetteProtocol"] == 3
        self.version = self.send("WebDriver:NewSession", {})["capabilities"]["browserVersion"]

    def _command(self, name: str, parameters: Mapping[str, object]) -> Any:
        answer = self.send(f"WebDriver:{name}", parameters)
        return answer["value"] if set(answer) == {"value"} else answer

    def send(self, name: str, parameters: Mapping[str, object]) -> Any:
        self._number += 1
        message = json.dumps([0, self._number, name, parameters]).encode()
        self._socket.sendall(b"%d:%s" % (len(message), message))
        _, number, error, result = self._receive()
        assert number == self._number
        if error is not None:
            raise CommandError(error)
        return result

    def _receive(self) -> Any:
        length = b""
        while not length.endswith(b":"):
            read = self._stream.read(1)
            assert read, "Firefox has closed its socket"
            length += read
        return json.loads(self._stream.read(int(length[:-1])))

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


class OfHttp(Engine):
    """A browser behind a driver that speaks WebDriver's HTTP."""

    _PATHS: ClassVar = {
        "Navigate": "url",
        "ExecuteAsyncScript": "execute/async",
        "FindElement": "element",
        "GetActiveElement": "element/active",
        "ElementClick": "element/{id}/click",
        "ElementSendKeys": "element/{id}/value",
        "SetWindowRect": "window/rect",
    }

    def __init__(self, port: int, capabilities: Mapping[str, object]) -> None:
        self._port = port
        begun = self.send("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._session = f"/session/{begun['sessionId']}"
        self.version = begun["capabilities"]["browserVersion"]

    def _command(self, name: str, parameters: Mapping[str, object]) -> Any:
        path = self._PATHS[name].format(**parameters)
        if name == "GetActiveElement":
            return self.send("GET", f"{self._session}/{path}")
        body = {key: value for key, value in parameters.items() if key != "id"}
        return self.send("POST", f"{self._session}/{path}", body)

    def send(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=SECONDS)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            value = json.loads(response.read())["value"]
            if response.status != 200:
                raise CommandError(value)
            return value
        finally:
            connection.close()

    def close(self) -> None:
        self.send("DELETE", self._session)


@contextmanager
def _running(command: list[str], directory: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program with its own home and in its own process group, which ends with the block."""
    environment = {**os.environ, "HOME": str(directory), "XDG_RUNTIME_DIR": str(directory), "NO_AT_BRIDGE": "1"}
    environment |= {"DBUS_SESSION_BUS_ADDRESS": "disabled:", "GSETTINGS_BACKEND": "memory", **options.pop("env", {})}
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=directory, stdout=log, stderr=log, start_new_session=True, **options
        )
    try:
        yield process
    finally:
        try:
            signal_group(process.pid, SIGKILL)
        except ProcessLookupError:
            pass
        process.wait(SECONDS)


@contextmanager
def firefox(directory: Path) -> Iterator[OfMarionette]:
    """Debian's Firefox ESR, without a window."""
    profile = Path(mkdtemp(dir=directory))  # in a shuffled run it may be started twice
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in _PREFERENCES.items()]
    (profile / "user.js").write_text("".join(lines))
    command = [str(parts.find_firefox()), "--headless", "--marionette", "--no-remote", "--profile", str(profile)]
    size = {"MOZ_HEADLESS_WIDTH": str(WIDTH), "MOZ_HEADLESS_HEIGHT": str(HEIGHT)}
    with _running(command, directory, env=size) as process:
        port = profile / "MarionetteActivePort"
        until(lambda: process.poll() is not None or (port.exists() and port.read_text()), "a start of Firefox")
        engine = OfMarionette(int(port.read_text()))
        try:
            yield engine
            engine.send("Marionette:Quit", {"flags": ["eForceQuit"]})
            process.wait(SECONDS)
        finally:
            engine.close()


@contextmanager
def _display(directory: Path) -> Iterator[str]:
    """A screen in memory, for a browser that needs a window."""
    reading, writing = os.pipe()
    screen = f"{WIDTH + 200}x{HEIGHT + 200}x24"
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", screen, "-nolisten", "tcp", "-noreset"]
    with _running(command, directory, pass_fds=[writing]) as process:
        os.close(writing)
        with open(reading, "rb") as pipe:
            number = pipe.readline().decode().strip()
        assert number, "Xvfb did not begin"
        yield f":{number}"
        process.terminate()  # the server removes its lock and its socket when it ends
        process.wait(SECONDS)


@contextmanager
def webkit(directory: Path) -> Iterator[OfHttp]:
    """Debian's WebKitGTK, in the browser that comes with it."""
    port = reserve_port()
    options = {"binary": str(parts.find_minibrowser()), "args": ["--automation"]}
    with _display(directory) as display:
        command = ["WebKitWebDriver", "--host=127.0.0.1", f"--port={port}"]
        environment = {"DISPLAY": display, "LIBGL_ALWAYS_SOFTWARE": "1"}
        with _running(command, directory, env=environment) as process:
            wait_listening(port, process)
            engine = OfHttp(port, {"browserName": "MiniBrowser", "webkitgtk:browserOptions": options})
            try:
                engine._command("SetWindowRect", {"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT})
                yield engine
            finally:
                engine.close()
