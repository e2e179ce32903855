"""The real key line with real OpenSSH, which runs each key's forced command and nothing else."""

import asyncio
import random
import socket
import subprocess
from collections.abc import AsyncIterator

import asyncssh
import pytest

from breakglass.demo.proxmox.world import World

from ..support.agent import journal_of
from ..support.sshd import Sshd
from ..support.stages import memory

pytestmark = [pytest.mark.real("sshd"), pytest.mark.shared("world", "sshd")]

AT_ONCE = 5  # sshd allows more on one connection
HOSTILE = [
    *(b"", b" ", b"-", b"--help", b"-c reset", b"*", b"/*/*", b"~"),
    *(b"$(reset)", b"`reset`", b"reset;reset", b"reset && reset", b"reset|sh", b"reset\nreset", b"reset\n", b"reset\r"),
    *(b"reset\x1b[2J", b"reset\xff\xfe", "r\u0435set".encode(), "reset\u202e".encode(), "\u2028reset".encode()),
    *(b"sftp", b"internal-sftp", b"scp -t /", b"rsync --server . /"),
    *(b"reset vm=102 vm=102", b"reset id=../../x", b"reset note=$(id)", b"x" * 100_000, b"reset id=" + b"a" * 20_000),
]
_DICE = random.Random(102)  # the same every time
ALPHABET = b"reset vm=102id-;|&$`'\"\\*?<>()\n\r\t\x1b\x7f\x80\xff/.~!#"
FUZZ = [bytes(_DICE.choices(ALPHABET, k=_DICE.randrange(1, 60))) for _ in range(60)]


def test_the_read_only_key_gets_16_for_a_reset(sshd: Sshd) -> None:
    """Its own command= is used, because no ForceCommand overrides it. A bare word from a keyboard works."""
    for verb, code in (("reset", 16), ("status", 0)):
        command = [*sshd.client(sshd.read_only_key), verb]
        ran = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
        assert ran.returncode == code
        assert ran.stdout.startswith("approval-required: reset\n") == (verb == "reset")


@pytest.fixture
async def connection(sshd: Sshd) -> AsyncIterator[asyncssh.SSHClientConnection]:
    key = asyncssh.import_private_key(sshd.power_key)
    pin = asyncssh.import_known_hosts(f"[127.0.0.1]:{sshd.port} {sshd.host_key}\n")
    options = {"username": "breakglass", "client_keys": [key], "known_hosts": pin, "config": None, "agent_path": None}
    async with asyncssh.connect("127.0.0.1", sshd.port, **options) as made:
        yield made


def logged(journal: socket.socket) -> list[str]:
    lines = []
    try:
        while True:
            lines.append(journal.recv(65536).decode())
    except BlockingIOError:
        return lines


@pytest.mark.all
async def test_each_command_outside_the_grammar_is_refused_and_logged_once(
    world: World, connection: asyncssh.SSHClientConnection
) -> None:
    """Each ends with exit 10 and one printable line in the journal. The VM and its records do not change."""
    before, jobs = world.pid, memory(world, "jobs")
    known = set(jobs.iterdir()) if jobs.exists() else set()
    commands = [*HOSTILE, *FUZZ]
    with journal_of(world) as journal:
        for some in (commands[n : n + AT_ONCE] for n in range(0, len(commands), AT_ONCE)):
            ran = await asyncio.gather(
                *(connection.run(command, encoding=None, stdin=asyncssh.DEVNULL) for command in some)
            )
            assert [each.exit_status for each in ran] == [10] * len(some)
            lines = logged(journal)
            assert len(lines) == len(some)
            assert all(line.isprintable() and len(line) < 1000 for line in lines)
    assert world.pid == before
    assert (set(jobs.iterdir()) if jobs.exists() else set()) == known


async def test_no_forwarding_subsystem_or_terminal_is_opened(
    sshd: Sshd, connection: asyncssh.SSHClientConnection
) -> None:
    """OpenSSH refuses forwarding to another port, listening, subsystems, shells and terminals."""
    with pytest.raises(asyncssh.ChannelOpenError):
        await connection.open_connection("127.0.0.1", sshd.port)
    with pytest.raises(asyncssh.ChannelListenError):
        await connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", sshd.port)
    for session in ({"subsystem": "sftp"}, {}, {"command": "reset; id"}):
        opened = await connection.create_process(stdin=asyncssh.DEVNULL, **session)
        assert (await opened.wait()).exit_status == 10
    with pytest.raises(asyncssh.ChannelOpenError):
        await connection.create_process("status", term_type="xterm", stdin=asyncssh.DEVNULL)
