"""Faults on the way to a handler, and of a handler that runs: each is found, with its fix.

The handler, the host's sshd and QEMU, and nginx are real. Most faults are of the proxy, in front of one handler.
"""

import contextlib
import re
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from breakglass.base.budget import HOLD_SECONDS
from breakglass.base.findings import ERROR, OK, WARNING

from ..support.certificates import make_certificate
from ..support.doctor import Report, Setup, found
from ..support.front import run_nginx
from ..support.ports import reserve_port
from ..support.running import Running, new_setup
from ..support.selection import sampled
from ..support.service import new_secret
from ..support.sshd import Sshd

pytestmark = [pytest.mark.real("sshd", "nginx", "qemu"), pytest.mark.shared("world", "sshd"), pytest.mark.slow]

PLACES = ("handler",)
SERVER = """
{before}
server {{
    listen 127.0.0.1:{port} {ssl};
    ssl_certificate {directory}/certificate.pem;
    ssl_certificate_key {directory}/key.pem;
    {server}
    location {path} {{
        proxy_pass http://{to}{slash};
        proxy_http_version 1.1;
        proxy_set_header Host $host;
        {location}
    }}
}}
"""


@pytest.fixture(scope="module")
def running(directory: Path, shared_sshd: Sshd) -> Iterator[Running]:
    """A handler without a fault, which the proxies of the tests stand in front of."""
    place = directory / "running"
    place.mkdir()
    with Running(new_setup(place, shared_sshd)).run() as running:
        running.ready()
        yield running


@pytest.fixture
def own(short_dir: Path, sshd: Sshd) -> Setup:
    """A good configuration for a handler of the test's own."""
    return new_setup(short_dir, sshd)


class Proxy(NamedTuple):
    """A fault of what is in front of the handler, with the code and words of the fix that are expected.

    `before`, `server` and `location` are nginx settings; the URL that is asked ends with `ask`, and begins with
    `scheme`. `ca_file` is what SSL_CERT_FILE names if that is not the authority's file; `ca_mode` is that file's mode.
    """

    name: str
    code: str
    fix: str
    location: str = ""
    server: str = ""
    path: str = "/"
    slash: str = ""
    ask: str = "/"
    scheme: str = "https"
    ssl: str = "ssl"
    backend: int = 0  # another port than the handler's
    before: str = ""
    to: str = "127.0.0.1:{backend}"
    ca_file: str = ""
    ca_mode: int = 0o644
    trusted: bool = True
    host: str = "localhost"
    certificate: dict[str, Any] = {}  # noqa: RUF012  nothing changes it
    level: str = ERROR
    hold: int = 2  # seconds for which doctor has an answer delayed


@contextlib.contextmanager
def proxied(running: Running, proxy: Proxy) -> Iterator[dict[str, str]]:
    """Run an nginx with the fault; yield what doctor's environment has then."""
    with tempfile.TemporaryDirectory(prefix="bg") as name:
        directory, port = Path(name), reserve_port()
        directory.chmod(0o755)
        authority = make_certificate(directory, **proxy.certificate)
        authority.chmod(proxy.ca_mode)
        (directory / "users").write_text("someone:{PLAIN}secret\n")
        given = {**proxy._asdict(), "port": port, "directory": directory, "backend": proxy.backend or running.port}
        given |= {name: given[name].format(**given) for name in ("before", "to")}
        server = proxy.server.replace("{directory}", name).replace("{port}", str(port))
        location = proxy.location.replace("{directory}", name)
        block = SERVER.format(**{**given, "server": server, "location": location})
        environment = {"BREAKGLASS_URL": f"{proxy.scheme}://{proxy.host}:{port}{proxy.ask}"}
        if proxy.trusted:
            environment["SSL_CERT_FILE"] = proxy.ca_file or str(authority)
        with run_nginx(directory, port, block):
            yield environment


