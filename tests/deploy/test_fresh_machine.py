"""README's first command on a new Debian that has python3, with the checkout in a home that no other user can enter.

The machine takes Debian's packages from where this one has them. Wheels come from a server on loopback, with the
lock's hashes.
"""

import contextlib
import http.server
import re
import subprocess
from functools import partial
from pathlib import Path

import pytest

from ..support.chroot import ENVIRONMENT, Chroot, debian
from ..support.documents import commands
from ..support.locks import copy_checkout
from ..support.model_proxy import running
from ..support.wheelhouse import claude_wheel, wheelhouse

pytestmark = [pytest.mark.all, pytest.mark.first, pytest.mark.real("debian")]

HOMES = {"root": "/root", "ann": "/home/ann"}
VENV = "apt-get -qy remove 'python3*-venv' python3-pip-whl python3-setuptools-whl"
[START] = commands("README.md", "Try it")
FETCH = "import sys, urllib.request as http; sys.stdout.buffer.write(http.urlopen(sys.argv[1]).read())"


def as_root(machine: Chroot, script: str) -> None:
    ran = machine.run("sh", "-ec", script, env={"DEBIAN_FRONTEND": "noninteractive"})
    assert ran.returncode == 0, f"{script}\n{ran.stdout}{ran.stderr}"


def clone(machine: Chroot, user: str) -> str:
    """Put a clone into a person's home, and return its path."""
    place = f"{HOMES[user]}/breakglass"
    copy_checkout(machine.root / place.removeprefix("/"))
    as_root(machine, f"chmod 700 /root {HOMES[user]}; chown -R {user}: {HOMES[user]}")
    return place


def test_the_demo_runs_on_a_new_machine(tmp_path: Path) -> None:
    """An ordinary user is told in one command what root has to install, and root gets it by the way.

    The handler is a user who can't enter the clone. The page answers, chat is on later, and Ctrl-C leaves nothing.
    """
    for wheel in (*wheelhouse().glob("*.whl"), *claude_wheel().glob("*.whl")):
        with contextlib.suppress(FileExistsError):
            (tmp_path / wheel.name).symlink_to(wheel)
    serve = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with running(http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve)) as server, debian() as machine:
        index = f"http://127.0.0.1:{server.server_address[1]}/"
        pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": index, "PIP_NO_CACHE_DIR": "1", "PIP_CONFIG_FILE": "/dev/null"}
        as_root(machine, f"{VENV}; useradd --create-home --shell /bin/bash ann")
        told = machine.run("sh", "-c", START, user="ann", cwd=clone(machine, "ann"), env={"HOME": HOMES["ann"]})
        assert re.search(r"as root: apt-get install python3\S+-venv openssh-client bubblewrap\n", told.stderr), told
        place, script = clone(machine, "root"), f"echo $$; exec {START.strip()} 2>&1"
        argv = machine.inside("sh", "-c", script, cwd=place)
        with subprocess.Popen(argv, env={**ENVIRONMENT, **pip}, stdout=subprocess.PIPE, text=True) as demo:
            assert demo.stdout is not None
            said: list[str] = []
            for line in demo.stdout:
                said.append(line)
                if "it works now, on the page too: the real claude" in line:
                    break
            text = "".join(said)
            printed = dict(re.findall(r"^  (\w+) +(.+)$", text, re.MULTILINE))
            assert "dev: installing python3" in text, text
            page = printed["page"].partition("#")[0]
            assert "<title>" in machine.run("python3", "-c", FETCH, page).stdout
            for name, words in (("chat", "pve status"), ("call", "devvm: running (reset done"), ("doctor", "The page")):
                ran = machine.run("bash", "-c", f"echo it hangs | {printed[name]}", cwd=place)
                assert words in ran.stdout, text + ran.stdout + ran.stderr
            assert not re.search(r"^error:.*(?:as root|can't read)", ran.stdout, re.MULTILINE), ran.stdout
            as_root(machine, f"kill -INT {said[0]}")
            assert "Ctrl-C ended everything" in demo.stdout.read()
            assert demo.wait(60) == 0
        script = "ls -A /tmp; for pid in /proc/[0-9]*; do tr '\\0' ' ' <$pid/cmdline; echo; done"
        left = machine.run("sh", "-c", script).stdout.splitlines()
        assert [line for line in left if line.strip() and not re.match(r"(sh -c|cat $|tr )", line)] == []
