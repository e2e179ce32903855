"""Faults on the way to a handler, and of a handler that runs: each is found, with its fix.

The handler, the host's sshd and QEMU, and nginx are real. Most faults are of the proxy, in front of one handler.
"""

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are one more package

from breakglass.base.budget import HOLD_SECONDS
from breakglass.base.findings import ERROR, OK, WARNING

from ..support.certificates import make_certificate
from ..support.doctor import DATA, Report, Setup, found
from ..support.front import run_nginx
from ..support.ports import reserve_port
from ..support.rows import each_row
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

    tests/data/faulty_proxies.yaml has them.

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
    holds_long: bool = False  # doctor has an answer delayed for as long as in use, and not for 2 s


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


PROXIES = {row["name"]: Proxy(**row) for row in yaml.safe_load((DATA / "faulty_proxies.yaml").read_text("utf-8"))}


@pytest.mark.parametrize("name", sampled(PROXIES, "drops the signature", "has a certificate for another name"))
def test_a_fault_of_the_proxy_is_found(running: Running, name: str) -> None:
    proxy = PROXIES[name]
    with proxied(running, proxy) as environment:
        report = look(running.setup, environment, hold=HOLD_SECONDS if proxy.holds_long else 2)
    finding = found(report.findings, proxy.code)
    assert (finding.level, proxy.fix in finding.fix or proxy.fix in finding.sentence) == (proxy.level, True), finding
    assert report.code == (2 if proxy.level == ERROR else 1), report.findings
    others = [each for each in report.findings if each.level != OK and each.code != proxy.code]
    assert others == [], "one fault is one finding"


# --- the caller ---


def with_key(setup: Setup, name: str) -> dict[str, str]:
    return {"BREAKGLASS_SECRET_FILE": str(setup.directory / name)}


def test_a_fault_of_the_caller_is_found(running: Running) -> None:
    running.setup.file("stranger", new_secret())
    report = look(running.setup, with_key(running.setup, "historian"))
    fix = found(report.findings, "status-forbidden").fix
    assert ("callers.historian.allow" in fix, "kill -HUP" in fix) == (True, True)
    assert found(look(running.setup, with_key(running.setup, "stranger")).findings, "key-unknown").level == ERROR


# --- the handler ---


MAIN = "from breakglass.cli.main import main; raise SystemExit(main())"
OTHER_VERSION = ("-c", f"import breakglass.agents.pve.words as words; words.VERSION = '0.4.0'; {MAIN}")


def shifted(seconds: int) -> tuple[str, str]:
    """Return a program whose clock is wrong."""
    return "-c", f"import time; real = time.time; time.time = lambda: real() + {seconds}; {MAIN}"


def expire(setup: Setup) -> None:
    setup.config["callers"]["operator"]["not_after"] = datetime(2026, 1, 1, tzinfo=UTC)
    setup.config["callers"]["other"] = {"secret_file": setup.file("other", new_secret()), "allow": ["status"]}


def another_name(setup: Setup) -> None:
    setup.config["server"]["url"] = "https://rescue.example.org/"


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
    code: str
    fix: str
    seed: Callable[[Setup], None] = lambda _: None
    later: Callable[[Running], None] = lambda _: None
    program: Sequence[str] = ("-m", "breakglass")
    level: str = ERROR
    also: tuple[str, ...] = ()  # what else is wrong in this setup


HANDLERS = [
    OfHandler("the caller has expired", "forbidden", "breakglass keys new", seed=expire, also=("config-degraded",)),
    OfHandler("the clock is 10 minutes slow", "clock", "timedatectl", program=shifted(-600)),
    OfHandler("a clock is 2 minutes fast", "clock", "timedatectl", program=shifted(120), level=WARNING),
    OfHandler("another version", "other-version", "; breakglass serve", program=OTHER_VERSION, level=WARNING),
    OfHandler("a reload was rejected", "reload-rejected", "breakglass check", later=spoil_and_reload),
    OfHandler("the file was changed", "config-not-loaded", "kill -HUP", later=change_only, level=WARNING),
    OfHandler("the key is not loaded", "key-not-loaded", "kill -HUP", later=add_caller_only),
    OfHandler(
        "server.url is another name",
        "wrong-handler",
        "[server] url",
        seed=another_name,
        later=ask_another_name,
        also=("no-tls", "name-not-found"),
    ),
]


@pytest.mark.parametrize("name", sampled([each.name for each in HANDLERS], "the file was changed"))
def test_a_fault_of_the_handler_is_found(own: Setup, name: str) -> None:
    [fault] = [each for each in HANDLERS if each.name == name]
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


# --- the way there ---

WAYS = [
    ("http://127.0.0.1:1/", "connection-refused", "breakglass serve"),
    ("https://rescue.invalid/", "name-not-found", "BREAKGLASS_URL"),
]


@each_row(("url", "code", "fix"), WAYS)
def test_a_handler_that_is_not_there(setup: Setup, url: str, code: str, fix: str) -> None:
    environment = {"BREAKGLASS_URL": url, "BREAKGLASS_SECRET_FILE": str(setup.directory / "operator")}
    report = look(setup, environment)
    finding = found(report.findings, code)
    assert (finding.level, fix in finding.fix, report.code) == (ERROR, True, 2)
    assert [each for each in report.findings if each.level != OK] == [finding], "what depends on it is not reported"
