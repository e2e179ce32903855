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


@pytest.mark.parametrize(("status", "said"), [(200, ""), (302, "redirect")])
def test_a_run_without_an_error_pings(setup: Setup, status: int, said: str) -> None:
    """A ping that fails is a warning, so it changes no exit code. It follows no redirect."""
    with monitor(status, "/elsewhere") as (url, requests):
        report = ping(setup, url)
    assert (requests, bool(report.stderr), said in report.stderr) == (PINGED, bool(said), True)


def test_a_run_with_an_error_pings_only_if_that_is_wanted(setup: Setup) -> None:
    with monitor() as (url, requests):
        assert (ping(setup, url, has_error=True).stderr, requests) == ("", [])
        assert ping(setup, url, "--ping-failures", has_error=True).stderr == ""
    assert requests == [b"GET /a-secret-check/fail?create=1 HTTP/1.1\r\n"]


def test_a_url_that_can_not_be_pinged(setup: Setup) -> None:
    """The message does not have it, because the URL is enough to say that all is well."""
    assert "https URL" in ping(setup, "http://user:a-secret-check@x/").stderr
