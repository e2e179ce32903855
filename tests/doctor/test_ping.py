"""What doctor asks for after a run: the URL in a file, once, and only if it has found no error."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ..support.doctor import Report, Setup
from ..support.peer import answering

pytestmark = pytest.mark.slow

PINGED = [b"GET /a-secret-check?create=1 HTTP/1.1\r\n"]


@contextmanager
def monitor(status: int = 200, location: str = "") -> Iterator[tuple[str, list[bytes]]]:
    """Run a monitor; give the URL of a check and the lines of the requests."""
    head = f"HTTP/1.1 {status} as wanted\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"
    with answering(head.encode()) as server:
        yield f"{server.url}/a-secret-check?create=1", server.lines


def ping(setup: Setup, url: str, *words: str, has_error: bool = False) -> Report:
    """Run doctor, which finds no error, or one."""
    if has_error:
        setup.text = "no TOML"
    report = setup.doctor("--ping", setup.file("ping", f"{url}\n"), *words, places=["configuration"])
    assert "a-secret-check" not in report.stdout + report.stderr
    assert report.code == (2 if has_error else min(report.code, 1))
    return report


def test_a_run_without_an_error_pings(setup: Setup) -> None:
    with monitor() as (url, requests):
        report = ping(setup, url)
    assert (requests, report.stderr) == (PINGED, "")


def test_a_run_with_an_error_pings_only_if_that_is_wanted(setup: Setup) -> None:
    with monitor() as (url, requests):
        assert (ping(setup, url, has_error=True).stderr, requests) == ("", [])
        assert ping(setup, url, "--ping-failures", has_error=True).stderr == ""
    assert requests == [b"GET /a-secret-check/fail?create=1 HTTP/1.1\r\n"]


@pytest.mark.parametrize(
    ("status", "location", "said"),
    [(404, "", "answered HTTP 404"), (302, "/elsewhere", "a redirect is not followed"), (500, "", "HTTP 500")],
)
def test_a_ping_that_fails_is_a_warning(setup: Setup, status: int, location: str, said: str) -> None:
    """It changes no exit code, and follows nowhere."""
    with monitor(status, location) as (url, requests):
        report = ping(setup, url)
    assert (len(requests), said in report.stderr, "warning: the ping failed" in report.stderr) == (1, True, True)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "has no http or https URL"),
        ("a-secret-check", "has no http or https URL"),
        ("http://user:a-secret-check@x/", "has no http or https URL"),
        ("http://127.0.0.1:1/a-secret-check", "127.0.0.1 did not answer: Connection refused"),
    ],
)
def test_a_url_that_can_not_be_pinged(setup: Setup, url: str, said: str) -> None:
    """The message does not have it, because the URL is enough to say that all is well."""
    assert said in ping(setup, url).stderr


def test_a_file_that_others_can_read(setup: Setup) -> None:
    path = setup.directory / "open"
    path.write_text("http://127.0.0.1:1/\n")
    path.chmod(0o644)
    assert "is not safe" in setup.doctor("--ping", str(path), places=["configuration"]).stderr
    missing = setup.doctor("--ping", str(setup.directory / "missing"), places=["configuration"])
    assert "nothing was pinged, because there is no file" in missing.stderr
