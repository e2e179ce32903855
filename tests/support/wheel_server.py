"""Serves wheels to pip on loopback, like an index. It can hold a wheel back, so that a download does not end."""

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

LARGE = 100_000_000  # bytes; claude's wheel is about as large
BEGUN = 3_000_000


class WheelServer(http.server.ThreadingHTTPServer):
    """A directory of wheels, which `url` lists. While `holds` is set, a large wheel stops after BEGUN bytes."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.directory = directory
        self.holds = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"

    @property
    def pip(self) -> dict[str, str]:
        """The environment in which pip takes all packages from here, and asks no index."""
        return {
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": self.url,
            "PIP_NO_CACHE_DIR": "1",
            "PIP_CONFIG_FILE": "/dev/null",
        }


class _Handler(http.server.BaseHTTPRequestHandler):
    server: WheelServer

    def do_GET(self) -> None:
        name = self.path.strip("/").partition("#")[0]
        wheels = sorted(path.name for path in self.server.directory.glob("*.whl"))
        if not name:
            listed = "".join(f'<a href="{wheel}">{wheel}</a>\n' for wheel in wheels)
            self._begin("text/html", len(listed))
            self.wfile.write(listed.encode())
        elif name in wheels:
            self._send(self.server.directory / name)
        else:
            self.send_error(404)

    def _begin(self, kind: str, size: int) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(size))
        self.end_headers()

    def _send(self, wheel: Path) -> None:
        size = wheel.stat().st_size
        self._begin("application/octet-stream", size)
        with wheel.open("rb") as file, contextlib.suppress(ConnectionError):  # a test has ended pip
            if self.server.holds.is_set() and size > LARGE:
                self.wfile.write(file.read(BEGUN))
                self.rfile.read(1)  # wait until pip has ended
            else:
                while part := file.read(1 << 20):
                    self.wfile.write(part)

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def serving_wheels(directory: Path) -> Iterator[WheelServer]:
    """Serve a directory of wheels for a while."""
    server = WheelServer(directory)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
