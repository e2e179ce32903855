"""The protocol between the handler and a turn's program, over one stream socket. Standard library only.

The first line that the handler sends is the `Opening`, which says which paths the sandbox of the turn must show, and
how many bytes of the `Job` and of the transcript follow. After that, each side sends JSON objects, one a line, of at
most LINE_BYTES. The turn sends its events as clients get them, the transcript's new bytes, and the requests of claude's
`pve`.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ..config.model_api import ModelApi

LINE_BYTES = 1 << 20
PIECE_BYTES = 256 * 1024  # the bytes of a transcript in one line
TRANSCRIPT_BYTES = 64 << 20

Line = Mapping[str, object]


class Opening(NamedTuple):
    """What is needed to build the sandbox: claude's program, and the lengths of the job and the transcript.

    `probe` is empty for a turn. A probe starts no turn: `wall` tries each sandbox, and `claude` also checks claude's
    program in its sandbox.
    """

    claude: str
    probe: str = ""
    job: int = 0
    transcript: int = 0


class Piece(NamedTuple):
    """A piece of a transcript: its offset, its bytes, and whether it completes the transcript."""

    at: int
    data: bytes
    is_last: bool


class Job(NamedTuple):
    """One turn. `sid` is a UUID: a new one, or with `resume` the one of a session whose transcript follows.

    `verbs` are the verbs that claude can propose or read, `rules` the commands that it may run without asking, and
    `agents` its brief, in the CLI's format. `env` has the operator's variables for claude. `ssh_files` are the files,
    by name, with which ssh reaches the guest; it is empty if the guest has no ssh access. `authorities` are the
    certificates (PEM) that verify the model's API; an empty text means the system's certificates.
    """

    vm: str
    sid: str
    resume: bool
    prompt: str
    agents: Mapping[str, object]
    rules: Sequence[str]
    verbs: Sequence[str]
    api: ModelApi
    env: Mapping[str, str] = {}  # instances may share this default, because it is never changed
    ssh_files: Mapping[str, str] = {}
    authorities: str = ""
    turn_seconds: float = 1800
    silence_seconds: float = 120.0  # claude's own limit for a silent stream is 300 s and can't be lowered

    def __repr__(self) -> str:
        """Return a text without secrets."""
        return f"Job({self.vm}, {self.sid})"


def encode_line(line: Line) -> bytes:
    """Return an object as a line of JSON. A lone surrogate is kept as an escape."""
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def encode_opening(opening: Opening, job: Job | None = None) -> bytes:
    """Return the first line that the handler sends, and the job after it."""
    fields = json.dumps({**job._asdict(), "api": job.api._asdict()}) if job else ""
    return encode_line({**opening._asdict(), "job": len(fields)}) + fields.encode()


def parse_job(data: bytes) -> Job:
    """Return the job that `encode_opening` wrote."""
    fields = json.loads(data)
    return Job(**{**fields, "api": ModelApi(**fields["api"])})


def encode_pieces(data: bytes, at: int = 0) -> Iterator[bytes]:
    """Yield the lines that carry a part of a transcript, which begins at `at`."""
    for begin in range(0, len(data), PIECE_BYTES):
        piece = data[begin : begin + PIECE_BYTES]
        is_last = begin + PIECE_BYTES >= len(data)
        yield encode_line({"transcript": at + begin, "data": base64.b64encode(piece).decode(), "last": is_last})


def decode_piece(line: Line) -> Piece:
    """Return a piece of a transcript. Raises ValueError for anything else."""
    at, data = line.get("transcript"), line.get("data")
    if not isinstance(at, int) or isinstance(at, bool) or not 0 <= at <= TRANSCRIPT_BYTES or not isinstance(data, str):
        raise ValueError("not a piece of a transcript")
    piece = base64.b64decode(data, validate=True)
    if not piece or len(piece) > PIECE_BYTES:
        raise ValueError("not a piece of a transcript")
    return Piece(at, piece, line.get("last") is True)
