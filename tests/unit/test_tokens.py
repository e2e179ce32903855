"""Session tokens: who may continue which conversation, and for how long."""

import hashlib
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from itsdangerous import URLSafeSerializer

from breakglass.chat.request import SessionInvalid
from breakglass.chat.tokens import Session, seal, unseal

from ..support.rows import each_row

OLD, NEW = "o" * 32, "n" * 32
SESSION = Session(str(uuid.UUID(int=0xABC << 64)), "operator", "devvm", 2000)


def refused(token: str, keys: tuple[str, ...] = (NEW,), caller: str = "operator", now: float = 1000) -> str:
    with pytest.raises(SessionInvalid) as caught:
        unseal(token, keys, caller, now)
    assert (caught.value.status, caught.value.code) == (403, "session-invalid")
    return caught.value.message


def test_a_session_is_its_callers_until_it_expires() -> None:
    """Another caller can't continue it, even if its owner handed it over."""
    token = seal(SESSION, [NEW])
    assert unseal(token, [NEW], "operator", 1999) == SESSION
    assert "expired" in refused(token, now=2000)
    assert "another caller" in refused(token, caller="operator2")


def test_keys_rotate() -> None:
    """The newest key, which is the last, signs. An older one is still accepted, and a removed one is not."""
    assert unseal(seal(SESSION, [OLD]), [OLD, NEW], "operator", 1000) == SESSION
    assert unseal(seal(SESSION, [OLD, NEW]), [NEW], "operator", 1000) == SESSION
    assert "changed" in refused(seal(SESSION, [OLD]), (NEW,))


SALT = "breakglass.session"
NO_IDS = ("--help", "x", SESSION.sid + "\n", SESSION.sid.upper(), "../" + SESSION.sid, "", 7, None)


@each_row(("sid", "salt"), [*((sid, SALT) for sid in NO_IDS), (SESSION.sid, "breakglass.challenge")])
def test_an_id_is_matched_whole(sid: object, salt: str) -> None:
    """Even with our own signature, a text that is not a UUID does not reach a command line.

    A token that the same key signed for another purpose is not accepted as a session.
    """
    serializer = URLSafeSerializer([NEW], salt=salt, signer_kwargs={"digest_method": hashlib.sha256})
    assert salt != SALT or serializer.loads(seal(SESSION, [NEW]))["sid"] == SESSION.sid  # it is signed as ours are
    refused(str(serializer.dumps({"sid": sid, "caller": "operator", "vm": "devvm", "exp": 2000})))


@given(st.data())
@settings(deadline=None)
def test_a_changed_token_is_refused(data: st.DataObject) -> None:
    """If one character is changed, cut or added anywhere, the token is refused."""
    token = seal(SESSION, [NEW])
    at = data.draw(st.integers(0, len(token) - 2))  # the last one's spare bits mean nothing in base64
    letter = data.draw(st.sampled_from("Aa0-_.~é\0").filter(lambda new: new != token[at]))
    refused(token[:at] + letter + token[at + 1 :])
    refused(token[:at])
