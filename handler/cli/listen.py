"""Binds the handler's address before anything else starts, so that a taken port is the only error."""

import errno
import socket

from .errors import CommandError, reason

BACKLOG = 2048


def listen(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets for each address of `host`; raise CommandError if one can't be bound."""
    if not host:  # getaddrinfo(3) would take it for every address of this machine
        raise CommandError("HOST is empty", "set it to an address, or unset it; 0.0.0.0 and :: are every address")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise CommandError(f'HOST "{host}" can\'t be resolved: {reason(error)}', "set it to an address") from None
    sockets: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            sockets.append(_listening(family, address))
    except OSError as error:
        for opened in sockets:
            opened.close()
        raise _explain(error, host, port) from None
    return sockets


def _listening(family: int, address: tuple[object, ...]) -> socket.socket:
    # With the protocol named, asyncio sets TCP_NODELAY; without, each answer would wait 40 ms for a delayed ACK.
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(address)
        opened.listen(BACKLOG)
    except OSError:
        opened.close()
        raise
    return opened


def _explain(error: OSError, host: str, port: int) -> CommandError:
    at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        hint = f"stop it, or set PORT to a free port; to see which it is: ss -ltnp 'sport = :{port}'"
        return CommandError(f"another program listens on {at}", hint)
    if error.errno == errno.EADDRNOTAVAIL:
        return CommandError(f'HOST is "{host}", which is not an address of this machine', "list them: ip address")
    if error.errno == errno.EACCES:
        return CommandError(f"this user may not listen on {at}", "set PORT to a number above 1023")
    return CommandError(f"can't listen on {at}: {reason(error)}", "check HOST and PORT")