def look(setup: Setup, environment: dict[str, str], *words: str, hold: int = HOLD_SECONDS) -> Report:
    """Run doctor's look at the handler, with other variables than the setup's own."""
    before = setup.environment
    setup.environment = before | environment
    setup.constants = {"doctor.handler.HOLD_SECONDS": hold}
    try:
        report = setup.doctor(*words, places=PLACES)
    finally:
        setup.environment = before
    assert report.stdout, report.stderr
    wrong = [
        each.sentence for each in report.findings if not re.fullmatch(r"(?:[A-Z]|https?://).*[^.]\.", each.sentence)
    ]
    assert wrong == [], "these are no whole sentences"
    return report


LOGIN = "default_type text/html; return 200 '<form action=/login><input type=password></form>';"
PROXIES = [
    Proxy("drops the signature", "headers-dropped", "webhook-signature", 'proxy_set_header webhook-signature "";'),
    Proxy("drops every header", "headers-dropped", "proxy_pass_request_headers", "proxy_pass_request_headers off;"),
    Proxy("drops bearer tokens", "headers-dropped", "authorization", 'proxy_set_header authorization "";'),
    Proxy("drops Prefer", "headers-dropped", "prefer", 'proxy_set_header prefer "";', level=WARNING),
    Proxy("gives requests ids", "headers-changed", "webhook-id", "proxy_set_header webhook-id $request_id;"),
    Proxy("replaces the body", "body-changed", "byte by byte", 'proxy_set_body \'{"verb":"status"}\';'),
    Proxy("drops the body", "body-changed", "byte by byte", "proxy_pass_request_body off;"),
    Proxy(
        "buffers streams",
        "buffered",
        "proxy_buffering off",
        "proxy_ignore_headers X-Accel-Buffering;",
    ),
    Proxy("cuts after 3 s", "cut-short", "proxy_read_timeout 120s", "proxy_read_timeout 3s;", hold=HOLD_SECONDS),
    Proxy(
        "compresses streams",
        "compressed",
        "gzip_types",
        "gzip on; gzip_proxied any; gzip_types application/x-ndjson; gzip_min_length 1;",
    ),
    Proxy("limits bodies to 512 KiB", "body-limited", "client_max_body_size 1m", "client_max_body_size 512k;"),
    Proxy("redirects to a login", "login-page", "/pve", "return 302 https://login.example.org/authorize;"),
    Proxy("answers with a login page", "login-page", "/pve", LOGIN),
    Proxy(
        "asks for a password",
        "login-page",
        "/pve",
        'auth_basic "it is private"; auth_basic_user_file {directory}/users;',
    ),
    Proxy(
        "asks for a login at signed addresses only",
        "login-page",
        "/pve",
        server="location = /echo { return 302 https://login.example.org/; }",
    ),
    Proxy(
        "passes /health and the page on alone",
        "path-blocked",
        "every path",
        server="location = /echo/arrived { return 404; }",
    ),
    Proxy("blocks alerts", "login-page", "/alert/", server="location /alert/ { return 403; }"),
    Proxy(
        "requires a client certificate",
        "client-certificate",
        "ssl_verify_client off",
        server="ssl_verify_client on; ssl_client_certificate {directory}/certificate.pem;",
    ),
    Proxy("serves it below another path", "wrong-prefix", "prefix", path="/bg/", slash="/"),
    Proxy("is asked below a path that the handler does not know", "wrong-prefix", "prefix", ask="/breakglass/"),
    Proxy("is another program", "other-program", "HOST and PORT", "return 200 'It works!';"),
    Proxy("has no handler behind it", "handler-down", "systemctl start breakglass", backend=1),
    Proxy("is asked without TLS", "needs-https", "BREAKGLASS_URL=https://localhost", scheme="http"),
    Proxy("is asked with TLS and has none", "not-https", "BREAKGLASS_URL=http://localhost", ssl=""),
    Proxy(
        "redirects to https",
        "redirected",
        "BREAKGLASS_URL=https://localhost",
        "return 301 https://localhost$request_uri;",
        scheme="http",
        ssl="",
    ),
    Proxy("has a certificate that has expired", "certificate-expired", "certbot renew", certificate={"ends": -0.5}),
    Proxy("has a certificate of the future", "certificate-early", "timedatectl", certificate={"begins": 1}),
    Proxy(
        "has a certificate for another name",
        "certificate-name",
        "certbot certonly -d localhost",
        certificate={"name": "rescue.example.org"},
    ),
    Proxy("has a certificate of an unknown authority", "certificate-untrusted", "SSL_CERT_FILE", trusted=False),
    Proxy(
        "has a certificate that expires soon",
        "certificate-expires",
        "certbot renew",
        certificate={"ends": 5},
        level=WARNING,
    ),
    Proxy("does not pass a script on", "page-files-missing", "app.js", server="location = /app.js { return 404; }"),
    Proxy(
        "does not pass the list on", "page-files-missing", "files.json", server="location = /files.json { return 404; }"
    ),
    Proxy(
        "adds a script to the page",
        "page-altered",
        "the page itself",
        "sub_filter </head> '<script></script></head>';",
        level=WARNING,
    ),
    Proxy("does not pass the page on", "wrong-prefix", "prefix", server="location = / { return 404; }"),
    Proxy(
        "hides the page's policy",
        "page-policy",
        "proxy_hide_header",
        "proxy_hide_header Content-Security-Policy;",
        level=WARNING,
    ),
]
PROXIES += [  # what a reviewer planted, by number, and later ones
    Proxy(
        "R16 is not named in [server] proxies",
        "proxy-not-named",
        "[server]",
        "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
        level=WARNING,
    ),
    Proxy(
        "R21 has a dead one of two handlers",
        "upstream-dead",
        "remove it from upstream",
        "proxy_next_upstream off;",
        before="upstream two {{ server 127.0.0.1:{backend}; server 127.0.0.1:1 max_fails=0; }}",
        to="two",
    ),
    Proxy(
        "R22 limits requests",
        "proxy-limits",
        "limit_req",
        "limit_req zone=few burst=2 nodelay;",
        before="limit_req_zone $binary_remote_addr zone=few:1m rate=1r/m;",
    ),
    Proxy("R24 adds a slash", "path-changed", "proxy_pass without a path", slash="//"),
    Proxy("R29 has an authority that root alone reads", "certificate-file", "install -m 644", ca_mode=0o600),
    Proxy(
        "R30 has an authority without a key usage",
        "certificate-authority",
        "-addext keyUsage=critical,keyCertSign",
        certificate={"has_usage": False},
    ),
    Proxy("N19 has an authority's file that is gone", "certificate-file", "can't read", ca_file="/nowhere/ca.pem"),
    Proxy("N20 answers 429", "proxy-limits", "limit", server="location = /echo { return 429; }"),
    Proxy("N21 answers 502 to POST", "upstream-dead", "error log", "if ($request_method = POST) { return 502; }"),
]
CHEAP = ("drops the signature", "has a certificate for another name")


