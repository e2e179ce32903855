"""How a turn reaches the model's API, and with which credential. Standard library only, for a turn."""

from typing import NamedTuple

API_KEY, AUTH_TOKEN, OAUTH_TOKEN = "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"
CREDENTIALS = (AUTH_TOKEN, API_KEY, OAUTH_TOKEN)  # the variables that claude takes one from; the first one wins
BASE_URL = "https://api.anthropic.com"


class ModelApi(NamedTuple):
    """The model API that a turn may use.

    `variable` is one of CREDENTIALS and says of which kind the credential is. `ca_file` is empty where the system's
    certificate authorities count, and `https_proxy` where there is no proxy.
    """

    variable: str
    credential: str
    base_url: str = BASE_URL
    https_proxy: str = ""  # may have a password
    ca_file: str = ""

    def __repr__(self) -> str:
        """Return no secret."""
        return f"ModelApi({self.variable}, {self.base_url!r})"
