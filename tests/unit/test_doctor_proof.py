"""The last act of doctor, against a server that never ends its answer."""

import socket
import threading
from contextlib import suppress

import pytest

import breakglass.doctor.signed
from breakglass.client import Signer
from breakglass.doctor.signed import ask_for_proof


@pytest.mark.slow
async def test_an_answer_that_never_ends_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The headers arrive byte by byte, so no single read times out. Doctor still ends, and reports what is unproven."""
    monkeypatch.setattr(breakglass.doctor.signed, "PROOF_SECONDS", 1.0)
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)  # doctor may end before it connects

        def dribble() -> None:
            with suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nx-endless: ")
                    while not ended.wait(0.05):
                        connection.sendall(b" ")

        thread = threading.Thread(target=dribble)
        thread.start()
        try:
            signer = Signer(f"http://127.0.0.1:{server.getsockname()[1]}", b"k" * 32)
            finding = await ask_for_proof(signer, "devvm", "pve1")
        finally:
            ended.set()
            thread.join()
    assert (finding.level, finding.code) == ("warning", "not-proven")
    assert (
        "pve1 is not recorded as proven: the status request has no answer: it did not answer in time"
        in finding.sentence
    )