@pytest.mark.parametrize(
    "proxy",
    [pytest.param(p, id=p.name, marks=[] if p.name in CHEAP else pytest.mark.all) for p in PROXIES],
)
def test_a_fault_of_the_proxy_is_found(running: Running, proxy: Proxy) -> None:
    with proxied(running, proxy) as environment:
        report = look(running.setup, environment, hold=proxy.hold)
    finding = found(report.findings, proxy.code)
    assert (finding.level, proxy.fix in finding.fix or proxy.fix in finding.sentence) == (proxy.level, True), finding
    assert report.code == (2 if proxy.level == ERROR else 1), report.findings
    others = [each for each in report.findings if each.level != OK and each.code != proxy.code]
    assert others == [], "one fault is one finding"


@pytest.mark.all
def test_a_proxy_that_stores_answers_is_well(running: Running) -> None:
    """R20: /health and signed answers say that they may not be stored, so this harms nothing."""
    cache = "proxy_cache_path {directory}/cache keys_zone=all:1m;"
    stores = Proxy("", "", "", "proxy_cache all; proxy_cache_valid 200 10m;", before=cache)
    with proxied(running, stores) as environment:
        assert [each for each in look(running.setup, environment, hold=2).findings if each.level != OK] == []


# --- the caller ---


def with_key(setup: Setup, name: str) -> dict[str, str]:
    return {"BREAKGLASS_SECRET_FILE": str(setup.directory / name)}


