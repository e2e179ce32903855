"""The first steps to a handler: its name, its port, TLS, and the certificate."""

import contextlib
import os
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

from ..base.findings import Finding
from ..base.manager import manager
from ..base.reasons import reason
from ..config.server import is_loopback, normal_url
from .http import SECONDS, Broken
from .visit import HANDLER, KEEP_CLOCK, about

WARN_DAYS = 14
RENEW = "certbot renew && nginx -s reload"
_EXPIRED, _EARLY, _NAME = (10,), (9,), (62, 64)  # OpenSSL's X509_V_ERR codes
_MOST_ADDRESSES = 4
_CA = "/etc/ssl/breakglass-ca.pem"

found_ok, found_warning, found_error = about(HANDLER)


def look_at_port(url: str) -> Iterator[Finding]:
    """Yield the findings on the way to a URL's port. Raises Broken if nothing there can be asked."""
    parts = urlsplit(url)
    host, port = str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
    addresses = _resolve(host, port)
    yield from _connect(url, addresses, port)
    if parts.scheme == "https":
        yield _look_at_tls(url, host, port)
    elif not is_loopback(normal_url(url) or ""):
        sentence = (
            f"{url} has no TLS: browsers refuse to sign on the page there, and anyone on the path can read the traffic."
        )
        yield found_warning("no-tls", sentence, "put a proxy with TLS in front: breakglass docs proxies")


def _resolve(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as failed:
        why = reason(failed) if isinstance(failed, OSError) else "it is not a name"
        fix = "correct the name in BREAKGLASS_URL; an address works without DNS"
        raise Broken(found_error("name-not-found", f'The name "{host}" has no address: {why}.', fix)) from None
    return list(dict.fromkeys(str(address[4][0]) for address in found))[:_MOST_ADDRESSES]


def _connect(url: str, addresses: list[str], port: int) -> Iterator[Finding]:
    failures: dict[str, OSError] = {}
    for address in addresses:
        try:
            socket.create_connection((address, port), SECONDS).close()
        except OSError as failed:
            failures[address] = failed
    if len(failures) == len(addresses):
        raise Broken(_no_connection(url, next(iter(failures.values()))))
    if failures and not is_loopback(normal_url(url) or ""):  # a localhost without ::1 is not a fault
        listed = ", ".join(failures)
        sentence = f"{url} has several addresses, and nothing answers at {listed}."
        yield found_warning("address-dead", sentence, f"remove {listed} from DNS")


def _no_connection(url: str, failed: OSError) -> Finding:
    if isinstance(failed, ConnectionRefusedError):
        fix = f"{manager().start}, and the proxy if there is one; otherwise set BREAKGLASS_URL to its address"
        return found_error("connection-refused", f"Nothing listens at {url}: connection refused.", fix)
    why = "no answer" if isinstance(failed, TimeoutError) else reason(failed)
    fix = "check the address in BREAKGLASS_URL, and open the port in the firewalls in between"
    return found_error("no-connection", f"No connection to {url}: {why}.", fix)


def _look_at_tls(url: str, host: str, port: int) -> Finding:
    """Return a finding about the certificate's validity. Raises Broken if it is not trusted."""
    try:
        certificate = _handshake(host, port, ssl.create_default_context())
    except ssl.SSLCertVerificationError as failed:
        raise Broken(_untrusted(url, failed)) from None
    except ssl.SSLError as failed:
        if failed.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
            sentence = f"{url} is https, but its port does not speak TLS."
            fix = f"export BREAKGLASS_URL=http{url.removeprefix('https')}"
            raise Broken(found_error("not-https", sentence, fix)) from None
        sentence = f"TLS with {url} failed: {failed.reason or failed}."
        fix = "compare ssl_protocols and ssl_ciphers of the proxy with breakglass docs proxies"
        raise Broken(found_error("tls-failed", sentence, fix)) from None
    except OSError as failed:
        sentence = f"{url} takes connections, but TLS did not begin: {reason(failed)}."
        raise Broken(found_error("tls-failed", sentence, "set BREAKGLASS_URL to a port with TLS")) from None
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
    days = (ends - datetime.now(UTC)).days
    if days < WARN_DAYS:
        sentence = f"The certificate of {url} expires in {days} days, on {ends:%Y-%m-%d}."
        return found_warning("certificate-expires", sentence, RENEW)
    return found_ok("certificate", f"The certificate of {url} is trusted, and good for {days} days.")


def _handshake(host: str, port: int, context: ssl.SSLContext) -> dict[str, object]:
    with (
        socket.create_connection((host, port), SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        return dict(secure.getpeercert() or {})


def _untrusted(url: str, failed: ssl.SSLCertVerificationError) -> Finding:
    why, code = failed.verify_message.rstrip("."), failed.verify_code
    if code in _EXPIRED:
        return found_error("certificate-expired", f"The certificate of {url} has expired.", RENEW)
    if code in _EARLY:
        sentence = f"The certificate of {url} is not valid yet, or this machine's clock is slow."
        return found_error("certificate-early", sentence, KEEP_CLOCK)
    if code in _NAME:
        fix = f"get one for this name: certbot certonly -d {urlsplit(url).hostname}"
        return found_error("certificate-name", f"The certificate of {url} is for another name: {why}.", fix)
    if "key usage" in why:
        sentence = f"The authority of {url}'s certificate is not accepted: {why}."
        fix = "make the authority's certificate again: openssl req -x509 … -addext keyUsage=critical,keyCertSign"
        return found_error("certificate-authority", sentence, fix)
    unit = f"; systemctl edit breakglass-doctor, and write Environment=SSL_CERT_FILE={_CA} below [Service]"
    unit = unit if manager().is_systemd else ""  # the timer's unit
    file = os.environ.get("SSL_CERT_FILE", "")
    if file and not os.access(file, os.R_OK):
        sentence = f"SSL_CERT_FILE is {file}, which this user can't read, so the authority of {url} is not known."
        fix = f"as root: install -m 644 {file} {_CA}; export SSL_CERT_FILE={_CA}{unit}"
        return found_error("certificate-file", sentence, fix)
    sentence = f"The certificate of {url} is from an authority that this machine does not know: {why}."
    fix = f"put the authority's certificate into {_CA}; export SSL_CERT_FILE={_CA}{unit}"
    return found_error("certificate-untrusted", sentence, fix)


def speaks_tls(url: str) -> bool:
    """Tell whether the port of an http URL answers in TLS, whatever its certificate."""
    parts, context = urlsplit(url), ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(OSError):
        _handshake(str(parts.hostname), parts.port or 80, context)
        return True
    return False
