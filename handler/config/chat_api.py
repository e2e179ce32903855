"""The keys of `[chat]` that say how a turn reaches the model's API. Pure."""

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from .model_api import BASE_URL, CREDENTIALS, ModelApi
from .reader import Entry

_VALUE = re.compile(r"[!#-&(-~]+", re.ASCII)  # what a header takes, without quotes
_URL = re.compile(r"[!-~]+", re.ASCII)
_IN_CREDENTIAL_FILE = "put it into the file that chat.credential_file names"
# claude speaks to nothing but its turn's own proxy, which has the credential: these would go around it, or break it.
_NOT_IN_ENV = (
    (rf"{'|'.join(CREDENTIALS)}|CLAUDE_CODE_OAUTH_\w+", _IN_CREDENTIAL_FILE),
    (r"ANTHROPIC_BASE_URL", "set chat.base_url"),
    (r"\w+_PROXY", "set chat.https_proxy"),
    (r"NODE_EXTRA_CA_CERTS|NODE_TLS_\w+|SSL_CERT_\w+", "set chat.ca_file"),
    (
        r"ANTHROPIC_(?!\w*MODEL|BETAS)\w+|(AWS|AZURE|GOOGLE)_\w+|CLAUDE_CODE_(USE|SKIP|CLIENT)_\w+",
        "claude gets no credential of any kind; chat.base_url can name a gateway that has it",
    ),
)


def refuse_variable(name: str) -> str:
    """Return what to do in place of giving claude this variable, or an empty text for one that it may have."""
    hints = (hint for pattern, hint in _NOT_IN_ENV if re.fullmatch(pattern, name, re.ASCII | re.IGNORECASE))
    return next(hints, "")


def read_model_api(entry: Entry) -> ModelApi | None:
    """Return how to reach the model's API; None when there is a problem, which never shows a secret."""
    variable, credential = _credential(entry)
    base_url, https_proxy, ca_file = _base_url(entry), _https_proxy(entry), entry.get_str("ca_file")
    if entry.has("ca_file") and not ca_file.startswith("/"):
        entry.problem("ca_file", "is not an absolute path", 'write it like "/etc/ssl/certs/ours.pem"')
    return None if entry.is_faulty else ModelApi(variable, credential, base_url, https_proxy, ca_file)


def _credential(entry: Entry) -> tuple[str, str]:
    """Return the variable's name and the credential."""
    hint = f"write one line, NAME=VALUE without quotes; NAME is one of {', '.join(CREDENTIALS)}"
    file = entry.get_str("credential_file")
    if entry.get("credential_file", "") == "" and (entry.data or not entry.is_faulty):  # faulty: it is not a table
        entry.problem("credential_file", "is missing", f"name a file; in it, {hint}", "credential")
    lines = [line.strip() for line in entry.file("credential_file", file).splitlines()] if file else []
    found = [line for line in lines if line and not line.startswith("#")]
    name, _, value = found[0].partition("=") if len(found) == 1 else ("", "", "")
    if lines and not (name in CREDENTIALS and _VALUE.fullmatch(value)):
        entry.problem("credential_file", "holds no credential that is known", hint, "credential")
    return name, value


def _base_url(entry: Entry) -> str:
    text = entry.get_str("base_url", BASE_URL)
    url = _split(text)
    if url is None or url.scheme not in ("https", "http") or url.username is not None or url.query or url.fragment:
        entry.problem("base_url", "is not the address of an API", f'write it like "{BASE_URL}"')
    elif url.scheme == "http" and not _is_loopback(url.hostname):
        entry.problem("base_url", "would send the credential without TLS", "http:// is for this machine alone")
    return text.rstrip("/")


def _https_proxy(entry: Entry) -> str:
    text = entry.get_str("https_proxy")
    url = _split(text)
    if entry.has("https_proxy") and (url is None or url.scheme != "http" or url.path.strip("/") or url.query):
        entry.problem("https_proxy", "is not the address of a proxy", 'write it like "http://proxy.example:3128"')
    return text


def _split(text: str) -> SplitResult | None:
    """Return the parts of an address that names a host, or None."""
    try:
        url = urlsplit(text)
        return url if _URL.fullmatch(text) and url.hostname and url.port != 0 else None
    except ValueError:
        return None


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
