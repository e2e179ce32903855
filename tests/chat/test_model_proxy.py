"""What stands between claude and the model's API: its own requests get through, with the credential, and no others."""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from breakglass.claude.model_requests import BODY_BYTES
from breakglass.config.model_api import CREDENTIALS, ModelApi

from ..support.model import Model
from ..support.model_proxy import MESSAGES, Authority, TurnProxy, answering, message, relay, turn_proxy, with_tls
from ..support.ports import reserve_port
from ..support.selection import sampled
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


# --- what gets through ---


@pytest.mark.parametrize("variable", sampled(CREDENTIALS, "ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN"))
def test_one_header_is_replaced(model: Model, variable: str) -> None:
    """The API gets the credential in the token's place, the other headers as claude sent them, and no cookie."""
    with turn_proxy(ModelApi(variable, SECRET, model.url)) as proxy:
        extra = {"anthropic-beta": "oauth-2025-04-20", "accept-encoding": "br", "x-app": "cli", "cookie": "a=b"}
        assert proxy.ask(headers=extra)[0] == 200
        assert SECRET not in json.dumps(proxy.variables)
    headers = model.asked[-1].headers
    name, value = next(iter(proxy.token.items()))
    assert headers[name] == value.replace(proxy.variables[variable], SECRET)
    assert {*extra, name, "host", "content-length"} - {"cookie"} == set(headers)
    assert {key: headers[key] for key in extra if key != "cookie"} | {"cookie": "a=b"} == extra
    assert headers["host"] == model.url.removeprefix("http://")
    assert proxy.variables[variable] not in json.dumps(dict(headers))


def test_a_stream_is_not_held_up(proxy: TurnProxy, model: Model) -> None:
    """The first words are here while the model still thinks about the next ones."""
    with proxy.open(proxy.token, message(fake({"text": WORDS, "wait": "streamed"}))) as response:
        seen = b""
        while b"one two" not in seen:
            piece = response.read1()
            assert piece, seen
            seen += piece
        assert b"seven" not in seen
        model.release("streamed")
        seen += response.read()
    assert b"message_stop" in seen


def test_an_answer_that_is_no_stream(proxy: TurnProxy, model: Model) -> None:
    """The second try of the CLI's asks for a whole answer."""
    status, body = proxy.ask(fake({"text": WORDS}), stream=False)
    assert (status, json.loads(body)["content"][0]["text"]) == (200, WORDS)


