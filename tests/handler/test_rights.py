"""The process that parses requests is never root. Commands that root starts become the handler's user."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from breakglass.cli.account import find_privileges

from ..support.ports import reserve_port
from ..support.rights import assert_unprivileged
from ..support.rows import each_row
from ..support.service import (
    ACCOUNT,
    SSH_KEY,
    Service,
    as_handler,
    config_text,
    give_to_handler,
    new_secret,
    wait_answering,
)

pytestmark = [pytest.mark.real("root"), pytest.mark.slow]


@pytest.fixture(scope="module")
def service(directory: Path) -> Iterator[Service]:
    """A handler without a host."""
    service = Service(directory, port=reserve_port(), key=SSH_KEY, host_key="any")
    yield service
    service.stop()


def start(config: Path, as_root: bool = False) -> "subprocess.CompletedProcess[str]":
    """Start a handler that should end by itself."""
    environment = {**os.environ, "BREAKGLASS_CONFIG": str(config), "PORT": "0"}
    command, rights = [sys.executable, "-m", "breakglass", "serve"], {} if as_root else as_handler()
    return subprocess.run(
        command, env=environment, cwd="/", capture_output=True, text=True, timeout=120, check=False, **rights
    )


def write_config(directory: Path, mode: int = 0o640) -> Path:
    callers = {"operator": {"secret": new_secret(), "allow": ["status"]}}
    path = directory / "breakglass.toml"
    path.write_text(config_text(callers, port=1, key=SSH_KEY, host_key="any"))
    give_to_handler(path)
    path.chmod(mode)
    return path


@pytest.mark.real("ptrace")
def test_who_answers_http_is_not_root(service: Service) -> None:
    """At the start and after a reload, none of its four uids is 0, and it has no capability and can get none."""
    pid = assert_unprivileged(service.port)
    service.reload()
    assert assert_unprivileged(service.port) == pid == service.process.pid


def test_root_does_not_serve(tmp_path: Path) -> None:
    """Before it reads anything, the start ends with a sentence that says how to start it as an ordinary user."""
    ran = start(tmp_path / "none", as_root=True)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "setpriv --reuid breakglass --regid breakglass --clear-groups breakglass serve" in ran.stderr


@pytest.mark.all
def test_setpriv_starts_it(tmp_path: Path) -> None:
    """The sentence's command starts it without rights, although root's environment names a home that it can't enter."""
    path, port = write_config(tmp_path), reserve_port()
    environment = {**os.environ, "HOME": "/root", "BREAKGLASS_CONFIG": str(path), "PORT": str(port)}
    how = ["setpriv", "--reuid", ACCOUNT, "--regid", ACCOUNT, "--clear-groups"]
    command = [*how, sys.executable, "-m", "breakglass", "serve"]
    with subprocess.Popen(command, env=environment, cwd="/", stdout=subprocess.PIPE) as process:
        try:
            wait_answering(port, process)
            assert_unprivileged(port)
            assert process.stdout is not None
            down = next(line for line in process.stdout if b"host-down" in line)
            assert b'"state": "connection-refused"' in down  # and not an error of asyncssh about that home
        finally:
            process.terminate()
        assert process.wait(60) == 0


@pytest.mark.all
def test_root_without_its_capabilities_becomes_no_one(tmp_path: Path) -> None:
    """In a container without these capabilities, a command does not stay root. It ends and names what is missing."""
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-m", "breakglass", "check"]
    path = str(write_config(tmp_path))
    ran = subprocess.run([*command, path], cwd="/", capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 2
    assert f"can't become {ACCOUNT}: Operation not permitted" in ran.stderr
    assert f"run this as {ACCOUNT}" in ran.stderr


def test_a_privilege_is_found() -> None:
    """The check at the end of the start finds each privilege that an ordinary user does not have."""
    none = "0" * 16
    good = {"Uid": "\t7" * 4, "Gid": "\t7" * 4, "NoNewPrivs": "\t1"}
    good |= dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapAmb"), f"\t{none}")
    bad = {
        "Uid": ("\t0" * 4, "\t7\t7\t0\t7", "\t7\t7\t7\t0"),
        "Gid": ("\t7\t7\t0\t7",),
        "NoNewPrivs": ("\t0",),
        **dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapAmb"), (f"\t{none[1:]}1",)),
    }

    def found(fields: dict[str, str]) -> list[str]:
        return find_privileges("".join(f"{name}:{value}\n" for name, value in fields.items()))

    assert found(good) == []
    for name, values in bad.items():
        assert [line.split()[0] for line in found({each: good[each] for each in good if each != name})] == [name]
        for value in values:
            assert [line.split()[0] for line in found(good | {name: value})] == [name]


# The steps by which a command that root starts, or a handler that setpriv starts, becomes an ordinary user.
LEAVE = {
    "a command": "account.become(account.look_up(sys.argv[1]))",
    "the handler": "os.setgroups([]); os.setresgid(1, 1, 1); os.setresuid(1, 1, 1); "
    "account.prctl(account.PR_SET_DUMPABLE, 0); account.give_up_privileges()",
}
_KEYRING = """
import ctypes, os, sys
from breakglass.cli import account
add_key, keyctl = {"x86_64": (248, 250), "aarch64": (217, 219)}[os.uname().machine]
call, session, description = ctypes.CDLL(None).syscall, -3, b"breakglass-test"
call(keyctl, 1, None), os.setgroups([0])
call(add_key, b"user", description, b"secret", 6, session)
def search(): print(call(keyctl, 10, session, b"user", description, 0) > 0)
search()
LEAVE
search(), print(0 in os.getgroups())
"""


@each_row("leave", LEAVE.values())
def test_roots_keys_in_the_kernel_and_its_groups_are_not_the_handlers(leave: str) -> None:
    """A session's keyring has the keys of its login. Any process that has the keyring, or a group, has its rights."""
    code = _KEYRING.replace("LEAVE", leave)
    ran = subprocess.run([sys.executable, "-c", code, ACCOUNT], stdout=subprocess.PIPE, text=True, check=False)
    assert ran.stdout.split() == ["True", "False", "False"], "if the first is False, this system allows no keys"


_TYPING = """
import fcntl, os, sys, termios
from breakglass.cli import account
if os.fork():
    sys.exit(os.wait()[1])  # a shell, which leads the session
LEAVE
try:
    fcntl.ioctl(0, termios.TIOCSTI, b"x")
    os.write(1, b"typed")
except OSError:
    os.write(1, b"refused")
"""


@each_row("leave", LEAVE.values())
def test_the_handler_types_nothing_in_roots_terminal(leave: str) -> None:
    """Root's shell would run the text once the handler has ended. Kernels without legacy_tiocsti refuse it anyway."""
    pid, terminal = os.forkpty()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", _TYPING.replace("LEAVE", leave), ACCOUNT])
    output = b""
    with open(terminal, "rb", buffering=0) as opened, contextlib.suppress(OSError):  # EIO: the other end is closed
        while piece := opened.read(4096):
            output += piece
    os.waitpid(pid, 0)
    assert output == b"refused"
