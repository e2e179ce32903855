"""Authentication: finds the caller from bytes and headers, or refuses in one uniform way. Pure.

Standard Webhooks v1, strictly (spec/standard-webhooks.md 1.0.0). The senders of alerts can't sign by that standard, so
they use Grafana's own signature (grafana/alerting, http/hmac.go) or a bearer token. Deliberately not supported: v1a
(ed25519), identity from a proxy's header, unsigned requests, a wider tolerance, Grafana's signature without a
timestamp.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ..base.compare import same
from ..base.errors import Forbidden, StaleTimestamp, Unauthorized

TOLERANCE = 300
SECRET_BYTES = range(24, 65)

MALFORMED, UNKNOWN = "malformed", "unknown signature"  # the reasons why a request is unauthorized
SIGNATURE, GRAFANA, BEARER = "signature", "grafana", "bearer"  # the auth methods
GRAFANA_SIGNATURE, GRAFANA_TIMESTAMP = "x-grafana-alerting-signature", "x-grafana-alerting-timestamp"
TOKEN = re.compile(r"bgt_[A-Za-z0-9_-]{43,128}", re.ASCII)  # 32 random bytes as base64url have 43 characters

# An id may not contain a dot, so that "{id}.{timestamp}.{body}" can be read in one way only.
ID = re.compile(r"[A-Za-z0-9_-]{8,64}", re.ASCII)
# No sign, no leading zero, no fraction, so each number has only one spelling.
_TIMESTAMP = re.compile(r"[1-9][0-9]{9}", re.ASCII)
_ENTRY = re.compile(r"v1,([A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=)", re.ASCII)
_MOST_SIGNATURES = 5
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_BEARER = re.compile(r"bearer +(bgt_.*)", re.ASCII | re.IGNORECASE | re.DOTALL)

Headers = Mapping[str, str]


@dataclass(frozen=True)
class Caller:
    """One person, device or sender, with its one auth method.

    `keys` are raw bytes and are never shown. `vms` is None if every VM is allowed.
    """

    name: str
    keys: tuple[bytes, ...]
    allow: frozenset[str]
    vms: frozenset[str] | None = None
    not_after: datetime | None = None
    auth_method: str = SIGNATURE

    def __repr__(self) -> str:
        return f"Caller({self.name})"

    def may_act_on(self, vm: str) -> bool:
        """Tell whether this caller may act on a VM with this name."""
        return self.vms is None or vm in self.vms

    def refusal(self, verb: str, vm: str | None, now: float) -> Forbidden | None:
        """Return why this caller may not do the verb on the VM at this time, or None if it may.

        `vm` is a name; None stands for any VM.
        """
        if self.not_after and self.not_after.timestamp() < now:
            expired = f"the key of {self.name} expired on {self.not_after:%Y-%m-%d}"
            return Forbidden(expired, f"write a later callers.{self.name}.not_after")
        if verb not in self.allow:
            return Forbidden(f'{self.name} may not "{verb}"', f"add it to callers.{self.name}.allow")
        if vm is not None and not self.may_act_on(vm):
            return Forbidden(f"{self.name} may not touch {vm}", f"add it to callers.{self.name}.vms")
        return None


@dataclass(frozen=True)
class Signed:
    """A request with a good signature. `check_age` checks its age. Grafana's requests have no id.

    `key` is the fingerprint of the signing key.
    """

    caller: Caller
    id: str
    timestamp: int
    key: str = field(default="", compare=False)


def fingerprint(key: bytes) -> str:
    """Return the name of a key in the log, the first 8 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(key).hexdigest()[:8]


def secret_bytes(secret: str) -> bytes:
    """Return the key bytes of a `whsec_…` secret; raise ValueError if it is not 24 to 64 bytes of base64."""
    if not secret.startswith("whsec_"):
        raise ValueError("does not begin with whsec_")
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:  # raised for wrong base64 and for characters outside ASCII
        raise ValueError("is not base64 after whsec_") from None
    if len(key) not in SECRET_BYTES:
        raise ValueError(f"has {len(key)} bytes; 24 to 64 are needed")
    return key


def sign(key: bytes, msg_id: str, timestamp: int, body: bytes) -> str:
    """Return the `webhook-signature` value for a body."""
    digest = hmac.digest(key, b"%s.%d.%s" % (msg_id.encode(), timestamp, body), "sha256")
    return "v1," + base64.b64encode(digest).decode()


