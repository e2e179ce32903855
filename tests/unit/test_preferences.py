"""The two headers in which a client says what it prefers: `Prefer` (RFC 7240) and `Accept-Encoding` (RFC 9110)."""

from breakglass.web.client_headers import accepts_gzip, preferred_wait

from ..support.rows import each_row

WAITS: dict[str, int] = {
    "wait=10": 10,
    "WAIT=10": 10,
    "wait = 10": 10,
    "wait\t=\t10": 10,
    'wait="10"': 10,
    "wait=0": 0,
    "wait=000": 0,
    "wait=007": 7,
    "wait=90": 90,
    "wait=91": 90,
    "wait=100": 90,
    f"wait=1{'0' * 5000}": 90,
    "respond-async, wait=10": 10,
    "wait=10, respond-async": 10,
    "return=minimal; foo=bar, wait=10": 10,
    "wait=10; foo": 10,
    'wait=10;foo="a,b" ; ;bar': 10,
    ', ,wait=10,"': 10,
    'x="a, wait=5", wait=10': 10,
    'x="a\\", wait=5", wait=10': 10,
    "not a preference, wait=10": 10,
    "=3, wait=10": 10,
    "wait 5, wait=10": 10,
    "wait=10, wait=20": 10,
}
NO_WAITS = (
    *("", ",", "wait", "wait=", 'wait=""', "wait=-1", "wait=+1", "wait=1.5", "wait=1e1", "wait=0x10", "wait=ten"),
    *("wait=10 s", "wait=10=10", "wait:10", "waiting=10", "x;wait=10", "wait=\u0661\u0660", "wait=\xb2", "a b"),
    *('wait="10', 'x="a, wait=10', 'x="a\\", wait=10', 'x=", wait=10\\', "wait, wait=10", "wait=soon, wait=10"),
)


@each_row("value", WAITS)
def test_a_wait_is_found_among_other_preferences(value: str) -> None:
    """It follows the grammar of RFC 7240; the first one counts, and 90 s are the most."""
    assert preferred_wait([value]) == WAITS[value]


@each_row("value", NO_WAITS)
def test_a_malformed_wait_is_ignored(value: str) -> None:
    """A value that is not a number of seconds, or breaks the grammar, is ignored."""
    assert preferred_wait([value]) is None


def test_several_lines_are_one_list() -> None:
    """The first line with a wait counts. Without one, there is no wait."""
    assert preferred_wait(["respond-async", "foo", "wait=10, wait=11", "wait=12"]) == 10
    assert preferred_wait([]) is None


GZIP = (
    *("gzip", "GZIP", "x-gzip", "gzip, deflate, br, zstd", "br;q=1.0, gzip;q=0.8, *;q=0.1", "*", "gzip;q=1"),
    *("gzip ; q=0.001", "deflate,gzip;Q=0.5", "identity;q=0.5, gzip", "identity, gzip"),
    *("gzip;q=0.000, *, gzip;q=0.2", ",gzip", "br, *;q=0.5"),
)
NO_GZIP = (
    *("", "identity", "gzip;q=0", "gzip;q=0.000", "*;q=0", "gzip;q=0, *", "br", "identity, gzip;q=0.5", "gzip;q=2"),
    *("gzip;q=", "gzip;x=1", "gzipped", "not gzip", "gzip;q=0.0001", "gzip;q=-1", "gzip;q=nan"),
    *('"gzip"', 'a="gzip, gzip'),
)


@each_row(("value", "wanted"), [*((v, True) for v in GZIP), *((v, False) for v in NO_GZIP)])
def test_gzip_is_for_clients_that_prefer_it(value: str, wanted: bool) -> None:
    """Weights count, so a client that refuses gzip or prefers plain bytes gets plain bytes."""
    assert accepts_gzip([value]) is wanted
