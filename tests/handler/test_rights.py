"""The process that parses the network is not root: who it becomes, and what it can still read."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from breakglass.cli.account import find_privileges

from ..support.ports import reserve_port
from ..support.rights import answering, assert_unprivileged
from ..support.selection import sampled
from ..support.service import (
    ACCOUNT,
    SERVER,
    SSH_KEY,
    Service,
    config_text,
    give_to_handler,
    new_secret,
    wait_answering,
)
from ..support.signals import signal_process
from ..support.sshd import Sshd

pytestmark = [pytest.mark.real("root"), pytest.mark.slow]


@pytest.fixture(scope="module")
def service(directory: Path) -> Iterator[Service]:
    """A handler without a host, which root has started."""
    service = Service(directory, port=reserve_port(), key=SSH_KEY, host_key="any")
    yield service
    service.stop()


def start(config: Path, *before: str, port: int = 0, **more: str) -> "subprocess.CompletedProcess[str]":
    """Start a handler that is to end by itself."""
    environment = {**os.environ, "BREAKGLASS_CONFIG": str(config), "PORT": str(port), **more}
    command = [*before, sys.executable, "-m", "breakglass", "serve"]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=120, check=False)


def write_config(directory: Path, server: str = SERVER, mode: int = 0o640) -> Path:
    callers = {"operator": {"secret": new_secret(), "allow": ["status"]}}
    path = directory / "breakglass.toml"
    path.write_text(config_text(callers, port=1, key=SSH_KEY, host_key="any").replace(SERVER, server))
    give_to_handler(path)
    path.chmod(mode)
    return path


@pytest.mark.real("ptrace")
def test_who_answers_http_is_not_root(service: Service) -> None:
    """At the start and after a reload: another uid in all four places, no capability, and no way to one."""
    pid = assert_unprivileged(service.port)
    service.reload()
    assert assert_unprivileged(service.port) == pid == service.process.pid


def test_a_problem_after_the_start_does_not_need_root(service: Service) -> None:
    """A reload reads with the rights that are left: a file that only root can read is a problem of that entry."""
    text = service.config.read_text()
    secret = service.directory / "secret"
    secret.touch(0o600)
    secret.write_text(new_secret())
    with service.configured(f'{text}\n[callers.phone]\nsecret_file = "{secret}"\nallow = ["status"]\n'):
        text_of_log = service.logged(f'can\'t be read by this user: \\"{secret}\\"')
    assert "chmod 640" in next(line for line in text_of_log.splitlines() if str(secret) in line)


ROOT_STAYS = [
    ("", "the handler was started as root, and must not stay root", '[server] user = "breakglass"'),
    ('[server]\nuser = "no-such-user"\n', '[server] user is "no-such-user", and there is no such user', "adduser"),
    ('[server]\nuser = "root"\n', '[server] user is "root", which is root', "adduser"),
    ("[server]\nuser = 3\n", "server.user: is not text: 3", "put it in quotes"),
]


@pytest.mark.parametrize(
    ("server", "words", "hint"),
    sampled(ROOT_STAYS, ROOT_STAYS[0]),
)
def test_root_does_not_serve(tmp_path: Path, server: str, words: str, hint: str) -> None:
    """Without an account to become, the start ends with a sentence that says what to write."""
    ran = start(write_config(tmp_path, server))
    assert ran.returncode == 2
    assert words in ran.stderr
    assert hint in ran.stderr


@pytest.mark.all
def test_a_configuration_that_only_root_can_read_ends_the_start(tmp_path: Path) -> None:
    """It would end the first reload; the sentence has the mode."""
    path = write_config(tmp_path, mode=0o600)
    ran = start(path)
    assert ran.returncode == 2
    assert f"{path}: can't be read by this user" in ran.stderr
    assert f"chmod 640 {path}" in ran.stderr


@pytest.mark.parametrize(
    ("mode", "words"),
    sampled(
        [(0o644, "every user of this machine"), (0o660, "its group can write")], (0o644, "every user of this machine")
    ),
)
def test_a_file_that_others_reach_is_refused(tmp_path: Path, mode: int, words: str) -> None:
    """The group may read what root owns, and no more."""
    ran = start(write_config(tmp_path, mode=mode))
    assert ran.returncode == 2
    assert words in ran.stderr
    assert "chmod 640" in ran.stderr


def test_root_without_its_capabilities_can_not_start(tmp_path: Path) -> None:
    """In a container that has dropped them, the handler does not stay root: it ends and says what is missing."""
    ran = start(write_config(tmp_path), "setpriv", "--bounding-set=-all", "--inh-caps=-all")
    assert ran.returncode == 2
    assert f"can't become [server] user {ACCOUNT}: Operation not permitted" in ran.stderr
    assert "CAP_SETUID" in ran.stderr


ORDINARY = """
import pwd, sys
from breakglass.cli import account, main
from breakglass.server import server
from breakglass.server.server import load_late_modules
load_late_modules()
account.become(pwd.getpwnam(sys.argv.pop(1)))
sys.exit(main.main())
"""


@pytest.mark.all
def test_an_ordinary_user_with_a_capability_loses_it(tmp_path: Path) -> None:
    """A handler that is started with CAP_NET_BIND_SERVICE and without root has none when it answers."""
    path, port = write_config(tmp_path, ""), reserve_port()
    environment = {**os.environ, "BREAKGLASS_CONFIG": str(path), "PORT": str(port)}
    command = [sys.executable, "-c", ORDINARY, ACCOUNT, "serve"]
    with subprocess.Popen(command, env=environment, cwd="/", stdout=subprocess.DEVNULL) as process:
        wait_answering(port, process)
        [pid] = answering(port)
        status = Path(f"/proc/{pid}/status").read_text()
        process.terminate()
        assert process.wait(60) == 0
    assert find_privileges(status) == []


def test_a_privilege_is_found() -> None:
    """What the start looks at at its end: each way to be more than an ordinary user shows."""
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


_KEYRING = """
import ctypes, os, pwd, sys
from breakglass.cli.account import become
add_key, keyctl = {"x86_64": (248, 250), "aarch64": (217, 219)}[os.uname().machine]
call, session, description = ctypes.CDLL(None).syscall, -3, b"breakglass-test"
call(keyctl, 1, None)
call(add_key, b"user", description, b"secret", 6, session)
def search(): print(call(keyctl, 10, session, b"user", description, 0) > 0)
search()
become(pwd.getpwnam(sys.argv[1]))
search()
"""


def test_roots_keys_in_the_kernel_are_not_the_handlers() -> None:
    """A session's keyring has what its login put there, and who has the keyring can read that, whatever its user."""
    ran = subprocess.run([sys.executable, "-c", _KEYRING, ACCOUNT], stdout=subprocess.PIPE, text=True, check=False)
    assert ran.stdout.split() == ["True", "False"], "if the first is False, this system allows no keys"


