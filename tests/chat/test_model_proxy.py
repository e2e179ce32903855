"""The proxy between claude and the model's API passes only claude's own requests, and adds the credential."""

import contextlib
import http.client
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from breakglass.chat.proxy import BODY_BYTES, CONNECTIONS
from breakglass.config.model_api import ModelApi

from ..support.certificates import make_certificate, tls_context
from ..support.model import Model
from ..support.model_proxy import MESSAGES, Relay, TurnProxy, UnixConnection, message, relay, tls_relay, turn_proxy
from ..support.peer import answering
from ..support.rows import each_row
from ..support.talk import fake

pytestmark = pytest.mark.slow

SECRET = "sk-ant-the-real-one"
WORDS = "one two three four five six seven"


@pytest.fixture(scope="module")
def api(model: Model) -> ModelApi:
    return ModelApi("ANTHROPIC_API_KEY", SECRET, model.url)


@pytest.fixture(scope="module")
def proxy(api: ModelApi) -> Iterator[TurnProxy]:
    with turn_proxy(api) as proxy:
        yield proxy


# --- requests that pass ---


def test_only_headers_that_are_listed_are_passed_on(proxy: TurnProxy, model: Model) -> None:
    """The API gets our credential in the place of any other, and no other header that could have an effect."""
    kept = {"anthropic-beta": "a", "accept-encoding": "br", "x-app": "cli", "x-stainless-os": "Linux"}
    dropped = dict.fromkeys(("cookie", "x-api-key", "authorization", "x-forwarded-for", "anthropic-workspace-id"), "z")
    assert proxy.ask(headers={**kept, **dropped, "connection": "x-app"})[0] == 200
    own = {"host": model.url.removeprefix("http://"), "x-api-key": SECRET}
    assert {**model.asked[-1].headers, "content-length": ""} == {**kept, **own, "content-length": ""}


def test_errors_of_the_api_are_passed_on(proxy: TurnProxy) -> None:
    """Errors keep their status, their text and the time to wait. A part of an answer must not look like a whole one."""
    with proxy.open(message(fake({"text": "x", "fail": 429, "retry_after": 7}))) as response:
        assert json.loads(response.read())["type"] == "error"
        assert (response.status, response.headers["retry-after"]) == (429, "7")
    broken = pytest.raises((http.client.IncompleteRead, ConnectionResetError))
    with proxy.open(message(fake({"text": WORDS, "fail": "cut"}))) as response, broken:
        response.read()


# --- requests that don't pass ---


ELSEWHERE = [
    ("GET", MESSAGES),
    ("POST", "/v1/files"),
    ("POST", "/v1/messages/batches"),
    ("POST", "/v1/messages/../files"),
    ("POST", "/v1/messages?beta=true&x=1"),
    ("POST", "http://else.example/v1/messages"),
]


def refused(proxy: TurnProxy, model: Model, body: bytes, method: str, target: str) -> str:
    """Send a request that does not reach the API; return its status and why, as claude is told."""
    before = len(model.asked) + len(model.listed)
    with proxy.open(body, {}, method, target) as response:
        said = response.read().decode()
    assert len(model.asked) + len(model.listed) == before
    return f"{response.status} {json.loads(said)['error']['message'] if said else ''}"


def in_message(*content: object, **fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": list(content), **fields}]}


IMAGE = {"type": "image", "source": {"type": "url", "url": "https://else.example/?what=claude-has-read"}}
DEFINED = {"type": "tool_definition", "definition": {"type": "web_fetch_20250910", "name": "web_fetch"}}
WAYS_OUT: dict[str, tuple[dict[str, object], str]] = {
    "a search": ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, 'tool "web_search"'),
    "a search by another name": ({"tools": [{"type": "web_search_20250305", "name": "Bash"}]}, 'kind of tool "web_se'),
    "code": ({"tools": [{"type": "code_execution_20250522", "name": "Read"}]}, 'kind of tool "code_execution'),
    "a tool with more": ({"tools": [{"name": "Bash", "Type": "web_fetch_20250910"}]}, 'field of a tool "Type"'),
    "another server": ({"mcp_servers": [{"type": "url", "url": "https://else.example"}]}, 'field "mcp_servers"'),
    "a container": ({"container": {"skills": []}}, 'field "container"'),
    "an address": (in_message(IMAGE), 'source "url"'),
    "an address in an answer": (in_message({"type": "tool_result", "content": [IMAGE]}), 'source "url"'),
    "an address in the brief": ({"system": [IMAGE]}, 'source "url"'),
    "a source that is no object": (in_message({"type": "image", "source": "https://else.example"}), "not an object"),
    "a file": (in_message({"type": "document", "source": {"type": "file", "file_id": "f"}}), 'source "file"'),
    "a tool in a message": (in_message({"type": "tool_addition", "tool": DEFINED}, role="system"), '"tool_addition"'),
    "a call of a server": (in_message({"type": "server_tool_use", "name": "web_fetch"}), 'block "server_tool_use"'),
    "a message with more": (in_message(tools=[]), 'field of a message "tools"'),
    "tools that are no list": ({"tools": {"type": "web_search_20250305"}}, "not an object of unambiguous JSON"),
}


