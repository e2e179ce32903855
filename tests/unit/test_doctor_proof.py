"""The last act of doctor, against a server that never ends its answer."""

import socket
import time

import pytest

import breakglass.doctor.signed
from breakglass.client import Signer
from breakglass.doctor.signed import ask_for_proof

from ..support.peer import playing


@pytest.mark.slow
async def test_an_answer_that_never_ends_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The headers arrive byte by byte, so no single read times out. Doctor still ends, and reports what is unproven."""
    monkeypatch.setattr(breakglass.doctor.signed, "PROOF_SECONDS", 1.0)

    def dribble(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nx-endless: ")
        while True:
            connection.sendall(b" ")
            time.sleep(0.05)

    with playing(dribble) as port:
        finding = await ask_for_proof(Signer(f"http://127.0.0.1:{port}", b"k" * 32), "devvm", "pve1")
    assert (finding.level, finding.code) == ("warning", "not-proven")
    assert (
        "pve1 is not recorded as proven: the status request has no answer: it did not answer in time"
        in finding.sentence
    )
