"""Checks the model's API: whether it answers, its certificate, and whether it accepts the credential.

It requests the list of models, which is free. Of the answer, only an error's message is shown, unless it
repeats the credential.
"""

import http.client
import json
import ssl
from collections.abc import Iterator
from http.client import HTTPResponse
from urllib.parse import urlsplit

from ..base.findings import Finding
from ..base.reasons import reason
from ..base.threads import run_in_thread
from ..chat.model_connection import CONNECT_SECONDS, TUNNEL_FAILED, open_socket
from ..config.model_api import API_KEY, OAUTH_TOKEN, ModelApi
from .visit import CHAT, about

SECONDS = 15.0
_KINDS = {"sk-ant-oat": OAUTH_TOKEN, "sk-ant-api": API_KEY}
_MOST_BYTES = 1 << 20  # the most bytes of the list of models
_MOST_CHARS = 160  # of an error's message
_BY_THE_CLOCK = (9, 10)  # OpenSSL: certificate not valid yet, certificate expired

found_ok, found_warning, found_error = about(CHAT)


async def look_at_model_api(api: ModelApi) -> list[Finding]:
    """Return a finding about whether a turn would get an answer from the model."""
    place = f"The model's API at {api.base_url}"
    try:
        response, body = await run_in_thread(lambda: list_models(api), SECONDS)
    except TimeoutError:
        what = f"{place} gave no answer within {SECONDS:g} s, so claude would get no answer either."
        return [found_error("model-unreachable", what, _try_it(api))]
    except OSError as lost:
        return [judge_failure(api, lost)]
    return [judge_answer(api, response, body), *judge_kind(api)]


class CaFileError(OSError):
    """Raised if the certificates in chat.ca_file can't be used."""


def list_models(api: ModelApi) -> tuple[HTTPResponse, bytes]:
    """Ask the API for its models; return its answer and the body. Raises OSError."""
    url = urlsplit(api.base_url)
    host, tls = url.hostname or "", _tls(api) if url.scheme == "https" else None
    connection = http.client.HTTPConnection(host, url.port or (443 if tls else 80), CONNECT_SECONDS)
    connected = open_socket(host, connection.port, api.https_proxy if tls else "")
    headers = {"accept": "application/json", "connection": "close", "anthropic-version": "2023-06-01"}
    headers |= {"anthropic-beta": "oauth-2025-04-20"} if api.variable == OAUTH_TOKEN else {}
    is_key = api.variable == API_KEY
    headers |= {"x-api-key": api.credential} if is_key else {"authorization": f"Bearer {api.credential}"}
    try:
        connection.sock = connected = tls.wrap_socket(connected, server_hostname=host) if tls else connected
        connection.request("GET", f"{url.path.rstrip('/')}/v1/models?limit=1", headers={"host": url.netloc, **headers})
        response = connection.getresponse()
        return response, response.read(_MOST_BYTES)
    except http.client.HTTPException:
        raise OSError("it does not speak HTTP") from None
    finally:
        connected.close()


def _tls(api: ModelApi) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=api.ca_file or None)
    except OSError as error:
        raise CaFileError from error


def judge_kind(api: ModelApi) -> Iterator[Finding]:
    """Yield a finding if the credential's first letters do not match the kind that its variable names."""
    for start, variable in _KINDS.items():
        if api.credential.startswith(start) and api.variable != variable:
            what = f"The credential begins with {start}, and is given as {api.variable}, which the model's API refuses."
            fix = f"write it as {variable}=… into the file that chat.credential_file names, and reload"
            yield found_warning("credential-kind", what, fix)


def _try_it(api: ModelApi) -> str:
    """Return a command that shows how the API answers, without showing a credential or a password."""
    proxy = f" --proxy {_proxy(api)}" if api.https_proxy else ""
    own = f" --cacert {api.ca_file}" if api.ca_file else ""
    return f"see how it answers: curl -sSI -m 10{proxy}{own} {api.base_url}/v1/models"


