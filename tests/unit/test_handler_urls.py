"""URLs of handlers: the normal form in which they are compared, texts that are none, and loopback."""

from urllib.parse import parse_qs, urlsplit

from hypothesis import given
from hypothesis import strategies as st

from breakglass.config.server import is_loopback, normal_url, page_link

from ..support.rows import each_row, read_rows

URLS = read_rows("headers.yaml")


@each_row(("written", "normal"), URLS["normal urls"].items())
def test_the_normal_form(written: str, normal: str) -> None:
    """Each rule of docs/api.md is followed. The normal form of a normal form is the same."""
    assert normal_url(written) == normal
    assert normal_url(normal) == normal


@each_row("text", [*URLS["no urls"], f"https://a.example/{'x' * 2048}"])
def test_what_is_no_url_of_a_handler(text: str) -> None:
    """An address with another scheme, no host, a bad port, a user, a query, a fragment or two readings is refused."""
    assert normal_url(text) is None


def test_loopback() -> None:
    """The end of a tunnel is on loopback. A name or a path that only looks like it is another machine."""
    assert all(is_loopback(normal_url(text) or "") for text in URLS["loopback"])
    assert not any(is_loopback(normal_url(text) or "?") for text in URLS["elsewhere"])


@given(st.one_of(st.text(), st.from_regex(r"https?://[^/]+(:\d+)?/.*", fullmatch=True)))
def test_any_text_has_at_most_one_normal_form(text: str) -> None:
    """Any text is accepted without an exception, and the normal form of a normal form is the same."""
    normal = normal_url(text)
    assert normal is None or (normal_url(normal) == normal and normal.isascii() and normal.isprintable())


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(TEXT, TEXT)
def test_a_link_says_what_was_put_into_it(vm: str, job: str) -> None:
    """A host's text is read as one job, so it can't change the link's VM or lead to another page."""
    parts = urlsplit(page_link("https://a.example/", vm, job))
    assert (parts.netloc, parts.path, "+" in parts.fragment) == ("a.example", "/", False)
    assert parse_qs(parts.fragment) == {"vm": [vm], "job": [job]}
    assert page_link("https://a.example/bg/", "devvm") == "https://a.example/bg/#vm=devvm"