TWO_READINGS = [
    b"[]",
    b'{"model": "m", "tools": [], "messages": [], "tools": [{"type": "web_search_20250305"}]}',
    '{"model": "m"}'.encode("utf-16"),
    b'{"messages": ' + b"[" * 100_000,
]


REFUSED = [
    *((b"{}", way, "404", "") for way in ELSEWHERE),
    *((message("hello", **fields), ("POST", MESSAGES), "400", words) for fields, words in WAYS_OUT.values()),
    *((body, ("POST", MESSAGES), "400", "unambiguous JSON") for body in TWO_READINGS),
]


@each_row("body, way, status, words", REFUSED)
def test_what_would_be_a_way_out_is_refused(
    proxy: TurnProxy, model: Model, body: bytes, way: tuple[str, str], status: str, words: str
) -> None:
    """The credential is used only for messages, and no message that the API could read differently is passed on.

    The API has tools with access to the network, and claude, which has none, could use them.
    """
    said = refused(proxy, model, body, *way)
    assert (said.split()[0], words in said) == (status, True), said


GOOD = "POST /v1/messages HTTP/1.1\r\nhost: a\r\n"
CHUNKED = f"{GOOD}transfer-encoding: chunked\r\n"
MALFORMED = {
    "no host": ("POST /v1/messages HTTP/1.1\r\n\r\n", b"400"),
    "two lengths": (f"{GOOD}content-length: 2\r\ncontent-length: 3\r\n\r\n", b"400"),
    "a length with a sign": (f"{GOOD}content-length: +2\r\n\r\n", b"400"),
    "a space in a name": (f"{GOOD}content-length : 2\r\n\r\n", b"400"),
    "another coding": (f"{GOOD}transfer-encoding: gzip, chunked\r\n\r\n", b"400"),
    "two codings": (f"{CHUNKED}transfer-encoding: identity\r\n\r\n", b"400"),
    "a chunk that is longer": (f"{CHUNKED}\r\n1\r\n{{}}\r\n0\r\n\r\n", b"400"),
    "a head without an end": (f"{GOOD}x-a: {'a' * 100_000}", b"400"),
    "too long": (f"{CHUNKED}\r\n{BODY_BYTES + 1:x}\r\n{' ' * (BODY_BYTES + 1)}", b"413"),
}


@each_row("text, status", MALFORMED.values())
def test_a_request_that_another_server_could_read_otherwise_is_refused(
    proxy: TurnProxy, model: Model, text: str, status: bytes
) -> None:
    """Neither the request nor later bytes on its connection reach the API."""
    before = len(model.asked)
    smuggled = f"{GOOD}content-length: {len(message('x'))}\r\n\r\n{message('x').decode()}"
    with contextlib.closing(UnixConnection(proxy.path)) as connection:
        connection.connect()
        with contextlib.suppress(BrokenPipeError):  # it is refused before its end
            connection.sock.sendall(f"{text}{smuggled}".encode())
        with connection.sock.makefile("rb") as answer, contextlib.suppress(ConnectionResetError):
            assert answer.readline().split(b" ")[1] == status
            assert b"HTTP/1.1 " not in answer.read()
    assert len(model.asked) == before


@pytest.mark.real("root")
def test_its_memory_is_closed_to_its_own_user(api: ModelApi) -> None:
    """A process of the same user can't read its memory, and no file that all may read has the credential."""
    with turn_proxy(api, uid=65534) as proxy:
        assert proxy.ask()[0] == 200  # it answers, so the proxy has finished its set-up
        there = Path(f"/proc/{proxy.pid}")
        assert "\nUid:\t65534" in (there / "status").read_text()
        assert (there / "mem").stat().st_uid == 0
        assert SECRET.encode() not in (there / "cmdline").read_bytes() + (there / "environ").read_bytes()


# --- the connection to the API ---


@pytest.fixture
def tls(tmp_path: Path, model: Model) -> Iterator[tuple[Relay, str]]:
    """TLS before the model's API, for the name localhost, and the text of its authority."""
    with tls_relay(model, tls_context(tmp_path, "localhost")) as network:
        yield network, (tmp_path / "ca.pem").read_text()


