"""The one place where secrets are compared. It is a separate module because a turn's proxy must load fast."""

import hmac

same = hmac.compare_digest  # compares two byte strings in constant time
