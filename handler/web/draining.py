"""How the handler stops taking requests: each connection that a client has made gets its answer.

A listening socket that is closed resets the connections that wait in its queue. A proxy has often sent its request on
them by then. It may not send a verb elsewhere after that, and answers 502. A refused connection is no problem: a proxy
asks the next handler.
"""

import asyncio
import ctypes
import select
import socket
from collections.abc import Sequence

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

ANSWER_SECONDS = 3.0  # for requests under way, before they get what there is of their answers
IDLE_SECONDS = 0.5  # for a connection without a request: one may be on its way
_ACCEPT_SECONDS = 1.0  # to accept what waits, if there are descriptors left
_LOOK_SECONDS = 0.02
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python has no name for it


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def drop_new_connections(listening: socket.socket) -> None:
    """Have the kernel drop what comes to this socket, so that its queue grows no more (socket(7), SO_ATTACH_FILTER).

    A client that connects sends its first packet again after a second. By then the socket is closed, and it is refused.
    """
    instruction = _Instruction(6, 0, 0, 0)  # BPF_RET, of no byte
    program = _Program(1, ctypes.pointer(instruction))
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(program))
    except OSError:
        pass  # the queue may grow until it is closed, for some microseconds


async def drain(server: uvicorn.Server, sockets: Sequence[socket.socket]) -> None:
    """Take no further connection; answer on the open ones, for ANSWER_SECONDS at most."""
    state = server.server_state
    for connection in state.connections:
        if isinstance(connection, HttpToolsProtocol) and connection.cycle is not None:
            connection.cycle.keep_alive = False
    await _accept_waiting(sockets)
    for listening in server.servers:
        listening.close()
    loop = asyncio.get_running_loop()
    began = loop.time()
    while state.connections and loop.time() < began + (ANSWER_SECONDS if state.tasks else IDLE_SECONDS):  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_SECONDS)


async def _accept_waiting(sockets: Sequence[socket.socket]) -> None:
    """Return once the event loop has accepted every connection that waited."""
    for listening in sockets:
        drop_new_connections(listening)
    loop = asyncio.get_running_loop()
    end = loop.time() + _ACCEPT_SECONDS
    while select.select(sockets, [], [], 0)[0] and loop.time() < end:  # noqa: ASYNC110  # nothing tells of that
        await asyncio.sleep(_LOOK_SECONDS)
    await asyncio.sleep(_LOOK_SECONDS)  # asyncio makes transports in tasks, which need the server to be open
