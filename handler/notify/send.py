"""Sends one message to one receiver, in SECONDS at most, and says why it could not.

Only the first line of an answer is read, and a redirect is a failure. So a receiver that never answers, or answers
slowly or without an end, holds up its own message alone.
"""

import asyncio
import re
import socket
import ssl
import time
from contextlib import suppress
from functools import partial
from urllib.parse import urlsplit

from ..base.reasons import reason
from ..base.threads import run_in_thread
from ..config.notify import APPRISE, NTFY, Recipient
from .messages import Message, clearing_for, head_of, request_for

SECONDS = 10.0
_LINE_BYTES = 8 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})\b")


class NotSent(Exception):
    """Raised if a receiver has not taken a message. The text names no URL, which can be a secret."""


async def send(message: Message, receiver: Recipient) -> None:
    """Send a message; raise NotSent unless the receiver has taken it.

    If nothing is left to do, ntfy is then asked to clear the message. A server older than 2.16 can't; that is no fault.
    """
    now = time.time()
    local = time.localtime(now)
    is_quiet = receiver.is_quiet(local.tm_hour * 60 + local.tm_min) and not message.is_urgent
    try:
        if receiver.to == APPRISE:
            if not is_quiet:  # services of this kind have no silent messages
                await run_in_thread(partial(_send_by_apprise, message, receiver), 2 * SECONDS)
            return
        status = await _request("POST", receiver.ca_file, *request_for(message, receiver, now, is_quiet))
    except TimeoutError:
        raise NotSent(f"no answer within {SECONDS:g} s") from None
    except ssl.SSLCertVerificationError as error:
        raise NotSent(f"its certificate is not trusted: {error.verify_message}") from None
    except (OSError, ValueError) as error:
        raise NotSent(reason(error)) from None
    if not 200 <= status < 300:
        raise NotSent(f"it answered HTTP {status}" + (", and no redirect is followed" if 300 <= status < 400 else ""))
    if message.is_over and receiver.to == NTFY:
        with suppress(OSError, ValueError):
            await _request("PUT", receiver.ca_file, *clearing_for(message, receiver))


async def _request(method: str, ca_file: str, url: str, body: bytes, headers: dict[str, str]) -> int:
    """Return the status of the answer; raise OSError, or ValueError if it is not HTTP."""
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if is_tls else 80)

    def prepare() -> tuple[list[str], ssl.SSLContext | None]:
        """Look up the name and read the certificates, in a thread, because both can hang."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [str(address[4][0]) for address in found], _context(ca_file) if is_tls else None

    async with asyncio.timeout(SECONDS):
        addresses, tls = await run_in_thread(prepare, SECONDS)
        reader, writer = await _connect(addresses, port, tls, host)
        try:
            writer.write(head_of(method, url, body, headers))
            await writer.drain()
            match = _STATUS.match(await reader.readuntil(b"\n"))
        except (asyncio.LimitOverrunError, asyncio.IncompleteReadError):
            match = None
        finally:
            writer.transport.abort()
    if match is None:
        raise ValueError("it does not speak HTTP")
    return int(match[1])


def _context(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise ValueError(f"ca_file can't be used: {reason(error)}") from None


async def _connect(
    addresses: list[str], port: int, tls: ssl.SSLContext | None, host: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the first address that takes a connection."""
    for number, address in enumerate(addresses, 1):
        try:
            name = host if tls else None
            return await asyncio.open_connection(address, port, limit=_LINE_BYTES, ssl=tls, server_hostname=name)
        except OSError:
            if number == len(addresses):
                raise
    raise OSError("the name has no address")


def _send_by_apprise(message: Message, receiver: Recipient) -> None:
    try:
        import apprise
    except ImportError:
        raise ValueError("Apprise is missing: install the extra `notify` where the handler runs") from None

    apprise.logger.disabled = True  # its lines have the URL, which is a secret
    to = apprise.Apprise()
    text = "\n".join(filter(None, [message.text_for(receiver), message.link]))
    kind = apprise.NotifyType.WARNING if message.is_urgent else apprise.NotifyType.INFO
    if not to.add(receiver.url):
        raise ValueError("Apprise does not know this kind of URL")
    if not to.notify(title=message.title, body=text, notify_type=kind):
        raise ValueError("Apprise could not send it")
