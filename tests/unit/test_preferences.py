"""The two headers in which a client says what it prefers: `Prefer` (RFC 7240) and `Accept-Encoding` (RFC 9110)."""

from breakglass.web.client_headers import accepts_gzip, preferred_wait

from ..support.rows import each_row, read_rows

HEADERS = read_rows("headers.yaml")


@each_row(("value", "seconds"), HEADERS["waits"].items())
def test_a_wait_is_found_among_other_preferences(value: str, seconds: int) -> None:
    """It follows the grammar of RFC 7240; the first one counts, and 90 s are the most."""
    assert preferred_wait([value]) == seconds


@each_row("value", HEADERS["no waits"])
def test_a_malformed_wait_is_ignored(value: str) -> None:
    """A value that is not a number of seconds, or breaks the grammar, is ignored."""
    assert preferred_wait([value]) is None


def test_several_lines_are_one_list() -> None:
    """The first line with a wait counts. Without one, there is no wait."""
    assert preferred_wait(["respond-async", "foo", "wait=10, wait=11", "wait=12"]) == 10
    assert preferred_wait([]) is None


@each_row(("value", "wanted"), [*((v, True) for v in HEADERS["gzip"]), *((v, False) for v in HEADERS["no gzip"])])
def test_gzip_is_for_clients_that_prefer_it(value: str, wanted: bool) -> None:
    """Weights count, so a client that refuses gzip or prefers plain bytes gets plain bytes."""
    assert accepts_gzip([value]) is wanted
