"""`breakglass init` at a terminal: a real one, whose other end types."""

import codecs
import os
import re
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from ..support.sshd import end_with_descendants
from .test_init import HOST_KEY, NAMES, USER, names_in

pytestmark = pytest.mark.slow

SECONDS = 120  # until a command that is silent, or does not end, fails its test


class Terminal:
    """A command with its own terminal, which is its controlling one: Ctrl-C works."""

    def __init__(
        self, *words: str, program: Sequence[str] = ("-m", "breakglass"), cwd: str | Path = "/", **more: str
    ) -> None:
        self._ours, theirs = os.openpty()
        argv = ["setsid", "--ctty", sys.executable, *program, *words]
        environment = os.environ | more
        self.process = subprocess.Popen(argv, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        self.shown = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end within a letter

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        end_with_descendants(self.process)
        os.close(self._ours)

    def read_until(self, words: str) -> None:
        """Read what is shown after the last answer, until the words are in it."""
        seen = ""
        while words not in seen:
            seen += self._read()
        self.shown += seen

    def hang_up(self) -> None:
        """Close the terminal, as a lost connection does."""
        os.close(self._ours)
        self._ours = os.open(os.devnull, os.O_RDWR)

    def _read(self) -> str:
        assert select.select([self._ours], [], [], SECONDS)[0], "it shows nothing more, and does not end"
        return self._decoder.decode(os.read(self._ours, 4096))

    def answer(self, question: str, text: str) -> None:
        self.read_until(question)
        self.type(f"{text}\n")

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def end(self) -> int:
        """Read the rest, and return the exit code."""
        try:
            while True:
                self.shown += self._read()
        except OSError:  # EIO: the other end is closed
            pass
        return self.process.wait(100)


def test_it_asks_for_what_no_flag_says(place: Path) -> None:
    """A wrong answer is explained and asked again; the result is as good as with flags."""
    directory = place / "etc"
    with Terminal("init", str(directory), *USER) as person:
        person.answer("URL of this handler", "rescue.example.org")
        person.answer("is not a URL", "https://rescue.example.org")
        person.answer("Proxmox host, like pve1=192.0.2.10", "pve1")
        person.answer("has no =", "=2001:db8::1")
        person.answer("is not a host's name", "pve1=2001:db8::1")
        person.answer("another Proxmox host", "pve1=192.0.2.12")
        person.answer("named twice", "pve2=root@192.0.2.11:2222")
        person.answer("another Proxmox host", "")
        person.answer("host key of pve1", f"{HOST_KEY[:-4]} root@pve1")
        person.answer("is not a public key", f"{HOST_KEY} root@pve1")
        person.answer("host key of pve2", "any")
        person.answer("VM, like devvm=102@pve1", "dev vm=102@pve1")
        person.answer("can't name a VM", "devvm=102")
        person.answer("write devvm=102@pve1,pve2", "devvm=102@pve3")
        person.answer("is not one of your hosts", "devvm=102@pve2,pve1")
        person.answer("another VM", "mail=102@pve1")
        person.answer("is already the number of devvm", "mail=103@pve1")
        person.answer("another VM", "")
        person.answer("your name", "anna@home")
        assert person.end() == 0, person.shown
    assert names_in(directory) == set(NAMES)
    text = (directory / "breakglass.toml").read_text()
    for line in (
        'url = "https://rescue.example.org/"',
        'ssh = "breakglass@[2001:db8::1]:22"',
        'ssh = "root@192.0.2.11:2222"',
        f'host_key = "{HOST_KEY} pve1"',
        'host_key = "any"',
        'hosts = ["pve2", "pve1"]',
        "vmid = 103",
    ):
        assert line in text.splitlines(), line
    assert re.search(r"--host pve2 --from \S+ --account root > pve2\.sh", person.shown)
    assert "whsec_" not in person.shown
