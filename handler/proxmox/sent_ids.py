"""Remembers which ids this process may have sent. Pure."""


class SentIds:
    """The ids under which this process may have sent a verb, and how often: the newest 10,000.

    A browser whose connection breaks before the answer's first byte repeats the request by itself, so the operator
    knows of one attempt only. The host's record decides. This keeps a message from saying "nothing was sent", and shows
    that a request is repeated.
    """

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._attempts: dict[str, int] = {}

    def add(self, msg_id: str) -> None:
        """Record that an attempt is about to be sent."""
        self._attempts[msg_id] = self._attempts.pop(msg_id, 0) + 1  # at the end, as the newest
        if len(self._attempts) > self._limit:
            del self._attempts[next(iter(self._attempts))]

    def __contains__(self, msg_id: str) -> bool:
        """Tell whether an attempt is recorded."""
        return msg_id in self._attempts

    def take_back(self, msg_id: str) -> bool:
        """Record that an attempt sent nothing; tell whether no other attempt is recorded."""
        left = self._attempts.pop(msg_id, 2) - 1  # an id that was forgotten may have another attempt
        if left > 0:
            self._attempts[msg_id] = left
        return left <= 0
