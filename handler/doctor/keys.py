"""Checks that each key and secret of the configuration is valid, not expired, and used only once."""

from collections.abc import Iterator
from datetime import UTC, datetime

from ..auth.signing import SIGNATURE, Caller, secret_bytes
from ..base.compare import same
from ..base.findings import Finding
from ..base.manager import manager
from ..base.threads import run_in_thread
from ..base.verbs import VERBS
from ..config.model import Config
from ..config.ssh_keys import import_key, public_key
from ..config.warnings import WARN_BEFORE
from .visit import KEYS, Visit, about

SECONDS = 20.0  # because loading one large RSA key takes a second
DOCTOR = "doctor"  # the name of doctor's own caller
POWER = frozenset(name for name, verb in VERBS.items() if verb.mutating)
_LEAST_CHARS = 8  # a random secret of 24 bytes has clearly more different characters
_LEAST_RSA_BITS = 2048

found_ok, found_warning, found_error = about(KEYS)


async def look_at_keys(visit: Visit, found: list[Finding]) -> None:
    """Add the problems of signing keys, SSH keys and the session secrets."""
    found += visit.problems_of(KEYS)
    if config := visit.config:
        now = datetime.fromtimestamp(visit.now, UTC)
        found += [judge_caller(caller, now) for caller in config.callers]
        found += [*_find_rights(config, now), *_find_weak(config)]
        hosts = config.hosts.values()
        found += await run_in_thread(lambda: [_judge_ssh_key(host.name, host.key) for host in hosts], SECONDS)


# --- callers ---


def judge_caller(caller: Caller, now: datetime) -> Finding:
    """Return a finding about whether a caller's key has expired, expires soon, or is valid."""
    if caller.not_after is None:
        return found_ok("caller-key", f"The key of {caller.name} can be used, and does not expire.")
    left = caller.not_after - now
    fix = f"write a later not_after for {caller.name}, then run {manager().reload}; for a new key: {_new_key(caller)}"
    if left.total_seconds() < 0:
        what = f"The key of {caller.name} expired on {caller.not_after:%Y-%m-%d}: each of its requests is refused."
        return found_error("caller-expired", what, fix)
    what = f"The key of {caller.name} expires in {left.days} days, on {caller.not_after:%Y-%m-%d}."
    return found_warning("caller-expires", what, fix) if left < WARN_BEFORE else found_ok("caller-key", what)


def _new_key(caller: Caller) -> str:
    return f"breakglass keys rotate {caller.name}, and with --drop-old once the new one is in use"


def is_valid(caller: Caller, now: datetime) -> bool:
    """Tell whether a caller's key has not expired."""
    return caller.not_after is None or caller.not_after >= now


def _find_rights(config: Config, now: datetime) -> Iterator[Finding]:
    """Find callers that may use no valid VM, and VMs that no valid caller may use."""
    for caller in config.callers:
        if caller.vms is not None and not caller.vms & config.vms.keys():
            names = ", ".join(sorted(caller.vms))
            what = f"{caller.name} may act only on {names}, which is disabled, so each of its requests is refused."
            yield found_error("caller-without-vm", what, f"correct [vms.{min(caller.vms, default='NAME')}]")
        if caller.allow == {"chat"} and config.chat is None:
            what = f"{caller.name} may only chat, but there is no chat, so each of its requests is refused."
            yield found_error("caller-without-chat", what, f"add [chat], or verbs to allow of {caller.name}")
        if caller.name == DOCTOR and caller.allow & POWER:
            what = f"The caller {DOCTOR} may change power, but doctor never needs that."
            yield found_warning("doctor-may-act", what, f'write allow = ["status"] in the entry of {DOCTOR}')
    people = [each for each in config.callers if each.auth_method == SIGNATURE and is_valid(each, now)]
    for name in config.vms:
        allowed = frozenset[str]().union(*(caller.allow for caller in people if caller.may_act_on(name)))
        fix = f"make one: breakglass keys new NAME --allow status,reset,cycle --vms {name}"
        if not allowed - {"chat"}:
            what = f"No caller whose key is valid may act on {name}, so it can't be rescued."
            yield found_error("vm-without-caller", what, fix)
        elif not allowed & POWER:
            what = f"No caller whose key is valid may change the power of {name}: callers may only read its state."
            yield found_warning("vm-without-power", what, fix)


# --- secrets ---


def _find_weak(config: Config) -> Iterator[Finding]:
    """Find secrets that are not random, and session secrets that a caller has and could use to forge tokens."""
    for caller in config.callers:
        if any(len(set(key)) < _LEAST_CHARS for key in caller.keys):
            what = f"The secret of {caller.name} is not random, because it repeats a few characters."
            yield found_warning("secret-weak", what, _new_key(caller))
    for number, secret in enumerate(config.session_secrets):
        key = f"sessions.secret[{number}]"
        new = "make another one: openssl rand -base64 48; write it as sessions.secret, then " + manager().reload
        if len(set(secret)) < _LEAST_CHARS:
            yield found_warning("secret-weak", f"{key} is not random, because it repeats a few characters.", new)
        for caller in config.callers:
            if any(same(own, key_bytes) for own in _readings(secret) for key_bytes in caller.keys):
                what = f"{key} is also the secret of {caller.name}, who can make session tokens for everyone."
                yield found_error("session-secret-shared", what, new)
        if any(same(own, token) for own in _readings(secret) for reader in config.metrics for token in reader.keys):
            what = f"{key} is also the token of [metrics]: Prometheus could make session tokens for everyone."
            yield found_error("session-secret-shared", what, new)
        for host in config.hosts.values():
            if secret.strip() == host.key.strip():
                what = f"{key} is also the SSH key of {host.name}."
                yield found_error("session-secret-shared", what, new)


def _readings(secret: str) -> list[bytes]:
    """Return the possible byte values of a caller's secret."""
    try:
        return [secret.encode(), secret_bytes(secret)]
    except ValueError:
        return [secret.encode()]


# --- SSH keys ---


def _judge_ssh_key(host: str, private: str) -> Finding:
    """Return a finding: why OpenSSH would not accept a host's key, or that the key is usable."""
    key, kind = import_key(private), public_key(private).split()[0]
    fix = f"make a pair: ssh-keygen -t ed25519 -N '' -f NEW; name it in [hosts.{host}]; then run breakglass host"
    fix += f" install-commands --host {host}, and run what it prints on the host"
    bits = getattr(key.pyca_key, "key_size", 0)
    if kind == "ssh-dss":
        why = "is a DSA key, which OpenSSH refuses"
    elif kind == "ssh-ed448":
        why = "is an Ed448 key, which OpenSSH does not know"
    elif kind == "ssh-rsa" and bits < _LEAST_RSA_BITS:
        why = f"is an RSA key of {bits} bits, which servers refuse or will refuse"
    elif kind.startswith("sk-"):
        why = "is on a security key, which a person has to touch at each login"
    else:
        return found_ok("ssh-key", f"The power key of {host} can be used.")
    return found_error("key-unsupported", f"The power key of {host} {why}.", fix)
