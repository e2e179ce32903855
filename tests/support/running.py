"""A handler that runs with a configuration of doctor's tests, so that doctor or a drill can check it."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from .doctor import Setup
from .ports import reserve_port
from .service import new_secret, start_handler
from .signals import signal_process
from .sshd import Sshd, end_with_descendants, wait_listening
from .stages import until

ALERT = {"source": "generic", "match": {"host": "devvm"}, "vm": "devvm"}


class Running:
    """A handler that runs with the configuration of a Setup, and a client for the caller `operator`."""

    def __init__(self, setup: Setup, program: Sequence[str] = ("-m", "breakglass")) -> None:
        self.setup, self.program, self.port = setup, program, reserve_port()
        setup.write()
        self.log = setup.directory / f"log-{self.port}"
        setup.environment |= {
            "BREAKGLASS_URL": self.url,
            "BREAKGLASS_SECRET_FILE": str(setup.directory / "operator"),
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @contextlib.contextmanager
    def run(self) -> Iterator["Running"]:
        environment = {**os.environ, **self.setup.environment, "PORT": str(self.port)}
        environment.pop("BREAKGLASS_SECRET_FILE")
        self.log.write_bytes(b"")
        command = [sys.executable, *self.program, "serve"]
        self.process = start_handler(command, environment, self.setup.directory, self.log)
        try:
            wait_listening(self.port, self.process)
            yield self
        finally:
            end_with_descendants(self.process)

    def reload(self) -> None:
        """Have the handler read its file again, and return once it has."""
        before = self.log.read_text().count('"event": "reload')
        signal_process(self.process.pid, signal.SIGHUP)
        until(lambda: self.log.read_text().count('"event": "reload') > before, "the reload")

    def ready(self) -> None:
        """Return once the handler has reached its host and knows whether chat works. It serves before that."""
        self.logged('"state": "answering"')
        self.logged('"event": "chat", ')

    def logged(self, text: str) -> None:
        """Return once the log has a text."""
        until(lambda: text in self.log.read_text(), text)


def new_setup(directory: Path, sshd: Sshd) -> Setup:
    """Return a good configuration whose host is the real sshd."""
    setup = Setup(directory, **sshd.access)
    setup.config["alerts"] = [ALERT]
    setup.config["callers"]["sender"] = {"token_file": setup.file("token", "bgt_" + "t" * 43), "allow": ["forensics"]}
    setup.config["callers"]["historian"] = {"secret_file": setup.file("historian", new_secret()), "allow": ["history"]}
    return setup
