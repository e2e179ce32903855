"""What the handler counts since its start. Knows nothing of HTTP and of Prometheus: web/exposition.py shows it.

Only the thread of the event loop counts, so there is no lock, and nothing here waits. Each key is made of words of this
program, except for callers' names, which are those of the configuration.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from .verbs import VERBS

_PROPER = ("preflight", "forensics", "verify")
STAGES = {  # of each verb, as the host agent names them; a reading verb has one stage, itself
    "status": ("status",),
    "history": ("history",),
    "screen": ("screen",),
    "forensics": ("preflight", "forensics"),
    "start": (*_PROPER, "start"),
    "stop": (*_PROPER, "stop"),
    "reset": (*_PROPER, "reset"),
    "cycle": (*_PROPER, "stop", "start"),
}
BUCKETS = (0.25, 1.0, 5.0, 30.0, 120.0)  # seconds of a stage
NOTHING: Mapping[str, float] = {}
TOKEN_KINDS = ("input", "output", "cache_read", "cache_write")


class Durations:
    """How long something took: how often, its seconds, and how often at most as long as each of BUCKETS."""

    def __init__(self) -> None:
        self.count, self.seconds = 0, 0.0
        self.within = [0] * len(BUCKETS)

    def add(self, seconds: float) -> None:
        """Count one."""
        self.count += 1
        self.seconds += seconds
        for number, bucket in enumerate(BUCKETS):
            self.within[number] += seconds <= bucket


class Counts:
    """The counts of one handler."""

    def __init__(self) -> None:
        self.since = time.time()
        self.requests: Counter[tuple[str, str]] = Counter()  # by route and outcome
        self.verbs: Counter[tuple[str, str]] = Counter()  # by verb and outcome
        self.stages: dict[tuple[str, str], Durations] = {
            (verb, stage): Durations() for verb, stages in STAGES.items() for stage in stages
        }
        self.callers: dict[str, float] = {}  # by name, the Unix time of the newest request
        self.notifications: Counter[tuple[str, str]] = Counter()  # by source and outcome
        self.captures: Counter[tuple[str, str]] = Counter()  # by source and what became of them
        self.turns: Counter[str] = Counter()  # by `ok` or the code of their error
        self.tokens: Counter[str] = Counter()  # by kind
        self.cost = 0.0  # US dollars

    def add_request(self, path: str, outcome: str, caller: str = "", verb: str = "") -> None:
        """Count an answered request to a route of the API. A verb or a sender that does not exist is not counted."""
        route, _, source = path.removeprefix("/").partition("/")
        self.requests[f"/{route}", outcome] += 1
        if caller:
            self.callers[caller] = time.time()
        if source:
            self.notifications[source, outcome] += 1
        elif verb in VERBS and outcome != "rejected":
            self.verbs[verb, outcome] += 1

    def add_captures(self, source: str, taken: int, attached: int, failed: int) -> None:
        """Count what became of the captures that a notification asked for."""
        self.captures.update({(source, "taken"): taken, (source, "attached"): attached, (source, "failed"): failed})

    def add_turn(self, code: str, tokens: Mapping[str, float] = NOTHING, cost: float = 0.0) -> None:
        """Count a turn that has ended: `ok`, or the code of its error."""
        self.turns[code] += 1
        self.cost += cost
        for kind in TOKEN_KINDS:
            self.tokens[kind] += int(tokens.get(kind, 0))

    def add_stages(self, verb: str, stages: Sequence[tuple[str, float]]) -> None:
        """Count how long each stage of a verb took; a stage that the verb does not have is left out."""
        for stage, seconds in stages:
            if (verb, stage) in self.stages:
                self.stages[verb, stage].add(seconds)


COUNTS = Counts()


class StageClock:
    """Times the stages of one request's verb by the host's messages, and counts them when its result comes.

    A request that attached to a job gets its old messages at once, and one without a session gets all of them at the
    end, after the stage `accepted`. Their times say nothing, so they are not counted.
    """

    def __init__(self, verb: str, counts: Counts = COUNTS) -> None:
        self._verb, self._counts = verb, counts
        self._stage = "" if "preflight" in STAGES[verb] else verb
        self._since = time.monotonic()
        self._found: list[tuple[str, float]] = []

    def see(self, message: Mapping[str, object]) -> None:
        """Take the next message from the host."""
        if message["type"] == "output":
            return
        now = time.monotonic()
        self._found.append((self._stage, now - self._since))
        self._stage, self._since = str(message.get("stage", "")), now
        is_timed = not (message.get("attached") or any(stage == "accepted" for stage, _ in self._found))
        if message["type"] == "result" and is_timed:
            self._counts.add_stages(self._verb, self._found)
