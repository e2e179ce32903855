"""Framing: what the host said, whatever the pieces in which it comes; and a socket that keeps nothing for later."""

import asyncio
import json
import socket
import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from breakglass.config.model import Address, Vm
from breakglass.demo.proxmox.world import VMID
from breakglass.proxmox.link import Channel, open_link
from breakglass.proxmox.outcome import Lost, Message
from breakglass.proxmox.wire import exec_messages

from ..support.sshd import Sshd

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def framed(data: bytes, cuts: list[int]) -> list[Message]:
    """Feed a channel in pieces and return what reached the one who waits for tag 1."""
    channel: Channel = Channel()
    queue: asyncio.Queue[Message | None] = asyncio.Queue()
    channel._waiting["1"] = queue
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for begin, end in pairwise(edges):
        channel.data_received(data[begin:end], None)
    return [message for message in (queue.get_nowait() for _ in range(queue.qsize())) if message is not None]


@given(st.lists(TEXT, max_size=5), st.lists(st.integers(0, 10_000), max_size=8))
@settings(deadline=None)
def test_messages_survive_any_cut(texts: list[str], cuts: list[int]) -> None:
    """Lines are put together again wherever the network cut them, in the middle of a character too."""
    sent: list[Message] = [{"type": "output", "stream": "stdout", "text": text} for text in texts]
    lines = [json.dumps({"tag": "1", **message}, ensure_ascii=False).encode() + b"\n" for message in sent]
    assert framed(b"".join(lines), cuts) == sent


@given(st.binary(), st.lists(st.integers(0, 10_000), max_size=4))
@settings(deadline=None)
def test_garbage_on_the_session_harms_nobody(data: bytes, cuts: list[int]) -> None:
    """A session that says something else is heard by nobody and raises nothing."""
    whole: Message = {"type": "result", "outcome": "done", "exit_code": 0}
    assert framed(data + b"\n" + json.dumps({"tag": "1", **whole}).encode() + b"\n", cuts)[-1:] == [whole]


@pytest.mark.parametrize("line", [b"[]", b"1", b'{"tag":["1"]}', b'{"tag":{}}', b'"tag"', b"[" * 100_000, b"null"])
def test_odd_json_on_the_session_harms_nobody(line: bytes) -> None:
    """JSON of another shape is passed over."""
    assert framed(line + b"\n", []) == []


@given(TEXT, st.integers(0, 17))
@settings(deadline=None)
def test_a_whole_exec_answer_is_understood(text: str, code: int) -> None:
    """Everything before the trailer is output; the trailer is the result."""
    trailer = {"outcome": "done", "exit_code": code}
    body = text.replace("\r", "").encode()
    head = body if body.endswith(b"\n") or not body else body + b"\n"
    *output, result = exec_messages(head + b"#breakglass " + json.dumps(trailer).encode() + b"\n", b"", code)
    assert result == {"type": "result", **trailer}
    assert "".join(str(message["text"]) for message in output).encode() == head


WHOLE = b'text\n#breakglass {"outcome": "done", "exit_code": 0}\n'


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_an_exec_answer_cut_anywhere_is_lost(length: int) -> None:
    """Never a success that is missing a line."""
    with pytest.raises(Lost):
        exec_messages(WHOLE[:length], b"", 0)


@pytest.mark.parametrize("status", [None, 1, 255, -1])
def test_an_exit_status_that_disagrees_is_lost(status: int | None) -> None:
    """The trailer counts only when the exit status arrived and says the same."""
    with pytest.raises(Lost):
        exec_messages(WHOLE, b"", status)


@pytest.mark.real("sshd")
async def test_what_was_not_sent_dies_with_the_connection(sshd: Sshd) -> None:
    """TCP_USER_TIMEOUT of 15 s and SO_LINGER 0: a request that was given up can't arrive minutes later."""
    address = Address("breakglass", "127.0.0.1", sshd.port)
    link = await open_link(Vm("devvm", VMID, address, sshd.power_key, (sshd.host_key,)))
    sock = link.conn.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == struct.pack("ii", 1, 0)
    link.abort()