CALLERS = [
    ("historian", "status-forbidden", "add it to callers.historian.allow, and run systemctl reload breakglass"),
    ("stranger", "key-unknown", "operator"),
]


@pytest.mark.parametrize(("name", "code", "fix"), sampled(CALLERS, CALLERS[0]))
def test_a_fault_of_the_caller_is_found(running: Running, name: str, code: str, fix: str) -> None:
    setup = running.setup
    if name == "stranger":
        setup.file(name, new_secret())
    finding = found(look(setup, with_key(setup, name)).findings, code)
    assert (finding.level, fix in finding.fix) == (ERROR, True), finding


# --- the handler ---


def shifted(seconds: int) -> str:
    """Return a program whose clock is wrong."""
    return (
        f"import time; real = time.time; time.time = lambda: real() + {seconds}\n"
        "from breakglass.cli.main import main; raise SystemExit(main())"
    )


OTHER_VERSION = (
    "import breakglass.agents.pve.words as words; words.VERSION = '0.4.0'\n"
    "from breakglass.cli.main import main; raise SystemExit(main())"
)


def expire(setup: Setup) -> None:
    setup.config["callers"]["operator"]["not_after"] = datetime(2026, 1, 1, tzinfo=UTC)
    setup.config["callers"]["other"] = {"secret_file": setup.file("other", new_secret()), "allow": ["status"]}


def another_name(setup: Setup) -> None:
    setup.config["server"]["url"] = "https://rescue.example.org/"


def break_a_caller(setup: Setup) -> None:
    setup.config["callers"]["historian"]["allow"] = ["reboot"]


def chat_without_claude(setup: Setup) -> None:
    credential = setup.file("credential", "ANTHROPIC_API_KEY=sk-test\n")
    setup.config["chat"] = {"credential_file": credential, "command": "/nowhere/claude"}


def nothing(setup: Setup) -> None:
    pass


def spoil_and_reload(running: Running) -> None:
    running.setup.path.write_text("no TOML")
    running.reload()


def change_only(running: Running) -> None:
    running.setup.path.write_text(running.setup.path.read_text() + "# changed\n")


def add_caller_only(running: Running) -> None:
    setup = running.setup
    entry = f'[callers.late]\nsecret_file = "{setup.file("late", new_secret())}"\nallow = ["status"]\n'
    setup.path.write_text(setup.path.read_text() + entry)
    setup.environment |= with_key(setup, "late")


def ask_another_name(running: Running) -> None:
    running.setup.environment["BREAKGLASS_URL"] = f"http://127.1:{running.port}/"  # it leads here, and is no loopback


class OfHandler(NamedTuple):
    """A fault of a handler: what is wrong with its file and program, and what becomes wrong while it runs."""

    name: str
    seed: Callable[[Setup], None]
    later: Callable[[Running], None]
    code: str
    fix: str
    program: Sequence[str] = ("-m", "breakglass")
    level: str = ERROR
    also: tuple[str, ...] = ()  # what else is wrong in this setup


def no_change(_: Running) -> None:
    pass


