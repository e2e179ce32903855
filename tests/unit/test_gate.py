"""Strangers' requests wait. Each iteration of the event loop answers one, so that a verb is not delayed."""

import asyncio
from itertools import pairwise
from types import SimpleNamespace

from starlette.types import Message, Receive, Scope, Send

from breakglass.web.gate import OPEN, Gate, proving_headers

from ..support.rows import each_row


@each_row("path", [*sorted(OPEN), "/pve"])
def test_a_flood_is_answered_in_turns(path: str) -> None:
    """Requests that need or have no signature are answered one in each iteration of the event loop."""
    answered: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def flood() -> None:
        iterations = 0

        def count() -> None:
            nonlocal iterations
            iterations += 1
            asyncio.get_running_loop().call_soon(count)

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered.append(iterations)

        config = SimpleNamespace(callers=(), metrics=(), proxies=())
        scope = {"type": "http", "path": path, "method": "POST", "headers": [], "client": ("127.0.0.1", 1)}
        count()
        gate = Gate(app, lambda: config)  # type: ignore[arg-type,return-value]
        await asyncio.gather(*(gate(dict(scope), receive, send) for _ in range(20)))

    asyncio.run(flood())
    assert len(answered) == 20
    assert all(later > earlier for earlier, later in pairwise(answered))


def test_a_header_that_comes_twice_proves_nothing() -> None:
    """Two programs could disagree on which one counts."""
    headers = [(b"webhook-id", b"msg_12345678"), (b"accept", b"*/*"), (b"webhook-id", b"msg_12345679")]
    assert proving_headers({"headers": headers}) == {"webhook-id": "msg_12345678\nmsg_12345679"}