def test_requests_share_a_connection(proxy: TurnProxy) -> None:
    """A connection of claude's serves one request after another."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)) as connection:
        connection.connect()
        own = connection.sock
        for _ in range(3):
            connection.request("POST", MESSAGES, message("hello"), proxy.token)
            with connection.getresponse() as response:
                assert b"message_stop" in response.read()
            assert connection.sock is own


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 529])
def test_errors_of_the_api_are_passed_on(proxy: TurnProxy, status: int) -> None:
    """With their status, their words and how long to wait."""
    with proxy.open(proxy.token, message(fake({"text": "x", "fail": status, "retry_after": 7}))) as response:
        error = json.loads(response.read())
        assert (response.status, response.headers["retry-after"]) == (status, "7")
    assert error["type"] == "error"
    assert error["request_id"]


@pytest.mark.parametrize("failure", sampled(["cut", "reset"], "cut"))
def test_an_answer_that_breaks_off_does_so_here(proxy: TurnProxy, failure: str) -> None:
    """A part of an answer is not made to look like all of it."""
    broken = pytest.raises((http.client.IncompleteRead, ConnectionResetError))
    with proxy.open(proxy.token, message(fake({"text": WORDS, "fail": failure}))) as response, broken:
        response.read()


# --- what does not ---


BAD_TOKENS = {
    "none": {},
    "another": {"x-api-key": "turn-of-another"},
    "empty": {"x-api-key": ""},
    "the real one": {"x-api-key": SECRET},
    "as another kind": {"authorization": "Bearer {token}"},
    "not ASCII": {"x-api-key": "turn-\xe9"},
    "cut": {"x-api-key": "{less}"},
}


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_a_request_without_the_token_is_refused(proxy: TurnProxy, model: Model, name: str) -> None:
    """It gets a 401 and does not reach the API."""
    before, token = len(model.asked), proxy.token["x-api-key"]
    headers = {key: value.format(token=token, less=token[:-1]) for key, value in BAD_TOKENS[name].items()}
    with proxy.open(headers, message("hello")) as response:
        assert (response.status, json.loads(response.read())["error"]["type"]) == (401, "authentication_error")
    assert len(model.asked) == before


ELSEWHERE = [
    ("GET", "/v1/models"),
    ("GET", MESSAGES),
    ("HEAD", "/api/hello"),
    ("POST", "/"),
    ("POST", "/v1/files"),
    ("POST", "/v1/messages/batches"),
    ("POST", "/v1/messages/../files"),
    ("POST", "//v1/messages"),
    ("POST", "/v1/messages?beta=true&x=1"),
    ("POST", "/v1/messages#"),
    ("DELETE", "/v1/messages"),
]


@pytest.mark.parametrize(("method", "target"), ELSEWHERE)
def test_other_requests_are_refused(proxy: TurnProxy, model: Model, method: str, target: str) -> None:
    """The token is good for messages alone: neither files nor keys nor batches."""
    before = len(model.asked)
    with proxy.open(proxy.token, b"{}", method, target) as response:
        assert response.status == 404
    assert len(model.asked) == before


def raw(proxy: TurnProxy, text: str) -> bytes:
    """Send these bytes, and return the first line of the answer."""
    with socket.create_connection(("127.0.0.1", proxy.port), 60) as connection:
        connection.sendall(text.format(token=proxy.token["x-api-key"], most=BODY_BYTES + 1).encode())
        with connection.makefile("rb") as answer:
            return answer.readline()


GOOD = "POST /v1/messages HTTP/1.1\r\nx-api-key: {token}\r\n"
MALFORMED = {
    "no HTTP": ("hello\r\n\r\n", b"400"),
    "an old one": (f"{GOOD.replace('1.1', '1.0')}\r\n", b"400"),
    "another host": (f"{GOOD.replace('/v1', 'http://evil.example/v1')}\r\n", b"400"),
    "a header of two lines": (f"{GOOD}x-a: b\r\n x-api-key: c\r\n\r\n", b"400"),
    "two tokens": (f"{GOOD}x-api-key: {{token}}\r\n\r\n", b"401"),
    "too long": (f"{GOOD}content-length: {{most}}\r\n\r\n", b"413"),
    "two lengths": (f"{GOOD}content-length: 2\r\ncontent-length: 3\r\n\r\n", b"411"),
    "no length": (f"{GOOD}transfer-encoding: chunked\r\n\r\n0\r\n\r\n", b"411"),
    "a length of letters": (f"{GOOD}content-length: +2\r\n\r\n", b"411"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_request_with_two_readings_is_refused(proxy: TurnProxy, model: Model, name: str) -> None:
    """What another server could read in another way is not passed on."""
    before = len(model.asked)
    text, status = MALFORMED[name]
    assert raw(proxy, text).split(b" ")[1] == status
    assert len(model.asked) == before


def test_a_token_is_good_at_its_own_proxy_alone(proxy: TurnProxy, api: ModelApi) -> None:
    """The token of another turn opens nothing here."""
    with turn_proxy(api) as other:
        assert other.ask()[0] == 200
        with proxy.open(other.token, message("hello")) as response:
            assert response.status == 401


@pytest.mark.real("root")
def test_its_memory_is_closed_to_its_own_user(api: ModelApi) -> None:
    """A process of the same user can't look into it: the kernel gives its files in /proc to root."""
    with turn_proxy(api, uid=65534) as proxy:
        with proxy.open({}, b"") as response:
            assert response.status == 401  # so it has set itself up
        status = Path(f"/proc/{proxy.pid}/status").read_text()
        assert "\nUid:\t65534" in status
        assert "\nNoNewPrivs:\t1" in status
        assert Path(f"/proc/{proxy.pid}/mem").stat().st_uid == 0


# --- the way to the API ---


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "ours")


def test_a_certificate_of_the_named_authority_is_good(model: Model, api: ModelApi, authority: Authority) -> None:
    """The API is reached over TLS, below a path too."""
    with with_tls(model, authority.context("localhost")) as port:
        tls = api._replace(base_url=f"https://localhost:{port}", ca_file=str(authority.file))
        with turn_proxy(tls) as proxy:
            assert proxy.ask()[0] == 200
            assert proxy.ask()[0] == 200
    assert model.asked[-1].headers["x-api-key"] == SECRET
    assert model.asked[-1].headers["host"] == f"localhost:{port}"


