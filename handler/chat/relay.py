"""Passes bytes between a port in claude's network namespace and the socket of the model proxy.

It is copied into the turn's directory, and runs beside claude in the same sandbox. It uses only the standard library.
"""

import os
import socket
import threading

PORT = 8080
_MODEL = f"{os.path.dirname(os.path.abspath(__file__))}/model"


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:  # either side has closed its connection
        for each in (source, target):
            each.close()


def main() -> None:
    """Serve until the sandbox ends."""
    listener = socket.create_server(("127.0.0.1", PORT))
    while True:
        client, _ = listener.accept()
        model = socket.socket(socket.AF_UNIX)
        try:
            model.connect(_MODEL)
        except OSError:
            client.close()
            continue
        for pair in ((client, model), (model, client)):
            threading.Thread(target=_copy, args=pair, daemon=True).start()


if __name__ == "__main__":
    main()