HANDLERS = [
    OfHandler(
        "the caller has expired", expire, no_change, "forbidden", "breakglass keys new", also=("config-degraded",)
    ),
    OfHandler("the clock is 10 minutes slow", nothing, no_change, "clock", "timedatectl", ("-c", shifted(-600))),
    OfHandler("a clock is 2 minutes fast", nothing, no_change, "clock", "timedatectl", ("-c", shifted(120)), WARNING),
    OfHandler(
        "another version", nothing, no_change, "other-version", "restart breakglass", ("-c", OTHER_VERSION), WARNING
    ),
    OfHandler("R27 the clock is 2 h fast", nothing, no_change, "clock", "timedatectl", ("-c", shifted(7200))),
    OfHandler("a reload was rejected", nothing, spoil_and_reload, "reload-rejected", "breakglass check"),
    OfHandler(
        "the file was changed", nothing, change_only, "config-not-loaded", "systemctl reload breakglass", level=WARNING
    ),
    OfHandler("the key is not loaded", nothing, add_caller_only, "key-not-loaded", "systemctl reload breakglass"),
    OfHandler("an entry is off", break_a_caller, no_change, "config-degraded", "breakglass check"),
    OfHandler("chat lacks its claude", chat_without_claude, no_change, "chat-failed", "journalctl"),
    OfHandler(
        "server.url is another name",
        another_name,
        ask_another_name,
        "wrong-handler",
        "[server] url",
        also=("no-tls", "name-not-found"),
    ),
]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(each, id=each.name, marks=[] if each.name == "the file was changed" else pytest.mark.all)
        for each in HANDLERS
    ],
)
def test_a_fault_of_the_handler_is_found(own: Setup, fault: OfHandler) -> None:
    fault.seed(own)
    with Running(own, fault.program).run() as running:
        running.ready()
        fault.later(running)
        report = look(own, {})
    finding = found(report.findings, fault.code)
    assert (finding.level, fault.fix in finding.fix) == (fault.level, True), finding
    assert report.code == (2 if fault.level == ERROR else 1), report.findings
    others = [each for each in report.findings if each.level != OK and each.code not in (fault.code, *fault.also)]
    assert others == [], "one fault is one finding"


@pytest.mark.all
def test_a_host_that_only_the_handler_does_not_reach(own: Setup) -> None:
    """Nothing listened when the handler tried; doctor finds that something listens now."""
    own.config["hosts"]["pve1"]["ssh"] = f"breakglass@127.0.0.1:{(port := reserve_port())}"
    with Running(own).run() as running:
        running.logged('"event": "host-down"')
        assert found(look(own, {}).findings, "connection-refused").fix == "at the host's console: systemctl start ssh"
        with socket.create_server(("127.0.0.1", port)):
            findings = look(own, {}).findings
    [finding] = [each for each in findings if "this machine reaches it" in each.sentence]
    assert (finding.level, finding.fix) == (ERROR, "systemctl reload breakglass: the handler then connects again")


# --- the way there ---

WAYS = [
    ("http://127.0.0.1:1/", "connection-refused", "systemctl start breakglass"),
    ("https://127.0.0.1:1/", "connection-refused", "systemctl start breakglass"),
    ("https://rescue.invalid/", "name-not-found", "BREAKGLASS_URL"),
]


@pytest.mark.parametrize(("url", "code", "fix"), WAYS)
def test_a_handler_that_is_not_there(setup: Setup, url: str, code: str, fix: str) -> None:
    environment = {"BREAKGLASS_URL": url, "BREAKGLASS_SECRET_FILE": str(setup.directory / "operator")}
    report = look(setup, environment)
    finding = found(report.findings, code)
    assert (finding.level, fix in finding.fix, report.code) == (ERROR, True, 2)
    assert [each for each in report.findings if each.level != OK] == [finding], "what depends on it is not reported"


@pytest.mark.all
def test_a_port_where_nothing_answers(setup: Setup) -> None:
    """It takes connections, and says nothing, so it is no handler, and doctor ends all the same."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        environment = {"BREAKGLASS_URL": url, "BREAKGLASS_SECRET_FILE": str(setup.directory / "operator")}
        report = look(setup, environment)
    assert found(report.findings, "other-program").level == ERROR
