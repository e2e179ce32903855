"""The places that `breakglass doctor` looks at, in the order in which it shows them."""

from .configuration import look_at_configuration
from .keys import look_at_keys
from .visit import Look

LOOKS: tuple[tuple[str, Look], ...] = (
    ("configuration", look_at_configuration),
    ("keys", look_at_keys),
)
