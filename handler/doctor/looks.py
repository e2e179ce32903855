"""The places that `breakglass doctor` looks at, in the order in which it shows them."""

from .visit import Look

LOOKS: tuple[tuple[str, Look], ...] = ()
