"""Finds this handler's faults without asking a host, for /health, /ready and /metrics. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from ..base.findings import Finding, error
from ..base.times import rfc3339
from ..config.model import Config
from ..config.warnings import WARN_BEFORE, warn_of_expiry

REACHED = ("answering", "agent-outdated")  # states in which a verb reaches its host
CHAT_WORKS = ("on", "none")  # states of chat that match the configuration
# The meaning of each code, in a sentence without names of hosts or VMs.
GENERAL: Mapping[str, str] = {
    "config-rejected": "A reload was rejected, so an older configuration is in force.",
    "config-degraded": "The configuration has errors, and each part with an error is disabled.",
    "caller-expired": "The key of a caller has expired.",
    "caller-expires": f"The key of a caller expires within {WARN_BEFORE.days} days.",
    "host-down": "A host is not reachable.",
    "vm-down": "A VM is not reachable.",
    "chat-down": "Chat is configured and does not work.",
    "notify-failed": "A message could not be sent.",
}
_MEND = "run breakglass check; correct the errors that it names, then reload the handler"


@dataclass(frozen=True)
class Condition:
    """What the handler knows at the time `at` (Unix seconds).

    `hosts` and `vms` are the states by name, including `disabled` ones. `chat_why` says why chat does not work, and can
    name files. `not_told` has the receivers that did not get a message, and why.
    """

    config: Config
    at: float
    hosts: Mapping[str, str]
    vms: Mapping[str, str]
    chat: str
    chat_why: str = ""
    rejected_since: float | None = None
    not_told: Mapping[str, str] = field(default_factory=dict)

    @property
    def key_faults(self) -> list[Finding]:
        """The callers whose key has expired or expires soon. The time is checked now, without a reload."""
        now = datetime.fromtimestamp(self.at, UTC)
        return [each for caller in self.config.callers for each in warn_of_expiry(caller, now)]

    @property
    def problems(self) -> int:
        """The number of faults in the current configuration. An expired key counts as a fault."""
        return len(self.config.problems) + sum(each.code == "caller-expired" for each in self.key_faults)

    @property
    def config_state(self) -> str:
        """The field `config` of /health."""
        count, since = self.problems, self.rejected_since
        found = [f"rejected since {rfc3339(since)}"] if since else []
        found += [f"degraded: {count} problem{'s' * (count > 1)}"] if count else []
        return "; ".join(found) or "ok"

    @property
    def faults(self) -> list[Finding]:
        """Why a rescue or chat does not work, or soon will not. Empty if the handler is ready."""
        return [*self._config_faults(), *self._key_faults(), *self._reach_faults(), *self._other_faults()]

    def _config_faults(self) -> Iterable[Finding]:
        if self.rejected_since:
            at = rfc3339(self.rejected_since)
            sentence = f"A reload was rejected at {at}, so an older configuration is in force."
            yield error("configuration", "config-rejected", sentence, _MEND)
        if self.config.problems:
            places = ", ".join(dict.fromkeys(problem.place for problem in self.config.problems))
            sentence = f"The configuration has faults in {places}; the log lists them."
            yield error("configuration", "config-degraded", sentence, _MEND)

    def _key_faults(self) -> Iterable[Finding]:
        for each in self.key_faults:
            yield replace(each, sentence=f"{each.sentence[:1].upper()}{each.sentence[1:]}.")

    def _reach_faults(self) -> Iterable[Finding]:
        for word, states in (("host", self.hosts), ("VM", self.vms)):
            for name, state in states.items():
                if state not in REACHED:
                    sentence = f"The {word} {name} is not reachable: {state}."
                    yield error(f"{word} {name}", f"{word.lower()}-down", sentence, "breakglass doctor")

    def _other_faults(self) -> Iterable[Finding]:
        if self.chat not in CHAT_WORKS:
            sentence = f"Chat: {self.chat}" + (f", {self.chat_why}." if self.chat_why else ".")
            yield error("chat", "chat-down", sentence, "breakglass doctor")
        for name, why in self.not_told.items():
            sentence = f"A message to {name} could not be sent: {why}."
            yield error(name, "notify-failed", sentence, "breakglass notify test")