def _proxy(api: ModelApi) -> str:
    """Return the proxy's address without its user and password."""
    parts = urlsplit(api.https_proxy)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


# --- no answer ---


def judge_failure(api: ModelApi, lost: OSError) -> Finding:
    """Return why the API gave no answer."""
    place = f"The model's API at {api.base_url}"
    if isinstance(lost, CaFileError):
        fix = f"name a PEM file that the handler can read: openssl x509 -noout -subject -in {api.ca_file}"
        return found_error("ca-file", f"chat.ca_file is {api.ca_file}, which can't be used.", fix)
    if str(lost).startswith(TUNNEL_FAILED):
        what = f"The proxy {_proxy(api)} refuses a connection to the model's API."
        return found_error("proxy-refused", what, "correct the user and password in chat.https_proxy")
    if isinstance(lost, ssl.SSLCertVerificationError):
        what = f"{place} has a certificate that is not accepted: {lost.verify_message}."
        fix = "set chat.ca_file to the file with the authority's certificate"
        fix = "compare the clock with another machine's: date -u" if lost.verify_code in _BY_THE_CLOCK else fix
        return found_error("model-certificate", what, fix)
    if api.https_proxy and not isinstance(lost, ssl.SSLError):
        what = f"The model's API can't be reached through the proxy {_proxy(api)}: {reason(lost)}."
        return found_error("proxy-unreachable", what, "start the proxy that chat.https_proxy names")
    fix = f"{_try_it(api)}; if this machine needs a proxy, write chat.https_proxy, because no variable is read for it"
    return found_error("model-unreachable", f"{place} can't be reached: {reason(lost)}.", fix)


# --- an answer ---


def judge_answer(api: ModelApi, response: HTTPResponse, body: bytes) -> Finding:
    """Return a finding about whether the API accepts the credential."""
    place, status = f"The model's API at {api.base_url}", response.status
    put = f"put a new one into the file that chat.credential_file names, as {api.variable}=…, and reload"
    if status == 401 and api.variable == OAUTH_TOKEN and b"not supported" in body:
        return _not_known(f"{place} lists no models for an OAuth token")
    if status in (401, 403):
        refusal = "refuses the credential" if status == 401 else "does not permit this use of the credential"
        return found_error("credential-refused", f"{place} {refusal} ({status}): each turn would fail.", put)
    if 300 <= status < 400:
        where = (response.headers["location"] or "no address")[:200]
        what = f"{place} redirects to {where}, and claude follows no redirect."
        return found_error("model-moved", what, "set chat.base_url to that address, if the API is there")
    if status == 404 and urlsplit(api.base_url).path.endswith("/v1"):
        what = f"chat.base_url ends with /v1, which claude adds itself, so it would ask {api.base_url}/v1."
        return found_error("base-url", what, f'write chat.base_url = "{api.base_url.removesuffix("/v1")}"')
    if status in (404, 405):
        return _not_known(f"{place} has no list of models, as a gateway may")
    if status == 429 or status >= 500:
        what = f"{place} is overloaded, or its limit is used up ({status}), so turns fail for now."
        return found_warning("model-busy", what, "wait; see https://status.anthropic.com")
    if said := _error_of(api, body):
        return found_error("model-refuses", f"{place} refuses requests ({status}): {said}.", _try_it(api))
    if status != 200 or not _is_list(body):
        what = f"What answers at {api.base_url} is not a model's API, but another program or a sign-in page."
        return found_error("model-unknown", what, _try_it(api))
    return found_ok("credential-accepted", f"{place} accepts the credential.")


def _error_of(api: ModelApi, body: bytes) -> str:
    """Return the message of the API's own error object, without the credential, or an empty text."""
    try:
        said = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return "" if api.credential in said else ascii(said[:_MOST_CHARS])[1:-1].rstrip(".")


def _not_known(what: str) -> Finding:
    fix = "ask claude something once, in the page or with: breakglass chat"
    return found_warning("credential-not-known", f"{what}, so the credential could not be tested.", fix)


def _is_list(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body)["data"], list)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
