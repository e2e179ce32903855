"""The forced command's grammar. It compares the whole line, and refuses a line that does not match."""

import base64
import re
from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from breakglass.agents.pve.grammar import LINE_CHARS, NOTE_BYTES, Malformed, Request, escape, parse_line
from breakglass.agents.pve.words import VERBS
from breakglass.auth.signing import Caller
from breakglass.base.text import REASON_BYTES
from breakglass.base.verbs import VERBS as WORDS_FOR_PEOPLE
from breakglass.config.model import Address, Host, Vm
from breakglass.proxmox.request import VerbRequest
from breakglass.proxmox.wire import CHECK_LINE, PING_LINE, SESSION_LINE, line_of, verb_line

from ..support.rows import each_row, read_rows

ID = "msg_12345678"
# The grammar of the contract, written a second time. The agent's own expression must agree with it.
WORDS = [
    r"vm=[1-9][0-9]{0,8}",
    r"id=[A-Za-z0-9_-]{8,64}",
    r"by=[A-Za-z0-9@._-]{1,64}",
    r"if=[a-z-]{1,32}",
    r"last=(none|[A-Za-z0-9_-]{8,64})",
    r"fresh=[0-9]{1,5}",
    r"anyway=(?:storage-hung|would-not-start)",
    r"proves=(drill|doctor)",
    r"note=[A-Za-z0-9_-]{1,40}",
    r"detach",
    r"no-last-words",
]
LINE = re.compile(f"({'|'.join(VERBS)})" + "".join(f"( {word})?" for word in WORDS))


