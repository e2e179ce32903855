"""Request bodies: strict JSON, known fields, the right types, or a 400 that says which."""

import json
import re
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breakglass.base.errors import BadRequest
from breakglass.base.verbs import VERBS
from breakglass.web.bodies import parse_verb_body

from ..support.any_json import any_objects
from ..support.rows import each_row

TEXTS = ("verb", "reason", "if_state", "if_last", "job", "anyway", "proves", "vm", "challenge", "to")
FIELDS = (*TEXTS[:7], "again", *TEXTS[7:])  # as the hint lists them
JOB = "msg_12345678"


def body(**fields: object) -> bytes:
    return json.dumps({"verb": "status", **fields}).encode()


# --- accepted bodies ---


def test_every_field_is_read() -> None:
    """Each field of the contract is read as it was sent, including white space and escapes."""
    sent: dict[str, object] = {
        "verb": "cycle",
        "vm": "devvm",
        "reason": "hung ☎\n",
        "if_state": "io-error",
        "if_last": JOB,
        "job": JOB,
    }
    sent |= {"anyway": "storage-hung", "proves": "drill", "challenge": "1795500000.abc", "to": "https://a.example/"}
    sent |= {"again": True}
    assert asdict(parse_verb_body(json.dumps(sent, indent=2).encode())) == sent
    assert asdict(parse_verb_body(json.dumps(sent, ensure_ascii=False).encode())) == sent
    for more in ({"if_state": "a" * 32}, {"if_last": "none"}, {"if_last": "Z" * 64}, {"job": "-_-_-_-_"}, {"job": ""}):
        fields = {"verb": "no such verb", "vm": "../x", **more}  # verb and vm are judged elsewhere
        assert fields.items() <= asdict(parse_verb_body(body(**fields))).items()


# --- refused bodies ---

NOT_JSON = {
    "nothing": b"",
    "two objects": b'{"verb":"status"}{"verb":"reset"}',
    "a trailing NUL": b'{"verb":"status"}\0',
    "a key twice": b'{"verb":"status","verb":"reset"}',
    "a key twice, once escaped": b'{"verb":"status","\\u0076erb":"reset"}',
    "NaN": b'{"verb":NaN}',
    "deep closed arrays": b'{"verb":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a number of 15,000 digits": b'{"verb":' + b"9" * 15_000 + b"}",
    "not UTF-8": b'{"verb":"\xff"}',
    "a byte order mark": b'\xef\xbb\xbf{"verb":"status"}',
}


NO_SHAPES = [
    *(("if_state", value) for value in ("Running", "running\n", "run ning", "a" * 33, "st\u043epped")),
    *(
        (field, value)
        for field in ("if_last", "job")
        for value in ("short", "x" * 65, f"{JOB}\n", f" {JOB}", "msg.12345678", "../../etc", "msg_123\u0664\u0665")
    ),
    *(("if_last", "None"), ("if_last", "none\n"), ("job", "none")),
]
NO_WORDS = [
    *(("anyway", code) for code in ("storage-hung ", "Storage-Hung", "locked", "yes", "*", "drill", "x" * 5000, "é\n")),
    *(("proves", word) for word in ("Drill", "drill\n", "reset", "storage-hung")),
]
NO_NAMES = ("prompt", "Verb", "verb ", "", "__class__", "command", "\ud800", "x" * 5000, "é\n")
NO_TEXTS: tuple[object, ...] = (None, 1, 1.5, True, [], ["status"], {}, "\ud800", "a\udfff")
NO_FLAGS: tuple[object, ...] = (1, 0, "true", "", None, [], {})
REFUSED = [
    *((sent, "^the body is not JSON: ") for sent in NOT_JSON.values()),
    *((sent, "^the body is not a JSON object$") for sent in (b"null", b"1", b'"status"', b"[]", b"true", b"1e999")),
    *((sent, '^"verb" is missing$') for sent in (b"{}", b'{"vm":"devvm"}')),
    *((body(**{field: value}), f'^"{field}" is not text$') for field in TEXTS for value in NO_TEXTS),
    *((body(again=value), '^"again" is not true or false$') for value in NO_FLAGS),
    *((body(**{name: "x"}), '^unknown field "') for name in NO_NAMES),
    *((body(**{field: value}), f'^"{field}" has an invalid character or length') for field, value in NO_SHAPES),
    *(
        (body(verb="cycle", **{field: word}), f'^"{field}" can\'t be ".*"; nothing was sent$')
        for field, word in NO_WORDS
    ),
]


@each_row(("sent", "message"), REFUSED)
def test_what_is_refused(sent: bytes, message: str) -> None:
    """It is a body that two parsers could read differently, a field or value that the contract lacks, or a wrong type.

    A shape that the host's grammar has no word for is refused here, a newline at its end included. The message names
    the field, and shows a value cut and in ASCII.
    """
    with pytest.raises(BadRequest, match=message) as caught:
        parse_verb_body(sent)
    assert caught.value.message.isascii()
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300
    assert caught.value.hint


@each_row("verb", [*VERBS, "no such verb", "reset "])
@each_row(
    ("field", "word", "verbs"),
    [
        ("anyway", "storage-hung", ("reset", "cycle")),
        ("anyway", "would-not-start", ("cycle",)),  # a reset never asks whether the VM could start
        ("proves", "drill", ("cycle",)),
        ("proves", "doctor", ("status",)),
    ],
)
def test_a_word_goes_with_its_own_verbs(verb: str, field: str, word: str, verbs: tuple[str, ...]) -> None:
    """With another verb, the word is refused, and the hint names its own verbs."""
    if verb in verbs:
        assert getattr(parse_verb_body(body(verb=verb, **{field: word})), field) == word
        return
    with pytest.raises(BadRequest) as caught:
        parse_verb_body(body(verb=verb, **{field: word}))
    assert caught.value.message.startswith(f'"{field}":"{word}" ')
    assert f' "{verb}";' in caught.value.message
    assert re.findall("|".join(VERBS), caught.value.hint) == list(verbs)


# --- anything at all ---

bodies = (
    st.binary()
    | st.text().map(str.encode)
    | any_objects(FIELDS, ["none", JOB, "reset", "devvm", "storage-hung"]).map(
        lambda fields: json.dumps(fields).encode()
    )
)


@given(bodies)
def test_any_bytes_at_all_are_a_request_or_a_bad_request(sent: bytes) -> None:
    """Any bytes are either a request whose texts are valid UTF-8, or a BadRequest."""
    try:
        fields = asdict(parse_verb_body(sent))
        assert fields.pop("again") in (False, True)
        texts = list(fields.values())
    except BadRequest as error:
        texts = [error.message, error.hint]
        assert all(texts)
    assert all(isinstance(text, str) and text.encode().decode() == text for text in texts)
