"""README's two commands on a new Debian that has python3, with the checkout in a home that no other user can enter.

The machine takes Debian's packages from where this one has them. Wheels come from a server on loopback, with the
lock's hashes.
"""

import http.client
import os
import re
import select
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

import pytest

from ..support.chroot import ENVIRONMENT, Chroot, debian
from ..support.documents import commands
from ..support.locks import ROOT
from ..support.stages import until
from ..support.wheel_server import WheelServer, serving_wheels
from ..support.wheelhouse import claude_wheel, developing_wheels, wheelhouse

pytestmark = [pytest.mark.all, pytest.mark.first, pytest.mark.real("debian")]

HOMES = {"root": "/root", "ann": "/home/ann"}
NOT_CLONED = (".git", ".venv", "__pycache__", ".*_cache", ".coverage", ".hypothesis", "node_modules")
PAGE = re.compile(r"http://127\.0\.0\.1:(\d+)/#key=")
VENV = "apt-get -qy remove 'python3*-venv' python3-pip-whl python3-setuptools-whl"
# Nothing but Python is there, and the tests' programs would be a gigabyte: without apt, they are not installed.
NO_APT = "mv /usr/bin/apt-get /usr/bin/apt-get.away"


class Fresh:
    """A new machine, and a person at it with a clone in their home."""

    def __init__(self, machine: Chroot, user: str, wheels: WheelServer) -> None:
        self.machine, self.user, self.wheels = machine, user, wheels
        self.clone = f"{HOMES[user]}/breakglass"
        self.environment = {"HOME": HOMES[user], **wheels.pip}
        self.as_root(VENV)
        self.as_root("useradd --create-home --shell /bin/bash ann")
        self.as_root(f"chmod 700 /root {HOMES[user]}; mkdir {self.clone}")
        there = machine.root / self.clone.removeprefix("/")
        pack = ["tar", "-C", str(ROOT), *(f"--exclude={name}" for name in NOT_CLONED), "-c", "."]
        with subprocess.Popen(pack, stdout=subprocess.PIPE) as packed:
            subprocess.run(["tar", "-C", str(there), "-x", "--no-same-owner"], stdin=packed.stdout, check=True)
        self.as_root(f"chown -R {user}: {HOMES[user]}")

    def as_root(self, script: str) -> None:
        ran = self.machine.run("sh", "-ec", script, env={"DEBIAN_FRONTEND": "noninteractive"})
        assert ran.returncode == 0, f"{script}\n{ran.stdout}{ran.stderr}"

    def run(self, *argv: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in the clone, as the person."""
        return self.machine.run(*argv, user=self.user, cwd=self.clone, env={**self.environment, **env})

    def left(self) -> set[str]:
        """Return the files of the temporary directory, and the processes that are not the machine's own."""
        script = "ls -A /tmp; for pid in /proc/[0-9]*; do tr '\\0' ' ' <$pid/cmdline; echo; done"
        said = self.machine.run("sh", "-c", script).stdout.splitlines()
        return {line.strip() for line in said if line.strip() and not re.match(r"(sh -c|cat $|tr )", line)}


@contextmanager
def demo(fresh: Fresh) -> Iterator["Running"]:
    """Run README's first command until the block ends; then Ctrl-C."""
    [start] = commands("README.md", "Try it")
    script = f"echo $$; exec {start.strip()} 2>&1"
    argv = fresh.machine.inside("sh", "-c", script, user=fresh.user, cwd=fresh.clone)
    process = subprocess.Popen(argv, env={**ENVIRONMENT, **fresh.environment}, stdout=subprocess.PIPE)
    running = Running(process)
    try:
        pid = running.until("\n").splitlines()[0]
        yield running
        fresh.as_root(f"kill -INT {pid}")
        running.rest()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        running.output.close()


class Running:
    """A running demo, and what it has said."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        self.output, self.text = process.stdout, ""

    def until(self, words: str, seconds: float = 300) -> str:
        """Return what was said so far once there are these words."""
        end = time.monotonic() + seconds
        while words not in self.text:
            assert select.select([self.output], [], [], max(0, end - time.monotonic()))[0], self.text
            part = os.read(self.output.fileno(), 65536).decode()
            assert part, self.text
            self.text += part
        return self.text

    def rest(self) -> None:
        self.text += self.output.read().decode()

    def line(self, name: str) -> str:
        """Return the command that the demo printed under a name last."""
        return [line for line in self.text.splitlines() if line.startswith(f"  {name} ")][-1].split(None, 1)[1]

    def page(self) -> bytes:
        """Return the page, which the demo's handler serves."""
        found = PAGE.search(self.text)
        assert found
        with closing(http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)) as connection:
            connection.request("GET", "/")
            return connection.getresponse().read()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WheelServer]:
    """Every locked wheel, that of claude too."""
    place = tmp_path_factory.mktemp("wheels")
    for directory in (wheelhouse(), developing_wheels(), claude_wheel()):
        for wheel in directory.glob("*.whl"):
            if not (place / wheel.name).exists():
                (place / wheel.name).symlink_to(wheel)
    with serving_wheels(place) as server:
        yield server


