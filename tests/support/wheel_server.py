"""Serves wheels to pip on loopback, like an index. It can hold a wheel back, so that a download does not end."""

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .model_proxy import running

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


class _Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, request: Any, client: Any, server: WheelServer) -> None:
        self.holds = server.holds
        super().__init__(request, client, server, directory=str(server.directory))

    def copyfile(self, source: Any, outputfile: Any) -> None:
        with contextlib.suppress(ConnectionError):  # a test has ended pip
            if self.holds.is_set() and source.seek(0, 2) > LARGE:
                source.seek(0)
                outputfile.write(source.read(BEGUN))
                self.rfile.read(1)  # wait until pip has ended
            else:
                source.seek(0)
                super().copyfile(source, outputfile)

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def serving_wheels(directory: Path) -> Iterator[WheelServer]:
    """Serve a directory of wheels for a while."""
    with running(WheelServer(directory)) as server:
        yield server
