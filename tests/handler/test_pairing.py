"""POST /pair hands out a sealed signing key once, and gives any other request the same answer."""

import base64
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from breakglass.client import new_id
from breakglass.config import pairing
from breakglass.web.pair import REFUSED_AFTER

from ..support.hung import unserved_fuse
from ..support.service import ACCOUNT, Reply, Service, new_secret

pytestmark = [pytest.mark.real("sshd"), pytest.mark.shared("world", "sshd", "service")]

UNKNOWN = "A" * 16
SEALED = "s" * 130
SIGNING_KEY = new_secret()


def sessions(service: Service) -> Path:
    return service.directory / "var/sessions"


@pytest.fixture
def place(service: Service) -> Iterator[Path]:
    """The directory of the keys, which the handler's user owns. It does not exist before and after the test."""
    directory = sessions(service) / pairing.DIRECTORY
    directory.mkdir(parents=True)
    own(directory)
    for above in directory.parents[:2]:
        above.chmod(0o755)
    yield directory
    shutil.rmtree(sessions(service))


def own(*paths: Path) -> None:
    """Give files to the handler's user."""
    for path in paths if ACCOUNT else ():
        shutil.chown(path, ACCOUNT, follow_symlinks=False) if os.path.lexists(path) else None


def leave(place: Path, sealed: str = SEALED, seconds: float = 600, name: str = "") -> str:
    """Write a key there, as the command does, and return its id."""
    pairing_id = name or pairing.new_pairing()[0]
    pairing.leave(str(place.parent), pairing_id, "anna", sealed, time.time() + seconds)
    own(place / pairing_id)
    return pairing_id


def ask(service: Service, pairing_id: str) -> Reply:
    return service.send("POST", "/pair", json.dumps({"id": pairing_id}).encode())


def log_so_far(service: Service) -> str:
    """Return the log with the lines of all requests that were answered until now."""
    last = new_id()
    service.pve("status", msg_id=last)
    return service.logged(last)


def same(reply: Reply) -> tuple[int, dict[str, str], bytes]:
    """Return all of an answer but its time."""
    return reply.status, {name: value for name, value in reply.headers.items() if name != "date"}, reply.body


def names(place: Path) -> list[str]:
    return sorted(each.name for each in place.iterdir())


def test_a_key_is_handed_out_once(service: Service, place: Path) -> None:
    """The device's answer opens with the one-time key, for this id and this caller. The key then counts as fetched."""
    pairing_id, one_time_key = pairing.new_pairing()
    leave(place, pairing.seal(one_time_key, pairing_id, "anna", SIGNING_KEY), name=pairing_id)
    assert ((place / pairing_id).stat().st_mode & 0o777, place.stat().st_mode & 0o777) == (0o600, 0o755)
    begin = len(log_so_far(service))  # requests of other tests have the same outcomes
    reply = ask(service, pairing_id)
    assert (reply.status, list(reply.json)) == (200, ["sealed"])
    assert "no-store" in reply.headers["cache-control"]
    data = base64.urlsafe_b64decode(reply.json["sealed"] + "==")
    opened = AESGCM(one_time_key).decrypt(data[:12], data[12:], f"breakglass-pair-v1:{pairing_id}:anna".encode())
    assert opened == SIGNING_KEY.encode()
    assert pairing.find_state(str(place.parent), pairing_id) == "fetched"
    assert ask(service, pairing_id).status == 404
    assert pairing.find_state(str(place.parent), pairing_id) == "twice"
    assert ask(service, pairing_id).status == 404
    log = log_so_far(service)
    assert pairing_id not in log
    lines = [json.loads(line) for line in log[begin:].splitlines() if '"pair' in line]
    assert [(line["outcome"], line["level"], line["caller"]) for line in lines] == [
        ("paired", "info", "anna"),
        ("paired-twice", "warning", "anna"),
        ("pair-unknown", "warning", ""),
    ]


