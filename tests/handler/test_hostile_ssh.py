"""A line over SSH that is outside the grammar is refused and logged once, and does nothing."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import asyncssh
import pytest

from breakglass.demo.proxmox.world import World

from ..conftest import serving
from ..support.agent import journal_of
from ..support.sshd import Sshd
from ..support.stages import memory

pytestmark = [pytest.mark.real("sshd"), pytest.mark.slow]

AT_ONCE = 5  # sshd allows more on one connection
TOO_LONG = 128 * 1024  # the limit of one argument of execve(2), and the shell gets the command as one argument

HOSTILE = [
    b"",
    b" ",
    b"-",
    b"--help",
    b"-c reset",
    b"*",
    b"/*/*",
    b"~",
    b"$(reset)",
    b"`reset`",
    b"reset;reset",
    b"reset && reset",
    b"reset|sh",
    b"reset\nreset",
    b"reset\n",
    b"reset\r",
    b"reset\x1b[2J",
    b"reset\xff\xfe",
    "r\u0435set".encode(),  # a Cyrillic letter
    "reset\u202e".encode(),
    "\u2028reset".encode(),
    b"sftp",
    b"internal-sftp",
    b"scp -t /",
    b"rsync --server . /",
    b"reset vm=102 vm=102",
    b"reset id=../../x",
    b"reset note=$(id)",
    b"x" * 100_000,
    b"reset id=" + b"a" * 20_000,
]
_DICE = random.Random(102)  # the same every time
ALPHABET = b"reset vm=102id-;|&$`'\"\\*?<>()\n\r\t\x1b\x7f\x80\xff/.~!#"
FUZZ = [bytes(_DICE.choices(ALPHABET, k=_DICE.randrange(1, 60))) for _ in range(60)]


@pytest.fixture(scope="module")
def host(directory: Path) -> Iterator[tuple[Sshd, socket.socket]]:
    """A server, and the host's journal."""
    with closing(World(directory)) as world:
        world.begin()
        with serving(world) as server, journal_of(world) as journal:
            yield server, journal


@pytest.fixture
async def connection(host: tuple[Sshd, socket.socket]) -> AsyncIterator[asyncssh.SSHClientConnection]:
    server = host[0]
    key = asyncssh.import_private_key(server.power_key)
    pin = asyncssh.import_known_hosts(f"[127.0.0.1]:{server.port} {server.host_key}\n")
    options = {"username": "breakglass", "client_keys": [key], "known_hosts": pin, "config": None, "agent_path": None}
    async with asyncssh.connect("127.0.0.1", server.port, **options) as made:
        yield made


async def exit_status(connection: asyncssh.SSHClientConnection, command: bytes) -> int | None:
    """Send exactly these bytes, even if they are not valid text."""
    ran = await connection.run(command, encoding=None, stdin=asyncssh.DEVNULL)
    return ran.exit_status


def logged(journal: socket.socket) -> list[str]:
    lines = []
    try:
        while True:
            lines.append(journal.recv(65536).decode())
    except BlockingIOError:
        return lines


@pytest.mark.all
async def test_each_command_outside_the_grammar_is_refused_and_logged_once(
    host: tuple[Sshd, socket.socket], connection: asyncssh.SSHClientConnection
) -> None:
    """Each ends with exit 10 and one printable line in the journal. The VM and its records do not change."""
    server, journal = host
    before = server.world.pid
    commands = [*HOSTILE, *FUZZ]
    for some in (commands[n : n + AT_ONCE] for n in range(0, len(commands), AT_ONCE)):
        logged(journal)
        statuses = await asyncio.gather(*(exit_status(connection, command) for command in some))
        assert statuses == [10] * len(some)
        lines = logged(journal)
        assert len(lines) == len(some)
        assert all(line.isprintable() and len(line) < 1000 for line in lines)
    assert server.world.pid == before
    assert not memory(server.world, "jobs").exists()


async def test_a_command_too_long_for_execve_never_reaches_the_agent(
    host: tuple[Sshd, socket.socket], connection: asyncssh.SSHClientConnection
) -> None:
    """A command that the kernel can't pass to a program never reaches the host agent. The connection continues."""
    _, journal = host
    logged(journal)
    status = await exit_status(connection, b"reset " + b"x" * TOO_LONG)
    assert status not in (0, None)
    assert logged(journal) == []
    assert await exit_status(connection, b"status") == 0


async def test_a_nul_ends_the_connection(
    host: tuple[Sshd, socket.socket], connection: asyncssh.SSHClientConnection
) -> None:
    """OpenSSH accepts no command with a NUL in it, so the words before the NUL are not executed."""
    with pytest.raises(asyncssh.Error):
        await exit_status(connection, b"reset\0 id=after-a-nul")
    assert not memory(host[0].world, "last").exists()


async def test_no_forwarding_subsystem_or_terminal_is_opened(
    host: tuple[Sshd, socket.socket], connection: asyncssh.SSHClientConnection
) -> None:
    """OpenSSH refuses forwarding to another port, listening, subsystems, terminals and the client's environment."""
    server = host[0]
    with pytest.raises(asyncssh.ChannelOpenError):
        await connection.open_connection("127.0.0.1", server.port)
    with pytest.raises(asyncssh.ChannelListenError):
        await connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", server.port)
    subsystem = await connection.create_process(subsystem="sftp", stdin=asyncssh.DEVNULL)
    assert (await subsystem.wait()).exit_status == 10
    shell = await connection.create_process(stdin=asyncssh.DEVNULL)
    assert (await shell.wait()).exit_status == 10
    with pytest.raises(asyncssh.ChannelOpenError):
        await connection.create_process("status", term_type="xterm", stdin=asyncssh.DEVNULL)
