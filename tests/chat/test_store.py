"""The file of conversations: what it keeps and for how long, one handler at a time, and a file that is damaged."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from breakglass.chat import store as module
from breakglass.chat.conversations import find, find_all
from breakglass.chat.database import FILE
from breakglass.chat.failures import LOST, TurnError
from breakglass.chat.job import Piece
from breakglass.chat.request import SessionsUnwritable, TurnRequest
from breakglass.chat.store import CALLER_BYTES, Batch, Begun, Store, StoredTurn
from breakglass.chat.tokens import LIFETIME

from ..support.stand_in_turn import SID, request

NOW = 1_800_000_000.0
BUSY = TurnError("busy", "no place", "wait")
DAY = 24 * 3600.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(str(tmp_path / "sessions"))
    store.open()
    yield store
    store.close()


def begin(store: Store, wanted: TurnRequest, now: float = NOW, refused: bool = False) -> Begun:
    return store.begin(wanted, {"type": "session", "n": 1}, now, BUSY if refused else None)


def run(store: Store, wanted: TurnRequest, now: float = NOW, events: int = 1, size: int = 10) -> bytes:
    """Begin a turn and end it."""
    begin(store, wanted, now)
    lines = [(n, b"x" * (size - 1) + b"\n") for n in range(2, 2 + events)]
    store.add(wanted.key, wanted.sid, Batch(lines, [Piece(0, b"{}\n", True)]), "ok", 0.5)
    return wanted.key


def sid(number: int) -> str:
    return f"{SID[:-3]}{number:03}"


def exists(store: Store, *keys: bytes) -> list[bool]:
    return [store.find(key) is not None for key in keys]


def listed(store: Store, now: float = NOW) -> list[str]:
    return [str(each["id"]) for each in find_all(store, "operator", ["k" * 32], lambda vm: True, now)]


# --- turns ---


def test_a_turn_begins_once(store: Store) -> None:
    """The second request gets what the first one began. Of a refusal nothing is kept, so its id can begin later."""
    assert begin(store, request()) == Begun()
    second = begin(store, request(digest="other"), refused=True)
    assert (second.earlier, second.refusal) == (StoredTurn("devvm", "", None, "hello"), None)
    assert begin(store, request("refused"), refused=True) == Begun(refusal=BUSY)
    assert exists(store, request("refused").key) == [False]
    assert begin(store, request("refused", sid=sid(1))) == Begun()
    assert begin(store, request("lost", sid=sid(2), resume=True)).refusal == LOST
    assert exists(store, request(caller="operator2").key) == [False]


def test_a_turn_that_was_killed_gets_its_end(store: Store) -> None:
    """It gets its end when the store is opened or read; a turn that runs gets none.

    Its text and its conversation stay.
    """
    dead, alive = request(), request("alive", sid=sid(1))
    for each in (dead, alive):
        begin(store, each)
    store.add(dead.key, SID, Batch([(2, b'{"type":"text","n":2,"text":"so far"}\n')]))
    store.open({alive.key})
    lines, number, has_ended = store.read(dead.key, 0)
    assert (number, has_ended) == (4, True)
    assert lines.splitlines()[2].startswith(
        b'{"type":"error","n":3,"code":"claude-crashed","message":"the turn ended early'
    )
    assert store.read(alive.key, 0)[2] is False
    assert begin(store, request("next", resume=True)) == Begun()


def test_what_comes_from_outside_is_never_a_statement(store: Store) -> None:
    hostile = "'); DROP TABLE event; --\0\u2028"
    wanted = request(hostile, caller=hostile, sid=sid(1), prompt=hostile, digest=hostile)
    key = run(store, wanted)
    assert getattr(store.find(key), "prompt", None) == hostile
    store.add(key, hostile, Batch((), (), [{"verb": hostile, "job": hostile}]))
    assert (store.proposals(hostile), store.piece(hostile, 0)) == ([], b"")


def test_proposals_stay_until_their_outcome_is_known(store: Store) -> None:
    """Those of a turn come to those that were open when it began."""
    first, second = {"verb": "reset", "job": "job_1"}, {"verb": "stop", "job": "job_2"}
    run(store, request())
    store.add(request().key, SID, Batch((), (), [first]))
    begin(store, request("next", resume=True, still_open=[first]))
    store.add(request("next").key, SID, Batch((), (), [second]))
    assert store.proposals(SID) == [first, second]
    begin(store, request("refused", resume=True), refused=True)
    assert store.proposals(SID) == [first, second]
    begin(store, request("last", resume=True))
    assert store.proposals(SID) == []


# --- what is removed ---


def prune(store: Store, now: float) -> int:
    count = 0
    while store.prune(now):
        count += 1
    return count


def test_what_is_old_goes(store: Store) -> None:
    """Thirty days after a turn began, and a conversation with its last one; not one that runs."""
    first, second = run(store, request()), run(store, request("new", resume=True), NOW + DAY)
    other = run(store, request("other", sid=sid(1)))
    begin(store, request("runs", sid=sid(2)))
    prune(store, NOW + LIFETIME + 1)
    assert exists(store, first, second, other, request("runs").key) == [False, True, False, True]
    assert listed(store) == [SID, sid(2)]
    assert (store.piece(SID, 0), store.piece(sid(1), 0)) == (b"{}\n", b"")
    found = find(store, "operator", SID, "devvm")
    assert (found.had, len(found.turns), found.cost) == (2, 1, 0.5)


def test_the_oldest_turns_of_a_caller_go_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond 256 MiB, across its conversations; another caller's don't count, and the file has room again."""
    assert CALLER_BYTES == 256 << 20
    monkeypatch.setattr(module, "CALLER_BYTES", 300_000)
    keys = [run(store, request(f"msg_{n}", sid=sid(n % 2)), NOW + n, 100, 1001) for n in range(4)]
    other = run(store, request("other", caller="operator2", sid=sid(3)), NOW - 1, 100, 2000)
    assert prune(store, NOW) == 2
    assert exists(store, *keys, other) == [False, False, True, True, True]