@pytest.fixture
def fresh(request: pytest.FixtureRequest, wheels: WheelServer) -> Iterator[Fresh]:
    wheels.holds.clear()
    with debian() as machine:
        yield Fresh(machine, request.param, wheels)


def check_demo(fresh: Fresh, first: Mapping[str, bool]) -> None:
    """Run the demo: the page answers while claude is being downloaded, chat is on later, and Ctrl-C leaves nothing."""
    with demo(fresh) as running:
        running.until("Ctrl-C ends everything")
        for words, said in first.items():
            assert (words in running.text) is said, running.text
        assert b"<title>" in running.page()
        assert running.line("chat") == "not yet; claude is being downloaded, and a line here tells you when chat works"
        fresh.wheels.holds.clear()
        running.until("it works now, on the page too: the real claude")
        asked = fresh.run("bash", "-c", f"echo it hangs | {running.line('chat')}")
        assert "pve status" in asked.stdout, asked.stdout + asked.stderr
        called = fresh.run("bash", "-c", running.line("call"))
        assert "devvm: running (reset done" in called.stdout, called.stdout + called.stderr
        doctor = fresh.run("bash", "-c", running.line("doctor"))
        assert "The page and its" in doctor.stdout, doctor.stdout + doctor.stderr
        assert not re.search(r"^error:.*(?:as root|can't read)", doctor.stdout, re.MULTILINE), doctor.stdout
    assert "Ctrl-C ended everything" in running.text
    assert fresh.left() == set()


def check_tests(fresh: Fresh) -> None:
    """Run a part of README's second command: handlers, which another user than root starts."""
    fresh.as_root(NO_APT)
    ran = fresh.run("./dev", "test", "--quick", "-m", "", "tests/deploy/test_check_command.py")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"^\d+ passed", ran.stdout, re.MULTILINE), ran.stdout
    assert fresh.left() == set()


@pytest.mark.parametrize("fresh", ["root"], indirect=True)
def test_root_in_their_home(fresh: Fresh) -> None:
    """Root gets Debian's packages by the way; the handler is a user who can't enter the clone."""
    fresh.wheels.holds.set()
    check_demo(fresh, {"dev: installing python3": True, "openssh-client": True})
    check_tests(fresh)


@pytest.mark.parametrize("fresh", ["ann"], indirect=True)
def test_a_user_in_their_home(fresh: Fresh) -> None:
    """A user is told in one command what root has to install, for Python and for chat."""
    [start] = commands("README.md", "Try it")
    told = fresh.run("sh", "-c", start)
    fix = re.search(r"as root: (apt-get install python3\S+-venv openssh-client bubblewrap)\n", told.stderr)
    assert fix, told.stderr
    fresh.as_root(f"{fix[1]} -qy")
    fresh.wheels.holds.set()
    with demo(fresh) as running:
        running.until("Ctrl-C ends everything")
        until(lambda: ".pip/tmp/pip-" in find_temporary(fresh), "a download")
    assert fresh.left() == set()
    assert find_temporary(fresh) == ""
    check_demo(fresh, {"dev: installing python3": False})


def find_temporary(fresh: Fresh) -> str:
    """Return the files of the clone's virtual environment that installing claude makes, one a line."""
    script = "find .venv -maxdepth 4 -path '.venv/.pip*' -o -name .claude -o -name 'claude_agent_sdk*'"
    return fresh.run("sh", "-c", script).stdout