def verify(callers: Iterable[Caller], headers: Headers, body: bytes) -> Signed:
    """Return the caller that signed `body` by Standard Webhooks, with the id and the time.

    Every key of every caller is compared with every signature, without an early exit, so the duration reveals nothing.
    Raises the same Unauthorized for every fault.
    """
    claimed = claimed_digests(headers)
    if not claimed:
        raise Unauthorized(why=MALFORMED)
    msg_id, timestamp = headers["webhook-id"], headers["webhook-timestamp"]
    signed_bytes = f"{msg_id}.{timestamp}.".encode() + body
    caller, key = _find_caller(callers, SIGNATURE, lambda key: hmac.digest(key, signed_bytes, "sha256"), claimed)
    return Signed(caller, msg_id, int(timestamp), key)


def claimed_digests(headers: Headers) -> list[bytes]:
    """Return the digests in a request's signature headers, or none if the headers are malformed."""
    msg_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    well_formed = ID.fullmatch(msg_id) and _TIMESTAMP.fullmatch(timestamp)
    return _entries(headers.get("webhook-signature", "")) if well_formed else []


def verify_grafana(callers: Iterable[Caller], headers: Headers, body: bytes) -> Signed:
    """Return the Grafana caller that signed `body`, and the time. Checks hex HMAC-SHA256 of "{timestamp}:{body}".

    The timestamp is required, because without it an attacker could replay the same body at any later time.
    """
    claimed = claimed_grafana_digests(headers)
    if not claimed:
        raise Unauthorized(why=MALFORMED)
    signed_bytes = f"{headers[GRAFANA_TIMESTAMP]}:".encode() + body
    caller, key = _find_caller(callers, GRAFANA, lambda key: hmac.digest(key, signed_bytes, "sha256"), claimed)
    return Signed(caller, "", int(headers[GRAFANA_TIMESTAMP]), key)


def claimed_grafana_digests(headers: Headers) -> list[bytes]:
    """Return the digest in Grafana's signature header, or none if the headers are malformed."""
    claimed = headers.get(GRAFANA_SIGNATURE, "")
    well_formed = _TIMESTAMP.fullmatch(headers.get(GRAFANA_TIMESTAMP, "")) and _HEX_DIGEST.fullmatch(claimed)
    return [bytes.fromhex(claimed)] if well_formed else []


def _find_caller(
    callers: Iterable[Caller], auth_method: str, proof: Callable[[bytes], bytes], claimed: list[bytes]
) -> tuple[Caller, str]:
    """Return the caller whose key gives one of the claimed proofs, and that key's fingerprint.

    Raise Unauthorized if no caller fits.
    """
    found: tuple[Caller, bytes] | None = None
    for caller in callers:
        for key in caller.keys if caller.auth_method == auth_method else ():
            expected = proof(key)
            for claim in claimed:
                if same(expected, claim):
                    found = caller, key
    if found is None:
        raise Unauthorized(why=UNKNOWN)
    return found[0], fingerprint(found[1])


def bearer_token(headers: Headers) -> str | None:
    """Return the bearer token of a request, or None.

    Other credentials are meant for a proxy and are ignored.
    """
    match = _BEARER.fullmatch(headers.get("authorization", ""))
    return match[1] if match else None


def verify_bearer(callers: Iterable[Caller], token: str) -> tuple[Caller, str]:
    """Return the caller that has this token, and the token's fingerprint. Raises Unauthorized if no caller has it."""
    return _find_caller(callers, BEARER, lambda key: key, [token.encode()])


def _entries(header: str) -> list[bytes]:
    """Return the claimed digests, or none if any part of the header is malformed."""
    matches = [_ENTRY.fullmatch(entry) for entry in header.split(" ", _MOST_SIGNATURES)]
    if len(matches) > _MOST_SIGNATURES:
        return []
    try:
        return [base64.b64decode(match[1], validate=True) for match in matches if match] if all(matches) else []
    except binascii.Error:
        return []


def check_age(signed: Signed, now: int) -> None:
    """Raise StaleTimestamp when a valid signature is more than TOLERANCE seconds old or early."""
    age = now - signed.timestamp
    if abs(age) <= TOLERANCE:
        return
    off = f"{age} s old" if age > 0 else f"{-age} s in the future"
    raise StaleTimestamp(
        f"the timestamp is {off}; the limit is {TOLERANCE} s",
        "check the clock of the device that signed",
        server_time=now,
    )