def test_all_else_gets_one_answer(service: Service, place: Path) -> None:
    """The bytes, headers and delay are the same for unknown, used, expired and malformed ids."""
    used, old = leave(place), leave(place, seconds=-1)
    assert ask(service, used).status == 200
    (place.parent / "secret").write_text((place / f"{used}.fetched").read_text())
    bodies = [json.dumps({"id": each}).encode() for each in (UNKNOWN, used, old, f"{used}.fetched", "../secret", "")]
    bodies += [b"", b"[]", b'{"id":1}', b"\xff", b'{"id":"%s","id":"%s"}' % (b"A" * 16, b"A" * 16)]
    bodies += [json.dumps({"id": UNKNOWN, "more": ""}).encode(), b" " * 120 + b'{"id":""}', b"x" * 100_000]
    began = time.monotonic()
    answers = [service.send("POST", "/pair", body) for body in bodies]
    assert time.monotonic() - began >= REFUSED_AFTER * len(bodies)
    assert all(same(answer) == same(answers[0]) for answer in answers)
    assert (answers[0].status, answers[0].json["error"]["code"]) == (404, "not-found")
    assert "no-store" in answers[0].headers["cache-control"]
    assert names(place) == sorted([f"{used}.twice", old])
    shutil.rmtree(sessions(service))  # as in a handler without chat, until a key is left there
    assert same(ask(service, used)) == same(answers[0])
    place.mkdir(parents=True)
    for method in ("GET", "PUT"):
        assert same(service.send(method, "/pair")) == same(service.send(method, "/echo/arrived"))


def test_one_of_many_gets_it(service: Service, place: Path) -> None:
    """During a flood of unknown ids, fifty devices ask for one key at once. One of them gets it, and a verb is done.

    The command learns of the others.
    """
    pairing_id, is_over = leave(place), threading.Event()

    def flood() -> set[int]:
        found = set()
        while not is_over.is_set():
            found.add(ask(service, UNKNOWN).status)
        return found

    with ThreadPoolExecutor(80) as pool:
        floods = [pool.submit(flood) for _ in range(30)]
        try:
            service.logged('"pair-unknown"', times=service.log().count('"pair-unknown"') + 30)
            assert service.pve("status").json["outcome"] == "done"
            found = [reply.status for reply in pool.map(lambda _: ask(service, pairing_id), range(50))]
        finally:
            is_over.set()
        assert set().union(*(each.result() for each in floods)) == {404}
    assert sorted(found) == [200] + [404] * 49
    assert names(place) == [f"{pairing_id}.twice"]


def test_what_is_no_file_of_ours_is_not_handed_out(service: Service, place: Path) -> None:
    """A link, a pipe (which would wait for a writer), and a large, incomplete or forged file are refused."""
    good = leave(place)
    text = (place / good).read_text()
    made = [letter * 16 for letter in "BCDEFGH"]
    (place / made[0]).symlink_to(place / good)
    os.mkfifo(place / made[1], 0o666)
    (place / made[2]).write_text(text + " " * 4096)
    (place / made[3]).write_text(text[:-20])
    (place / made[4]).write_text(text.replace('"v": 1', '"v": 2'))
    (place / made[5]).write_text("[" * 2000)
    (place / made[6]).mkdir()
    own(*(place / each for each in made))
    assert [ask(service, each).status for each in made] == [404] * len(made)
    assert names(place) == sorted([good, *made])
    assert ask(service, good).status == 200


@pytest.mark.all
@pytest.mark.real("fuse")
def test_a_directory_that_hangs_holds_up_no_verb(service: Service, place: Path) -> None:
    """More requests than there are threads get the same answer after 2 s, while a status is answered."""
    with unserved_fuse(place), ThreadPoolExecutor(12) as pool:
        requests = [pool.submit(ask, service, UNKNOWN) for _ in range(12)]
        assert service.pve("status").json["outcome"] == "done"
        hung = [each.result() for each in requests]
    answer = ask(service, UNKNOWN)
    assert all(same(each) == same(answer) for each in hung)
    service.logged("sessions.dir does not answer", times=12)
    assert ask(service, leave(place)).status == 200  # the threads are free again


def test_old_keys_are_removed(place: Path) -> None:
    """Keys in each state are removed a minute after they expire, incomplete files after an hour. Other files stay."""
    directory = str(place.parent)
    fresh, _, fetched, just = (leave(place, seconds=each) for each in (600, -40, -40, -1))
    now = time.time()  # the first ones are older, by the time that the others took
    (place / fetched).rename(place / f"{fetched}.fetched")
    for name, age in ((f".new-{'N' * 16}", 3700), (f".new-{'M' * 16}", 3500), ("other", 9999)):
        (place / name).touch()
        os.utime(place / name, (now - age, now - age))
    pairing.tidy(directory, now + 31)
    assert names(place) == sorted([fresh, just, f".new-{'M' * 16}", "other"])


def test_a_request_that_is_over_spends_no_key(place: Path) -> None:
    """The directory answered too late, so the device has its 404 already."""
    pairing_id = leave(place)
    late = pairing.fetch_once(str(place.parent), pairing_id, time.monotonic() - 1)
    assert (late.outcome, names(place)) == ("pair-unknown", [pairing_id])
