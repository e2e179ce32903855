"""Framing: the host's messages, in whatever pieces they come, and a socket that keeps no unsent bytes."""

import asyncio
import json
import socket
import struct
import tracemalloc
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from breakglass.base.allowance import LINE_BYTES
from breakglass.config.model import Address, Host
from breakglass.proxmox.channel import LINES_AT_ONCE, Channel
from breakglass.proxmox.link import open_link
from breakglass.proxmox.outcome import Message

from ..support.sshd import Sshd

pytestmark = pytest.mark.shared("world", "sshd")

PIECE = bytearray(b"x") * 65536
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def framed(data: bytes, cuts: list[int]) -> list[Message]:
    """Feed a channel in pieces, and return the messages for tag 1."""
    channel: Channel = Channel()
    queue: asyncio.Queue[Message | None] = asyncio.Queue()
    channel._waiting["1"] = queue
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for begin, end in pairwise(edges):
        channel.data_received(data[begin:end], None)
    return [message for message in (queue.get_nowait() for _ in range(queue.qsize())) if message is not None]


@pytest.mark.all
@given(st.lists(TEXT, max_size=5), st.lists(st.integers(0, 10_000), max_size=8))
@settings(deadline=None, max_examples=500)
def test_messages_survive_any_cut(texts: list[str], cuts: list[int]) -> None:
    """Lines are joined again wherever the network cut them, even in the middle of a character."""
    sent: list[Message] = [{"type": "output", "stream": "stdout", "text": text} for text in texts]
    lines = [json.dumps({"tag": "1", **message}, ensure_ascii=False).encode() + b"\n" for message in sent]
    assert framed(b"".join(lines), cuts) == sent


@given(st.binary(), st.lists(st.integers(0, 10_000), max_size=4))
@settings(deadline=None)
def test_garbage_on_the_session_is_ignored(data: bytes, cuts: list[int]) -> None:
    """Lines of another kind are ignored and raise nothing."""
    whole: Message = {"type": "result", "outcome": "done", "exit_code": 0}
    assert framed(data + b"\n" + json.dumps({"tag": "1", **whole}).encode() + b"\n", cuts)[-1:] == [whole]


async def test_a_host_that_sends_many_lines_at_once_gets_a_few_steps_of_the_event_loop() -> None:
    """Other ready tasks run between the steps. The end of the channel comes after all lines.

    Meanwhile, nothing more is read from the connection.
    """
    channel, count, steps = Channel(), 10_000, 0
    reads: list[bool] = []
    chan = SimpleNamespace(pause_reading=lambda: reads.append(False), resume_reading=lambda: reads.append(True))
    channel.connection_made(chan)  # type: ignore[arg-type]
    queue = channel._waiting["1"] = asyncio.Queue()
    good: Message = {"type": "result", "outcome": "done", "exit_code": 0}
    channel.data_received((json.dumps({"tag": "1", **good}).encode() + b"\n") * count, None)
    channel.connection_lost(None)
    assert queue.qsize() == LINES_AT_ONCE
    while not channel.closed:
        steps += 1
        await asyncio.sleep(0)
    assert steps >= count // LINES_AT_ONCE
    assert (len(reads), reads[-1], any(reads[:-1])) == (steps + 1, True, False)
    assert [queue.get_nowait() for _ in range(queue.qsize())] == [good] * count + [None]


async def test_a_host_that_never_ends_a_line_is_lost_and_keeps_no_memory() -> None:
    """The handler keeps only a bounded part of a line. Waiting requests get an error, and the session ends."""
    channel: Channel = Channel()
    queue: asyncio.Queue[Message | None] = asyncio.Queue()
    channel._waiting["1"] = queue
    tracemalloc.start()
    for _ in range(4 * LINE_BYTES // len(PIECE)):
        channel.data_received(bytes(PIECE), None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * LINE_BYTES
    assert queue.get_nowait() is None
    assert channel.closed


@pytest.mark.real("sshd")
async def test_unsent_bytes_are_discarded_with_the_connection(sshd: Sshd) -> None:
    """With TCP_USER_TIMEOUT of 15 s and SO_LINGER 0, an abandoned request can't arrive minutes later."""
    address = Address("breakglass", "127.0.0.1", sshd.port)
    link = await open_link(Host("pve1", address, sshd.power_key, host_keys=(sshd.host_key,)))
    try:
        sock = link.conn.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == struct.pack("ii", 1, 0)
    finally:
        link.abort()
