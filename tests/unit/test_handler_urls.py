"""URLs of handlers: the normal form in which they are compared, texts that are none, and loopback."""

from urllib.parse import parse_qs, urlsplit

from hypothesis import given
from hypothesis import strategies as st

from breakglass.config.server import is_loopback, normal_url, page_link

from ..support.rows import each_row

SAME = {  # docs/api.md, "Signing": a URL, and its normal form
    "https://a.example": "https://a.example/",
    "https://a.example///": "https://a.example/",
    "HTTPS://A.Example:443/": "https://a.example/",
    "https://a.example:0443": "https://a.example/",
    "http://a.example:80/x": "http://a.example/x/",
    "http://a.example:443": "http://a.example:443/",
    "https://a.example:8443/Rescue/b//": "https://a.example:8443/Rescue/b/",
    "https://a.example/%7Eme/": "https://a.example/%7Eme/",
    "https://[2001:DB8:0:0::1]:443/": "https://[2001:db8::1]/",
    "http://192.0.2.1:8080": "http://192.0.2.1:8080/",
    "https://Bücher.example/": "https://xn--bcher-kva.example/",
    "https://my_host/": "https://my_host/",
}
NONE = (
    *("", "a.example", "ftp://a.example/", "https:///x", "https://:443/", "https://a.example:0/"),
    *("https://a.example:65536/", "https://a.example:x/", "https://me@a.example/", "https://me:pw@a.example/"),
    *(
        "https://a.example/?x",
        "https://a.example/#key=whsec_x",
        "https://a.example\\@b.example/",
        " https://a.example/",
    ),
    *(
        "http://localhost\uff0fa.example/",
        "http://a.example%2f.localhost/",
        "http://a.example;.localhost/",
        "http://*/",
    ),
    *("https://a.example/ü", "https://a.example/\n", "https://a.ex ample/", "https://[::1/", "https://[1:2]/"),
    *("https://a..example/", f"https://{'a' * 64}.example/", "https://a\u202e.example/", "HTTP://\u2024/"),
    f"https://a.example/{'x' * 2048}",
)
LOOPBACK = (
    *("http://localhost:8080", "https://LOCALHOST/x", "http://a.b.localhost:1/", "http://127.0.0.1"),
    "http://[0::1]:80",
)
ELSEWHERE = (
    *("https://localhost.example/", "https://a.example/.localhost/", "https://127.0.0.1.example/", "http://[::2]/"),
    *("https://a.example:1/x.localhost:2/", "http://128.0.0.1/", "http://127.1/", "http://0.0.0.0/"),
)


@each_row(("written", "normal"), SAME.items())
def test_the_normal_form(written: str, normal: str) -> None:
    """Each rule of docs/api.md is followed. The normal form of a normal form is the same."""
    assert normal_url(written) == normal
    assert normal_url(normal) == normal


@each_row("text", NONE)
def test_what_is_no_url_of_a_handler(text: str) -> None:
    """An address with another scheme, no host, a bad port, a user, a query, a fragment or two readings is refused."""
    assert normal_url(text) is None


def test_loopback() -> None:
    """The end of a tunnel is on loopback. A name or a path that only looks like it is another machine."""
    assert all(is_loopback(normal_url(text) or "") for text in LOOPBACK)
    assert not any(is_loopback(normal_url(text) or "?") for text in ELSEWHERE)


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