def test_a_certificate_of_the_named_authority_is_good(model: Model, api: ModelApi, tls: tuple[Relay, str]) -> None:
    """The API is reached over TLS, with one connection for one request after another."""
    network, authority = tls
    with turn_proxy(api._replace(base_url=f"https://localhost:{network.port}"), authority) as proxy:
        for _ in range(3):
            assert proxy.ask()[0] == 200
    assert network.taken <= 2  # one was opened early, and one served an earlier request
    assert model.asked[-1].headers["x-api-key"] == SECRET
    assert model.asked[-1].headers["host"] == f"localhost:{network.port}"


@pytest.mark.parametrize("fault", ["another authority", "another name"])
def test_a_certificate_that_is_not_good_is_refused(model: Model, api: ModelApi, tmp_path: Path, fault: str) -> None:
    """Nothing is sent, and claude gets the reason."""
    before = len(model.asked)
    context = tls_context(tmp_path / "ours", "else.example" if fault == "another name" else "localhost")
    authority = tmp_path / "ours/ca.pem" if fault == "another name" else make_certificate(tmp_path / "others")
    with (
        tls_relay(model, context) as network,
        turn_proxy(api._replace(base_url=f"https://localhost:{network.port}"), authority.read_text()) as proxy,
    ):
        status, body = proxy.ask()
    assert (status, json.loads(body)["error"]["type"]) == (502, "api_error")
    assert "certificate" in body
    assert len(model.asked) == before


def test_a_proxy_of_the_network_sees_no_credential(model: Model, api: ModelApi, tls: tuple[Relay, str]) -> None:
    """With https_proxy the connection goes through it, as an encrypted one, with the proxy's own password."""
    url = f"https://localhost:{tls[0].port}"
    with relay(None) as network:
        proxied = api._replace(base_url=url, https_proxy=f"http://me:p%40ss@localhost:{network.port}")
        with turn_proxy(proxied, tls[1]) as proxy:
            assert proxy.ask()[0] == 200
    assert network.seen.startswith(f"CONNECT localhost:{tls[0].port} HTTP/1.".encode())
    assert b"proxy-authorization: Basic bWU6cEBzcw==\r\n" in network.seen
    assert SECRET.encode() not in network.seen
    assert model.asked[-1].headers["x-api-key"] == SECRET


def test_silence_ends(api: ModelApi, model: Model) -> None:
    """A silent API is a 502. A client that sends no whole request loses its connection."""
    with turn_proxy(api, silent=0.5) as proxy, contextlib.closing(UnixConnection(proxy.path)) as half:
        half.connect()
        half.sock.sendall(GOOD.encode())
        assert half.sock.recv(1) == b""
        status, body = proxy.ask(fake({"text": WORDS, "fail": "mute"}))
    assert (status, json.loads(body)["error"]["message"]) == (502, f"{model.url}: timed out")


def test_an_api_that_closes_each_connection(api: ModelApi) -> None:
    """A connection that the API has since closed is no error, and headers of one connection are not passed on."""
    answer = b"HTTP/1.1 200 OK\r\nconnection: close, x-hop\r\nx-hop: 1\r\nset-cookie: a=b\r\n\r\n{}"
    with answering(answer) as server, turn_proxy(api._replace(base_url=server.url)) as proxy:
        for _ in range(3):
            with proxy.open(message("hello")) as response:
                assert (response.status, response.read()) == (200, b"{}")
                assert {"set-cookie", "x-hop"}.isdisjoint(response.headers)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the program that answers there does not speak HTTP/1.1"),
        (b"", "the connection ended"),
    ],
)
def test_what_is_no_answer_of_an_api(api: ModelApi, answer: bytes, words: str) -> None:
    """Another protocol is not passed on, and a received request is not sent twice."""
    with answering(answer) as server, turn_proxy(api._replace(base_url=f"{server.url}/below/")) as proxy:
        status, body = proxy.ask()
        assert server.lines[0] == f"POST /below{MESSAGES} HTTP/1.1\r\n".encode()
        assert len(server.lines) <= (1 if answer else 2)
    assert (status, words in body) == (502, True), body


def test_no_more_than_some_are_served_at_once(proxy: TurnProxy, model: Model) -> None:
    """A further request waits for a place and gets the next one."""
    before = len(model.asked)
    with ExitStack() as open_ones, contextlib.closing(UnixConnection(proxy.path)) as late:
        for _ in range(CONNECTIONS):
            open_ones.enter_context(proxy.open(message(fake({"text": WORDS, "wait": "places"}))))
        late.request("POST", MESSAGES, message("hello"))
        assert len(model.asked) == before + CONNECTIONS
        open_ones.close()  # clients that leave in the middle
        model.release("places")
        assert late.getresponse().status == 200