def note(text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def spelled(request: Request) -> str:
    """Return the only line of the grammar that means this request."""
    words = [
        request.verb,
        request.vm is not None and f"vm={request.vm}",
        request.id and f"id={request.id}",
        request.by and f"by={request.by}",
        request.if_state and f"if={request.if_state}",
        request.if_last and f"last={request.if_last}",
        request.fresh and f"fresh={request.fresh}",
        request.anyway and f"anyway={request.anyway}",
        request.proves and f"proves={request.proves}",
        request.why and f"note={note(request.why)}",
        request.detach and "detach",
        request.no_last_words and "no-last-words",
        request.name and f"name={request.name}",
    ]
    return " ".join(word for word in words if word)


# --- accepted lines ---


@each_row("verb", VERBS)
def test_every_word_in_its_order(verb: str) -> None:
    """A line with every word of the grammar is understood, and spells the same again."""
    line = f"{verb} vm=102 id={ID} by=op@x._-1 if=io-error last={ID} fresh=600{{}}"
    line += f" note={note('hung ☎')} detach no-last-words name=dev.vm-2"
    anyway = {"reset": "storage-hung", "cycle": "would-not-start"}.get(verb, "")
    proves = {"cycle": "drill", "status": "doctor"}.get(verb, "")
    line = line.format((f" anyway={anyway}" if anyway else "") + (f" proves={proves}" if proves else ""))
    texts = (ID, "op@x._-1", "io-error", ID, 600, anyway, proves, "hung ☎")
    assert parse_line(line) == Request(verb, 102, *texts, detach=True, no_last_words=True, name="dev.vm-2")
    assert spelled(parse_line(line)) == line


@each_row(
    "words",
    [
        *("vm=1", "vm=999999999", f"id={'a' * 64}", f"by={'b' * 64}", f"if={'c' * 32}", "last=none", "last=a-_4a-_4"),
        *("fresh=86400", "detach", "no-last-words", f"name={'n' * 253}"),
        *(f"note={note(text)}" for text in (b"n" * NOTE_BYTES, "☎" * (NOTE_BYTES // 3))),
    ],
)
def test_each_word_at_its_limit(words: str) -> None:
    """Every word alone, as long or as large as it may be, is accepted."""
    assert spelled(parse_line(f"reset {words}")) == f"reset {words}"


LIFTS = {"storage-hung": ("reset", "cycle"), "would-not-start": ("cycle",), "": VERBS}
PROVEN = {"drill": ("cycle",), "doctor": ("status",), "": VERBS}


@each_row("verb", VERBS)
def test_each_word_goes_with_its_own_verbs(verb: str) -> None:
    """A bare verb is enough for hands on a keyboard; only a job, and what is noted about it, need its id.

    `anyway` overrides one refusal. A drill is a cycle and a doctor ends with a status, and each has a caller.
    """
    for job, by, anyway, proves in product(("", ID), ("", "op"), LIFTS, PROVEN):
        request = Request(verb, id=job, by=by, anyway=anyway, proves=proves)
        has_id = job or verb not in ("job", "seen", "opinion")
        if has_id and verb in LIFTS[anyway] and verb in PROVEN[proves] and (by or not proves):
            assert parse_line(spelled(request)) == request
        else:
            with pytest.raises(Malformed):
                parse_line(spelled(request))


# --- refused lines ---

MALFORMED = [
    *read_rows("hostile_texts.yaml", id=ID)["lines"].values(),
    f"reset note={note(b'n' * (NOTE_BYTES + 1))}",
    "reset note=" + "A" * 2**20,
]


@each_row("line", MALFORMED)
def test_what_is_not_of_the_grammar_is_malformed(line: str) -> None:
    """A line with any difference is refused as a whole."""
    with pytest.raises(Malformed):
        parse_line(line)


# --- any line ---


def edited_lines() -> st.SearchStrategy[str]:
    """Lines of the contract with an insertion, a deletion or a repetition."""
    edits: list[Callable[[str, int, str], str]] = [
        lambda line, at, text: line[:at] + text + line[at:],
        lambda line, at, text: line[:at] + line[at + 1 :],
        lambda line, at, text: line[:at] + line[at:] * 2,
    ]
    lines = st.from_regex(LINE, fullmatch=True)
    return st.builds(lambda edit, *found: edit(*found), st.sampled_from(edits), lines, st.integers(0, 80), st.text())


@pytest.mark.all
@given(st.text() | edited_lines())
@settings(deadline=None, max_examples=300)
def test_any_text_is_malformed_or_means_what_it_spells(line: str) -> None:
    """Any text of a key is Malformed, or a line of the contract that is written the same again."""
    try:
        request = parse_line(line)
    except Malformed:
        return
    assert re.fullmatch(LINE.pattern.replace("{1,40}", "{1,10923}"), line)
    assert parse_line(spelled(request)) == request


@given(st.binary(min_size=1, max_size=200))
@settings(deadline=None)
def test_a_note_is_data(data: bytes) -> None:
    """Any bytes can be a note. Bytes that are not UTF-8 are replaced, and the others are not changed."""
    assert parse_line(f"reset note={note(data)}").why == data.decode("utf-8", "replace")


# --- the handler's lines ---

VM = Vm("devvm", 102, (Host("pve1", Address("breakglass", "192.0.2.10"), "the key"),))
jobs = st.from_regex(r"[A-Za-z0-9_-]{8,64}", fullmatch=True)
requests = st.builds(
    VerbRequest,
    verb=st.sampled_from(list(WORDS_FOR_PEOPLE)),
    vm=st.just(VM),
    id=jobs,
    caller=st.from_regex(r"[A-Za-z0-9@._-]{1,64}", fullmatch=True).map(lambda name: Caller(name, (), frozenset())),
    received=st.just(0.0),
    reason=st.text() | st.text(min_size=1).map(lambda text: text * (REASON_BYTES // len(text))),
    if_state=st.just("") | st.from_regex(r"[a-z-]{1,32}", fullmatch=True),
    if_last=st.sampled_from(["", "none"]) | jobs,
)


@given(requests)
@settings(deadline=None)
def test_every_line_of_the_handler_is_understood(request: VerbRequest) -> None:
    """The host agent understands every line that the handler makes, and reads the caller's fields in it."""
    parsed = parse_line(verb_line(request))
    assert (parsed.verb, parsed.vm) == (request.verb, 102)
    if request.rules.is_job:
        assert (parsed.id, parsed.by) == (request.id, request.caller.name)
        assert (parsed.if_state, parsed.if_last) == (request.if_state, request.if_last)
        assert parsed.why == request.reason.encode()[:REASON_BYTES].decode("utf-8", "ignore")


def test_the_handlers_own_lines_are_understood() -> None:
    lines = {PING_LINE: Request("ping"), SESSION_LINE: Request("session"), CHECK_LINE: Request("check")}
    lines |= {f"{CHECK_LINE} vm=102": Request("check", 102), line_of("job", 102, id=ID): Request("job", 102, id=ID)}
    assert {line: parse_line(line) for line in lines} == lines


def test_the_longest_line_of_the_handler_fits() -> None:
    """A line with every word as long as it can be fits into what the agent reads."""
    caller = Caller("b" * 64, (), frozenset())
    line = verb_line(
        VerbRequest(
            "forensics", VM, "i" * 64, caller, 0.0, reason="☎" * REASON_BYTES, if_state="s" * 32, if_last="l" * 64
        )
    )
    assert parse_line(line).why == "☎" * (REASON_BYTES // len("☎".encode()))
    assert len(line) < LINE_CHARS


# --- the log ---


@given(st.text(st.characters(exclude_categories=())), st.integers(0, 300))
@settings(deadline=None)
def test_what_was_refused_is_logged_on_one_line(line: str, limit: int) -> None:
    """Any text is logged as printable ASCII on one bounded line, which says where it was cut."""
    shown = escape(line, limit)
    assert shown.removesuffix("…").isascii()
    assert shown.isprintable()
    assert len(shown) <= 10 * limit + 1
    assert shown.endswith("…") == (len(line) > limit)