_TYPING = """
import fcntl, os, pwd, sys, termios
from breakglass.cli.account import become
if os.fork():
    sys.exit(os.wait()[1])  # a shell, which leads the session
become(pwd.getpwnam(sys.argv[1]))
try:
    fcntl.ioctl(0, termios.TIOCSTI, b"x")
    os.write(1, b"typed")
except OSError:
    os.write(1, b"refused")
"""


def test_the_handler_types_nothing_in_roots_terminal() -> None:
    """Root's shell would run it once the handler has ended. Kernels without legacy_tiocsti refuse it to everyone."""
    pid, terminal = os.forkpty()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", _TYPING, ACCOUNT])
    output = b""
    with open(terminal, "rb", buffering=0) as opened, contextlib.suppress(OSError):  # EIO: the other end is closed
        while piece := opened.read(4096):
            output += piece
    os.waitpid(pid, 0)
    assert output == b"refused"


def test_an_id_without_an_account_has_a_name_and_a_home() -> None:
    """Asyncssh asks for both before it connects; a container's user may have neither."""
    program = """
import getpass, os, pathlib
from breakglass.cli.account import name_this_user
os.environ.clear()
os.setresuid(2147480000, 2147480000, 2147480000)
name_this_user()
print(getpass.getuser(), pathlib.Path.home())
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ran.stdout == "breakglass /nonexistent\n", ran.stderr


TOKEN = "bgt_" + "m" * 43


def program(hidden: Path) -> tuple[str, ...]:
    """Return a handler's program whose libraries are in a directory that only root can enter."""
    code = (
        f"import sys; sys.path.append({str(hidden / 'lib')!r}); from breakglass.cli.main import main; sys.exit(main())"
    )
    return ("-S", "-P", "-c", code)


@pytest.mark.all
@pytest.mark.real("sshd")
def test_the_handler_needs_no_file_of_its_libraries(sshd: Sshd, tmp_path: Path) -> None:
    """Its libraries are where only root can go, as in a checkout below /root: verbs and [metrics] work."""
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    (hidden / "lib").symlink_to(Path(pytest.__file__).parents[1])
    service = Service(tmp_path, port=sshd.port, key=sshd.power_key, host_key=[sshd.host_key], program=program(hidden))
    try:
        service.answering()
        assert service.pve("reset").json["outcome"] == "done"
        assert b"<title>" in service.send("GET", "/").body
        service.config.write_text(f'{service.config.read_text()}\n[metrics]\ntoken = "{TOKEN}"\n')
        signal_process(service.process.pid, signal.SIGHUP)
        service.logged('"reload"')
        assert service.send("GET", "/metrics", headers={"authorization": f"Bearer {TOKEN}"}).status == 200
        assert service.pve("status").json["outcome"] == "done"
    finally:
        service.stop()