@pytest.mark.parametrize("fault", ["the system's authorities", "another authority", "another name", "no file"])
def test_a_certificate_that_is_not_good_is_refused(
    model: Model, api: ModelApi, authority: Authority, tmp_path: Path, fault: str
) -> None:
    """Nothing is sent, and claude is told why."""
    before = len(model.asked)
    name = "else.example" if fault == "another name" else "localhost"
    files = {"the system's authorities": "", "no file": str(tmp_path / "none.pem")}
    if fault == "another authority":
        files[fault] = str(Authority(tmp_path, "others").file)
    with with_tls(model, authority.context(name)) as port:
        tls = api._replace(base_url=f"https://localhost:{port}", ca_file=files.get(fault, str(authority.file)))
        with turn_proxy(tls) as proxy:
            status, body = proxy.ask()
    assert (status, json.loads(body)["error"]["type"]) == (502, "api_error")
    assert ("chat.ca_file can't be used" if fault == "no file" else "its certificate is not good") in body
    assert len(model.asked) == before


def test_a_proxy_of_the_network_sees_no_credential(model: Model, api: ModelApi, authority: Authority) -> None:
    """With https_proxy the connection goes through it, as an encrypted one, with the proxy's own password."""
    with with_tls(model, authority.context("localhost")) as port, relay(None) as network:
        tls = api._replace(base_url=f"https://localhost:{port}", ca_file=str(authority.file))
        with turn_proxy(tls._replace(https_proxy=f"http://me:p%40ss@localhost:{network.port}")) as proxy:
            assert proxy.ask()[0] == 200
    assert network.seen.startswith(f"CONNECT localhost:{port} HTTP/1.".encode())
    assert b"proxy-authorization: Basic bWU6cEBzcw==\r\n" in network.seen
    assert SECRET.encode() not in network.seen
    assert model.asked[-1].headers["x-api-key"] == SECRET


def test_an_api_that_is_down(api: ModelApi) -> None:
    """A 5xx, which claude tries again, with the address and the system's reason."""
    nowhere = api._replace(base_url=f"http://127.0.0.1:{reserve_port()}")
    with turn_proxy(nowhere) as proxy:
        status, body = proxy.ask()
    assert status == 502
    assert json.loads(body)["error"]["message"] == f"{nowhere.base_url}: Connection refused"


ANSWERS = {
    "with a length": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nset-cookie: a=b\r\n\r\n{}",
    "until it closes": b"HTTP/1.1 200 OK\r\nconnection: close, x-hop\r\nx-hop: 1\r\n\r\n{}",
    "in chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_api_that_closes_each_connection(api: ModelApi, name: str) -> None:
    """A connection that the API has closed meanwhile is no error, and what belongs to one connection stays there."""
    with answering(ANSWERS[name]) as server, turn_proxy(api._replace(base_url=server.url)) as proxy:
        for _ in range(3):
            with proxy.open(proxy.token, message("hello")) as response:
                assert (response.status, response.read()) == (200, b"{}")
                assert {"set-cookie", "x-hop"}.isdisjoint(response.headers)


REDIRECT = b"HTTP/1.1 307 Moved\r\nlocation: https://else.example/v1\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (REDIRECT, "it sends to https://else.example/v1; set chat.base_url"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH-2.0-OpenSSH_9.2"),
        (b"", "the connection ended"),
    ],
)
def test_what_is_no_answer_of_an_api(api: ModelApi, answer: bytes, words: str) -> None:
    """A redirect is not followed, and no other protocol is passed on."""
    with answering(answer) as server, turn_proxy(api._replace(base_url=f"{server.url}/below/")) as proxy:
        status, body = proxy.ask()
        assert server.lines[0] == f"POST /below{MESSAGES} HTTP/1.1\r\n".encode()
    assert (status, words in body) == (502, True), body


def test_a_whole_answer_that_breaks_off_does_so_here(api: ModelApi) -> None:
    """An answer that is shorter than it says is not passed on as whole."""
    short = ANSWERS["with a length"].replace(b": 2", b": 3")
    with answering(short) as server, turn_proxy(api._replace(base_url=server.url)) as proxy:
        response = proxy.open(proxy.token, message("hello"))
        with response as opened, pytest.raises(http.client.IncompleteRead):
            opened.read()
