"""The address of the model's API for a turn, and the credential. Standard library only."""

from typing import NamedTuple

API_KEY, AUTH_TOKEN, OAUTH_TOKEN = "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"
# the variables from which claude takes a credential; the first one that is set wins
CREDENTIALS = (AUTH_TOKEN, API_KEY, OAUTH_TOKEN)
BASE_URL = "https://api.anthropic.com"


class ModelApi(NamedTuple):
    """The model API that a turn may use.

    `variable` is one of CREDENTIALS and says what kind of credential it is. `ca_file` is empty if the system's
    certificate authorities are used, and `https_proxy` is empty if there is no proxy.
    """

    variable: str
    credential: str
    base_url: str = BASE_URL
    https_proxy: str = ""  # may contain a password
    ca_file: str = ""

    def __repr__(self) -> str:
        """Return a text without secrets."""
        return f"ModelApi({self.variable}, {self.base_url!r})"
