"""Counts events for GET /metrics. Loaded only with [metrics]. Each label is a word of this program."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

from prometheus_client import Counter, Histogram, Metric, disable_created_metrics

from ..base import counts
from ..base.audit import OF_CHAT
from ..base.counts import NOTHING, Counts
from ..base.verbs import STAGES, VERBS
from ..chat.events import TOKENS
from ..config.notify import KINDS
from ..proxmox.outcome import HTTP_STATUS

TURN_OUTCOMES = (
    *("ok", "claude-missing", "claude-auth", "claude-overloaded", "claude-rate-limited", "claude-unreachable"),
    *("claude-crashed", "session-lost", "turn-timeout", "cancelled", "busy", "shutting-down"),
)
_REFUSALS = ("unauthorized", "too-slow", "too-large", "client-gone")
_ERRORS = (*_REFUSALS, "stale-timestamp", "forbidden", "bad-request")
_CHAT_ERRORS = ("chat-disabled", "chat-not-isolated", "sessions-unwritable", "session-invalid", "turn-unknown")
OUTCOMES: Mapping[str, tuple[str, ...]] = {  # the outcomes of each route that have a series from the start
    "/pve": (*HTTP_STATUS, "wrong-handler", *_ERRORS),
    "/chat": (*OF_CHAT, "id-reused", "wrong-handler", *_CHAT_ERRORS, *_ERRORS),
    "/alert": ("accepted", "repeated", "ignored", "failed", "unreached", "unknown", *_ERRORS),
    "/metrics": _REFUSALS,
}


def _counter(name: str, text: str, labels: str, known: Iterable[Sequence[str]] = ()) -> Counter:
    """Return a counter with every possible sample at 0, so that `rate` sees the first event."""
    counter = Counter(f"breakglass_{name}", text, labels.split(), registry=None)
    for values in known:
        counter.labels(*values)
    return counter


class Counters(Counts):
    """The counts since this module was loaded."""

    def __init__(self) -> None:
        self.since = time.time()
        self.callers: dict[str, float] = {}  # by name, with the Unix time of the newest request
        known: Iterable[Sequence[str]] = [(route, outcome) for route, all_of in OUTCOMES.items() for outcome in all_of]
        text = "Answered requests by route and outcome, as in the log. For /metrics, only refused requests are counted."
        self.requests = _counter("requests", text, "route outcome", known)
        known = product(VERBS, [outcome for outcome in HTTP_STATUS if outcome != "rejected"])
        self.verbs = _counter("verbs", "Answered requests to run a verb, by verb and outcome.", "verb outcome", known)
        text = (
            "How long each stage of a verb took, measured from the host's messages. Attached requests are not counted."
        )
        name, labels = "breakglass_verb_stage_seconds", ("verb", "stage")
        self.stages = Histogram(name, text, labels, registry=None, buckets=(0.25, 1.0, 5.0, 30.0, 120.0))
        for verb, stages in STAGES.items():
            for stage in stages:
                self.stages.labels(verb, stage)
        text = "Notifications of monitoring systems by source and outcome, as in the log."
        self.notifications = _counter("alert_notifications", text, "source outcome")
        text = (
            "Captures that alerts requested: taken, attached to an existing capture, or refused by the host (failed)."
        )
        self.captures = _counter("alert_captures", text, "source result")
        text = "Messages by kind of receiver: sent, or failed after three tries."
        self.messages = _counter("notifications", text, "to result", product(KINDS, ("sent", "failed")))
        text = "Chat turns that have ended, by ok or by the code of their error."
        self.turns = _counter("turns", text, "outcome", [(code,) for code in TURN_OUTCOMES])
        text = "Tokens that turns used, by kind, as claude reported at the end of each turn."
        self.tokens = _counter("turn_tokens", text, "kind", [(kind,) for kind in TOKENS])
        self.cost = _counter("turn_cost_dollars", "What turns cost in US dollars, as claude reported it.", "")

    def collect(self, sources: Iterable[str]) -> Iterator[Metric]:
        """Yield all metrics; from now on, each source of alerts has its samples."""
        for source in sources:
            for outcome in OUTCOMES["/alert"]:
                self.notifications.labels(source, outcome)
            self.add_captures(source, 0, 0, 0)
        of_requests = (self.requests, self.verbs, self.stages)
        of_alerts = (self.notifications, self.captures, self.messages)
        for metric in (*of_requests, *of_alerts, self.turns, self.tokens, self.cost):
            yield from metric.collect()

    def add_request(self, path: str, outcome: str, caller: str = "", verb: str = "") -> None:
        """Count an answered request to a route of the API. An unknown verb or sender is not counted."""
        route, _, source = path.removeprefix("/").partition("/")
        self.requests.labels(f"/{route}", outcome).inc()
        if caller:
            self.callers[caller] = time.time()
        if source:
            self.notifications.labels(source, outcome).inc()
        elif verb in VERBS and outcome != "rejected":
            self.verbs.labels(verb, outcome).inc()

    def add_captures(self, source: str, taken: int, attached: int, failed: int) -> None:
        """Count the results of the captures that a notification requested."""
        for result, count in (("taken", taken), ("attached", attached), ("failed", failed)):
            self.captures.labels(source, result).inc(count)

    def add_notification(self, to: str, is_sent: bool) -> None:
        """Count a message to a kind of receiver."""
        self.messages.labels(to, "sent" if is_sent else "failed").inc()

    def add_turn(self, code: str, tokens: Mapping[str, float] = NOTHING, cost: float = 0.0) -> None:
        """Count a turn that has ended. An unknown code is no label, because a turn's program could invent it."""
        self.turns.labels(code if code in TURN_OUTCOMES else "claude-crashed").inc()
        self.cost.inc(cost)
        for kind in TOKENS:
            self.tokens.labels(kind).inc(int(tokens.get(kind, 0)))

    def add_stages(self, verb: str, stages: Sequence[tuple[str, float]]) -> None:
        """Count how long each stage of a verb took; a stage that the verb does not have is left out."""
        for stage, seconds in stages:
            if stage in STAGES[verb]:
                self.stages.labels(verb, stage).observe(seconds)


disable_created_metrics()  # type: ignore[no-untyped-call]  # a series for each counter that says when it began
COUNTERS = counts.in_use = Counters()  # from here on, all events are counted
