"""Values of any shape for `json.dumps`, as hypothesis strategies.

Each value is made from one number, because hypothesis takes a thousand times as long to draw a value leaf by leaf.
"""

import json
import random
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

_LETTERS = "aZ09 _-./=:\"\\'{}[]<>&%\x00\x07\n\r\t\x1b\x7f\x85äß€☎\u200b\u2028\u202e\ud800\udfff😀\U0010ffff"
_NUMBERS = (0, -1, 1, 255, -(2**31), 2**53 + 1, 2**64, 10**300, 0.5, -0.0, 1e300, 5e-324)
_NO_NUMBERS = (float("nan"), float("inf"), float("-inf"))


def any_values(names: Sequence[str], words: Sequence[str] = ()) -> st.SearchStrategy[Any]:
    """Return values of up to five levels. Dictionaries have these names and others, and texts are often these words."""
    return st.integers(0, 2**48).map(lambda seed: _Maker(seed, names, words).value(5))


def any_objects(names: Sequence[str], words: Sequence[str] = ()) -> st.SearchStrategy[dict[str, Any]]:
    """Return dictionaries that have these names and others, and values like those of `any_values`."""
    return st.integers(0, 2**48).map(lambda seed: _Maker(seed, names, words).fields(4))


def edited_objects(texts: Sequence[str], names: Sequence[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Return the object in one of these JSON texts, with a different value in one place."""
    return st.integers(0, 2**48).map(lambda seed: _Maker(seed, names, ()).edited(texts))


class _Maker:
    def __init__(self, seed: int, names: Sequence[str], words: Sequence[str]) -> None:
        self._chance = random.Random(seed)
        self._names, self._words = names, words

    def value(self, levels: int) -> Any:
        kind = self._chance.randrange(4) if levels else 0
        if kind == 1:
            return [self.value(levels - 1) for _ in range(self._chance.randrange(4))]
        return self.fields(levels - 1) if kind == 2 else self._leaf()

    def fields(self, levels: int) -> dict[str, Any]:
        return {self._name(): self.value(levels) for _ in range(self._chance.randrange(7))}

    def edited(self, texts: Sequence[str]) -> dict[str, Any]:
        whole: dict[str, Any] = json.loads(self._chance.choice(texts))
        place: Any = whole
        while True:
            at = self._chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if not place[at] or not isinstance(place[at], dict | list) or self._chance.random() < 0.2:
                place[at] = self.value(2)
                return whole
            place = place[at]

    def _name(self) -> str:
        return self._chance.choice(self._names) if self._chance.random() < 0.9 else self._text()

    def _leaf(self) -> Any:
        chance = self._chance
        number = chance.choice((*_NUMBERS, *_NO_NUMBERS, chance.getrandbits(20), chance.uniform(-1e6, 1e6)))
        word = chance.choice(self._words) if self._words else self._text()
        return chance.choice((None, True, False, number, number, word, word, self._text()))

    def _text(self) -> str:
        return "".join(self._chance.choices(_LETTERS, k=self._chance.randrange(12)))
