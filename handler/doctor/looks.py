"""The places that `breakglass doctor` looks at, in the order in which it shows them."""

from .alerts import look_at_alerts
from .chat import look_at_chat
from .configuration import look_at_configuration
from .handler import look_at_handler
from .hosts import look_at_hosts
from .keys import look_at_keys
from .visit import Look

LOOKS: tuple[tuple[str, Look], ...] = (
    ("configuration", look_at_configuration),
    ("keys", look_at_keys),
    ("hosts", look_at_hosts),
    ("handler", look_at_handler),
    ("chat", look_at_chat),
    ("alerts", look_at_alerts),
)