# --- the file ---


def test_one_handler_has_it_open(store: Store) -> None:
    """A second one says so, and has it once the first has ended."""
    other = Store(str(store.directory))
    for _ in range(2):
        with pytest.raises(SessionsUnwritable, match=r"another handler has .* open"):
            other.open()
    with pytest.raises(SessionsUnwritable, match="another handler"):
        other.find(b"")
    store.close()
    other.open()
    begin(other, request())
    other.close()


def open_and_read(store: Store) -> None:
    store.open()
    store.find(request().key)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """It is left as it is. Once it was moved away, there is a new one."""
    store, path = Store(str(tmp_path)), tmp_path / FILE
    store.open()
    run(store, request(), events=200, size=4000)
    store.close()
    data = bytearray(path.read_bytes())
    data[100:4096] = os.urandom(3996)
    path.write_bytes(data)
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(SessionsUnwritable, match=f"{path} is damaged") as caught:
            open_and_read(store)
        assert caught.value.hint == f"move {path} away"
    assert path.read_bytes() == before
    path.rename(tmp_path / "away")
    store.open()
    assert begin(store, request()) == Begun()
    store.close()


@pytest.mark.real("mounts")
def test_a_disk_that_is_full_or_read_only(tmp_path: Path) -> None:
    """It is said before a turn begins, and what is there can still be read."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(tmp_path)], check=True)
    store = Store(str(tmp_path))
    try:
        store.open()
        key = run(store, request())
        (tmp_path / "other").write_bytes(b"x" * (5 << 20))
        for call in (store.open, lambda: begin(store, request("next", sid=sid(1)))):
            with pytest.raises(SessionsUnwritable, match="less than 16 MiB"):
                call()
        assert store.read(key, 0)[2] is True
        (tmp_path / "other").unlink()
        store.close()
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        with pytest.raises(SessionsUnwritable, match="can't be"):
            store.open()
    finally:
        store.close()
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_the_file_is_private(store: Store) -> None:
    run(store, request())
    assert {path.stat().st_mode & 0o777 for path in store.directory.iterdir()} == {0o600}
    assert store.directory.stat().st_mode & 0o777 == 0o700
