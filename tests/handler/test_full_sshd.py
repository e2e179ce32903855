"""A host whose sshd takes no more logins, because others hold connections open without logging in."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from breakglass.demo.proxmox.world import World

from ..conftest import connected
from ..support.sshd import Sshd, descendants, kill_all

pytestmark = [pytest.mark.real("sshd", "qemu"), pytest.mark.slow, pytest.mark.all]
MOST = 3


@pytest.fixture
def sshd(world: World) -> Iterator[Sshd]:
    """A server that lets only this many connections wait for their login."""
    server = Sshd(world, f"PerSourcePenalties no\nMaxStartups {MOST}", name="full")
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def without_login(sshd: Sshd, number: int) -> Iterator[None]:
    """Hold connections open that never log in."""
    with ExitStack() as held:
        for _ in range(number):
            connection = held.enter_context(socket.create_connection(("127.0.0.1", sshd.port), 20))
            assert connection.recv(100).startswith(b"SSH-2.0")
        yield


def test_a_handler_that_lost_its_session_and_gets_no_login(world: World, sshd: Sshd) -> None:
    """The answer says that the verb was not sent. Once there is room, the handler reconnects, and the same id acts."""
    with connected(world.directory, sshd) as service:
        its_session = descendants(sshd.process.pid)
        with without_login(sshd, MOST):
            kill_all(its_session)
            service.not_answering()
            answer = service.pve("reset", msg_id="msg_no-room-for-a-login").json
            assert (answer["outcome"], answer["reached"]) == ("unreached", False)
            assert "closed the connection before login" in answer["verdict"]["sentence"]
        service.answering()
        again = service.pve("reset", msg_id="msg_no-room-for-a-login", again=True).json
        assert (again["outcome"], again["attached"]) == ("done", False)
