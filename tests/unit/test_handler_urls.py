"""URLs of handlers, in the normal form in which they are compared, and what a client's headers prefer."""

from urllib.parse import parse_qs, urlsplit

from hypothesis import given
from hypothesis import strategies as st

from breakglass.config.server import is_loopback, normal_url, page_link
from breakglass.web.client_headers import accepts_gzip, preferred_wait

from ..support.rows import each_row, read_rows

TEXTS = read_rows("headers.yaml")


@each_row(("written", "normal"), TEXTS["normal urls"].items())
def test_the_normal_form(written: str, normal: str) -> None:
    """Each rule of docs/api.md is followed. The normal form of a normal form is the same."""
    assert normal_url(written) == normal
    assert normal_url(normal) == normal


@each_row("text", [*TEXTS["no urls"], f"https://a.example/{'x' * 2048}"])
def test_what_is_no_url_of_a_handler(text: str) -> None:
    """An address with another scheme, no host, a bad port, a user, a query, a fragment or two readings is refused."""
    assert normal_url(text) is None


def test_loopback() -> None:
    """The end of a tunnel is on loopback. A name or a path that only looks like it is another machine."""
    assert all(is_loopback(normal_url(text) or "") for text in TEXTS["loopback"])
    assert not any(is_loopback(normal_url(text) or "?") for text in TEXTS["elsewhere"])


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


# --- `Prefer` (RFC 7240) and `Accept-Encoding` (RFC 9110) ---

SEVERAL = ["respond-async", "foo", "wait=10, wait=11", "wait=12"]


@each_row(
    ("lines", "seconds"),
    [
        *(([value], seconds) for value, seconds in TEXTS["waits"].items()),
        *(([value], None) for value in TEXTS["no waits"]),
        (SEVERAL, 10),
        ([], None),
    ],
)
def test_a_wait_is_found_among_other_preferences(lines: list[str], seconds: int | None) -> None:
    """It follows the grammar of RFC 7240, as do several lines: the first wait counts, and 90 s are the most.

    A value that is not a number of seconds, or breaks the grammar, is ignored.
    """
    assert preferred_wait(lines) == seconds


@each_row(("value", "wanted"), [*((v, True) for v in TEXTS["gzip"]), *((v, False) for v in TEXTS["no gzip"])])
def test_gzip_is_for_clients_that_prefer_it(value: str, wanted: bool) -> None:
    """Weights count, so a client that refuses gzip or prefers plain bytes gets plain bytes."""
    assert accepts_gzip([value]) is wanted
