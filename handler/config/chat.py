"""The `[chat]` table, and how claude reaches the model's API. Pure."""

import re
from urllib.parse import urlsplit

from .model import ChatSettings
from .model_api import BASE_URL, CREDENTIALS, ModelApi
from .reader import Entry
from .server import is_loopback, normal_url

# --- The keys of `[chat]` that say how a turn reaches the model's API ---

_VALUE = re.compile(r"[!#-&(-~]+", re.ASCII)  # characters that a header accepts, without quotes
_URL = re.compile(r"[!-~]+", re.ASCII)
# claude connects only to its turn's proxy, which has the credential. These variables would bypass the proxy or break
# it.
_NOT_IN_ENV = re.compile(
    rf"{'|'.join(CREDENTIALS)}|CLAUDE_CODE_OAUTH_\w+|ANTHROPIC_BASE_URL|\w+_PROXY|NODE_EXTRA_CA_CERTS|NODE_TLS_\w+"
    r"|SSL_CERT_\w+|ANTHROPIC_(?!\w*MODEL|BETAS)\w+|(AWS|AZURE|GOOGLE)_\w+|CLAUDE_CODE_(USE|SKIP|CLIENT)_\w+",
    re.ASCII | re.IGNORECASE,
)
_NOT_FOR_CLAUDE = "use chat.credential_file, base_url (a gateway's, too), https_proxy or ca_file"


def read_model_api(entry: Entry) -> ModelApi:
    """Return how to reach the model's API. A problem never shows a secret."""
    variable, credential = _credential(entry)
    base_url, https_proxy, ca_file = _base_url(entry), _https_proxy(entry), entry.get_str("ca_file")
    if entry.has("ca_file") and not ca_file.startswith("/"):
        entry.problem("ca_file", "is not an absolute path", 'write it like "/etc/ssl/certs/ours.pem"')
    return ModelApi(variable, credential, base_url, https_proxy, ca_file)


def _credential(entry: Entry) -> tuple[str, str]:
    """Return the name of the variable, and the credential."""
    hint = f"write one line, NAME=VALUE without quotes; NAME is one of {', '.join(CREDENTIALS)}"
    file = entry.get_str("credential_file")
    if entry.get("credential_file", "") == "" and (entry.data or not entry.is_faulty):  # only if it is a table
        entry.problem("credential_file", "is missing", f"name a file; in it, {hint}", "credential")
    lines = [line.strip() for line in entry.file("credential_file", file).splitlines()] if file else []
    found = [line for line in lines if line and not line.startswith("#")]
    name, _, value = found[0].partition("=") if len(found) == 1 else ("", "", "")
    if lines and not (name in CREDENTIALS and _VALUE.fullmatch(value)):
        entry.problem("credential_file", "contains no known credential", hint, "credential")
    return name, value


def _base_url(entry: Entry) -> str:
    text = entry.get_str("base_url", BASE_URL)
    url = normal_url(text)
    if url is None:
        entry.problem("base_url", "is not the address of an API", f'write it like "{BASE_URL}"')
    elif url.startswith("http:") and not is_loopback(url):
        entry.problem("base_url", "would send the credential without TLS", "use http:// only for this machine")
    return text.rstrip("/")


def _https_proxy(entry: Entry) -> str:
    text = entry.get_str("https_proxy")
    try:
        url = urlsplit(text)
        is_good = url.scheme == "http" and url.hostname and url.port != 0 and not url.path.strip("/") and not url.query
    except ValueError:
        is_good = False
    if entry.has("https_proxy") and not (is_good and _URL.fullmatch(text)):
        entry.problem("https_proxy", "is not the address of a proxy", 'write it like "http://proxy.example:3128"')
    return text


# --- The `[chat]` table. An error in it disables only chat ---

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def read_chat(top: Entry, sessions_dir: str) -> ChatSettings | None:
    """Return the settings of [chat], or None if it is absent or has a fault."""
    if not top.has("chat"):
        return None
    entry = top.get_table("chat")
    command = entry.get_str("command", "claude")
    if not command:
        entry.problem("command", "is empty", 'name the program, like command = "claude"')
    at_once = entry.get_number("max_turns_at_once", 3, 1, 64)
    seconds = entry.get_number("turn_seconds", 1800, 1, 24 * 3600)
    env = _env(entry)
    api = read_model_api(entry)
    entry.report_unknown()
    if entry.is_faulty:
        return None
    return ChatSettings(sessions_dir, api, command, at_once, seconds, env)


def _env(entry: Entry) -> dict[str, str]:
    """Return the variables in the table; a problem never shows their values."""
    found, given = {}, entry.get("env", {})
    if not isinstance(given, dict):
        entry.problem("env", "is not a table", 'write env = { NAME = "…" }')
        return {}
    for name, value in given.items():
        if not _VARIABLE.fullmatch(name) or not isinstance(value, str) or "\0" in value:
            entry.problem(f"env.{name[:40]}", "is not a variable with a text value", f'write {name[:40]} = "…"')
        elif _NOT_IN_ENV.fullmatch(name):
            entry.problem(f"env.{name[:40]}", "is not for claude", _NOT_FOR_CLAUDE)
        else:
            found[name] = value
    return found
