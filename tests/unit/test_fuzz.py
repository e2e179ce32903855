"""The claims about any input, each with two thousand examples. A failure prints the example and the seed."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from breakglass.alerts.payloads import SENDERS

from . import test_alerts, test_bodies, test_events, test_grammar, test_link, test_signing

EXAMPLES = 2000
SEED = 20261127
CUTS = st.lists(st.integers(0, 10_000), max_size=8)
SOURCES = st.sampled_from(sorted(SENDERS))
HEADERS = st.fixed_dictionaries({}, optional=dict.fromkeys(test_signing.headers(), test_signing.anything))

CLAIMS: dict[str, tuple[Callable[..., Any], tuple[st.SearchStrategy[Any], ...]]] = {
    "the grammar of lines": (
        test_grammar.test_any_text_is_malformed_or_means_what_it_spells,
        (st.text() | test_grammar.edited_lines(),),
    ),
    "the handler's lines": (test_grammar.test_every_line_of_the_handler_is_understood, (test_grammar.requests,)),
    "the host's messages": (test_link.test_garbage_on_the_session_is_ignored, (st.binary(), CUTS)),
    "headers": (
        test_signing.test_any_headers_at_all_are_unauthorized_or_signed,
        (HEADERS, st.just(test_signing.BODY) | st.binary()),
    ),
    "bodies": (test_bodies.test_any_bytes_at_all_are_a_request_or_a_bad_request, (test_bodies.bodies,)),
    "payloads": (test_alerts.test_no_payload_breaks_it_or_names_a_vm, (SOURCES, test_alerts.PAYLOADS)),
    "payloads of any bytes": (
        test_alerts.test_any_bytes_are_refused_as_a_bad_request,
        (SOURCES, st.binary(max_size=200)),
    ),
    "claude's events": (
        test_events.test_any_bytes_end_with_done,
        (st.lists(st.binary(max_size=60) | test_events.LINES, max_size=8), test_events.ENDINGS),
    ),
}


@pytest.mark.all
@pytest.mark.parametrize("claim", CLAIMS)
def test_two_thousand_examples(claim: str) -> None:
    """Every run tests the same claim with a few examples. These are different ones."""
    test, strategies = CLAIMS[claim]

    @seed(SEED)
    @settings(max_examples=EXAMPLES, derandomize=False, database=None, deadline=None, print_blob=True)
    @given(st.tuples(*strategies))
    def check(example: tuple[Any, ...]) -> None:
        test.hypothesis.inner_test(*example)  # type: ignore[attr-defined]

    check()
