"""What is wrong with this handler, as far as it knows without asking a host: for /health, /ready and /metrics. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..auth.signing import Caller
from ..base.findings import Finding, error, warning
from ..base.times import rfc3339
from ..config.model import Config
from ..config.warnings import WARN_BEFORE

REACHED = ("answering", "agent-outdated")  # states in which a verb reaches its host
CHAT_WORKS = ("on", "none")  # states of chat that are as the configuration wants it
# What each code means, in a sentence that names nothing.
GENERAL: Mapping[str, str] = {
    "config-rejected": "A reload was rejected: an older configuration is in force.",
    "config-degraded": "The configuration has errors, and each part with an error is disabled.",
    "key-expired": "The key of a caller has expired.",
    "key-expires": f"The key of a caller expires within {WARN_BEFORE.days} days.",
    "host-down": "A host is not reachable.",
    "vm-down": "A VM is not reachable.",
    "chat-down": "Chat is configured and does not work.",
}
_MEND = "breakglass check; correct what it names, then systemctl reload breakglass"


@dataclass(frozen=True)
class Condition:
    """What the handler knows at a time, `at`, in Unix seconds.

    `hosts` and `vms` are the states by name, also of those that are `disabled`. `chat_why` says more about a
    chat that does not work; it can name files.
    """

    config: Config
    at: float
    hosts: Mapping[str, str]
    vms: Mapping[str, str]
    chat: str
    chat_why: str = ""
    rejected_since: float | None = None

    @property
    def expired(self) -> list[Caller]:
        """The callers whose key has expired, from that moment on and without a reload."""
        return [
            caller for caller in self.config.callers if (left := self.seconds_left(caller)) is not None and left < 0
        ]

    @property
    def expiring(self) -> list[Caller]:
        """The callers whose key expires soon."""
        most = WARN_BEFORE.total_seconds()
        found = ((caller, self.seconds_left(caller)) for caller in self.config.callers)
        return [caller for caller, left in found if left is not None and 0 <= left < most]

    def seconds_left(self, caller: Caller) -> float | None:
        """Return how long a caller's key is still good, negative once it has expired; None if it does not expire."""
        return None if caller.not_after is None else caller.not_after.timestamp() - self.at

    @property
    def problems(self) -> int:
        """How many faults the configuration in force has now. An expired key is one."""
        return len(self.config.problems) + len(self.expired)

    @property
    def config_state(self) -> str:
        """The field `config` of /health."""
        count, since = self.problems, self.rejected_since
        found = [f"rejected since {rfc3339(since)}"] if since else []
        found += [f"degraded: {count} problem{'s' * (count > 1)}"] if count else []
        return "; ".join(found) or "ok"

    @property
    def faults(self) -> list[Finding]:
        """Why a rescue, or chat, does not work now, or soon will not; nothing if the handler is ready."""
        return [*self._config_faults(), *self._key_faults(), *self._reach_faults(), *self._chat_faults()]

    def _config_faults(self) -> Iterable[Finding]:
        if self.rejected_since:
            sentence = f"A reload was rejected at {rfc3339(self.rejected_since)}: an older configuration is in force."
            yield error("configuration", "config-rejected", sentence, _MEND)
        if self.config.problems:
            places = ", ".join(dict.fromkeys(problem.place for problem in self.config.problems))
            sentence = f"The configuration has faults in {places}; the log lists them."
            yield error("configuration", "config-degraded", sentence, _MEND)

    def _key_faults(self) -> Iterable[Finding]:
        fix = "write a later not_after"
        for caller in self.expired:
            yield error(caller.name, "key-expired", f"The key of {caller.name} expired on {_day(caller)}.", fix)
        for caller in self.expiring:
            yield warning(caller.name, "key-expires", f"The key of {caller.name} expires on {_day(caller)}.", fix)

    def _reach_faults(self) -> Iterable[Finding]:
        for word, states in (("host", self.hosts), ("VM", self.vms)):
            for name, state in states.items():
                if state not in REACHED:
                    sentence = f"The {word} {name} is not reachable: {state}."
                    yield error(f"{word} {name}", f"{word.lower()}-down", sentence, "breakglass doctor")

    def _chat_faults(self) -> Iterable[Finding]:
        if self.chat not in CHAT_WORKS:
            sentence = f"Chat: {self.chat}" + (f", {self.chat_why}." if self.chat_why else ".")
            yield error("chat", "chat-down", sentence, "breakglass doctor")


def _day(caller: Caller) -> str:
    assert caller.not_after is not None
    return f"{caller.not_after:%Y-%m-%d}"
