"""What chat costs over the bare `claude`: both are the real one, with the same words from the same scripted model.

Each figure is a function; `measure` runs them all. By itself: `python -m tests.bench_chat`.
"""

import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from breakglass.chat.command import build_arguments, build_environment
from breakglass.chat.events import Translator
from breakglass.client import new_id
from breakglass.config.model_api import ModelApi

from ..support import claude
from ..support.model import Model
from ..support.talk import Stream, Talker, answer_text, fake
from ..support.turns import make_job

Figures = dict[str, float]

TEXT = "one two three four five six seven eight nine ten"
TITLES = {
    "chat_delta_added_ms": "chat: a delta's way, over the bare CLI's (ms)",
    "chat_first_text_ratio": "chat: POST to first text, over the bare CLI's spawn to first text",
    "chat_first_text_ms": "chat: POST to first text (ms)",
    "chat_deltas_per_second": "chat: deltas a second, from the model to one client",
    "chat_events_ratio": "chat: events.py, over json.loads and json.dumps",
    "chat_client_kb": "chat: memory of an attached client (KB)",
    "chat_turn_kb": "chat: memory of a running turn in the handler (KB)",
    "chat_crowd_seconds": "chat: 20 clients on one turn, the last but the slow one (s)",
    "chat_slow_complete": "chat: the one at 1 KB/s was complete (1) or not (0)",
}


@contextmanager
def bare(model: Model, directory: Path, prompt: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Start claude by our own recipe and nothing of ours around it."""
    job = make_job(prompt, api=ModelApi("ANTHROPIC_API_KEY", "sk-test", model.url))
    home = directory / "bare" / job.sid
    home.mkdir(parents=True)
    (home / "agents.json").write_text(json.dumps(job.agents))
    own = {
        "HOME": str(home),
        "CLAUDE_CONFIG_DIR": str(home),
        "CLAUDE_CODE_TMPDIR": str(home),
        "PATH": os.environ["PATH"],
    }
    env = {**build_environment(job), **own, "ANTHROPIC_BASE_URL": model.url, job.api.variable: job.api.credential}
    del env["CLAUDE_CODE_SHELL_PREFIX"]
    words = [word.replace("/turn/", f"{home}/") for word in build_arguments(job)]
    with tempfile.TemporaryFile() as given:
        given.write(prompt.encode())
        given.seek(0)
        argv = [str(claude.find()), *words]
        with subprocess.Popen(argv, stdin=given, stdout=subprocess.PIPE, env=env, cwd=home) as process:
            yield process


def deltas(process: "subprocess.Popen[bytes]") -> Iterator[float]:
    """Yield the time of each text delta on claude's own standard output."""
    assert process.stdout is not None
    for line in process.stdout:
        if b'"text_delta"' in line:
            yield time.perf_counter()


def texts(stream: Stream) -> Iterator[float]:
    for event in stream:
        if event["type"] == "text":
            yield time.perf_counter()


def first_text(talker: Talker, directory: Path, count: int) -> Figures:
    """Time from a POST to its first text, and from a spawn to it."""
    ours, theirs = [], []
    for _ in range(count):
        began = time.perf_counter()
        with talker.open(prompt=fake({"text": TEXT})) as stream:
            ours.append(next(texts(stream)) - began)
            stream.rest()
        began = time.perf_counter()
        with bare(talker.model, directory, fake({"text": TEXT})) as process:
            times = deltas(process)
            theirs.append(next(times) - began)
            list(times)
    mine, base = statistics.median(ours), statistics.median(theirs)
    return {"chat_first_text_ms": round(mine * 1000, 1), "chat_first_text_ratio": round(mine / base, 3)}


def delta_added(talker: Talker, directory: Path, count: int) -> Figures:
    """Time from the model's word to the client, less that to claude's own standard output."""
    ours, theirs = [], []
    for number in range(count):
        for kind in ("ours", "theirs"):
            gate = f"{kind}{number}{time.time_ns()}"
            prompt = fake({"text": TEXT, "wait": gate})
            if kind == "ours":
                with talker.open(prompt=prompt) as stream:
                    ours.append(_second(talker.model, gate, texts(stream)))
            else:
                with bare(talker.model, directory, prompt) as process:
                    theirs.append(_second(talker.model, gate, deltas(process)))
    return {"chat_delta_added_ms": round((statistics.median(ours) - statistics.median(theirs)) * 1000, 2)}


def _second(model: Model, gate: str, times: Iterator[float]) -> float:
    next(times)
    time.sleep(0.05)  # so that both are idle
    began = time.perf_counter()
    model.release(gate)
    taken = next(times) - began
    for _ in times:
        pass
    return taken


def throughput(talker: Talker, count: int = 8000) -> Figures:
    """Deltas a second that reach a client when the model says them as fast as it can."""
    began = time.perf_counter()
    events = talker.chat(fake({"text": "0123456789abcdefghijklm\n" * count}))
    assert len(answer_text(events)) == 24 * count
    return {"chat_deltas_per_second": round(count / (time.perf_counter() - began))}


def translation(seconds: float = 0.5) -> Figures:
    """Lines a second through the translator, over those of the least that any translator has to do."""
    lines = (Path(__file__).parent.parent / "transcripts/tool.jsonl").read_bytes().splitlines()

    def rate(work: object) -> float:
        assert callable(work)
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            for line in lines:
                work(line)
            done += len(lines)
        return done / (time.perf_counter() - began)

    def ours(line: bytes) -> None:
        for event in to_events.feed(line):
            json.dumps(event)

    to_events = Translator("devvm", new_id)
    plain = rate(lambda line: json.dumps(json.loads(line)))
    return {"chat_events_ratio": round(rate(ours) / plain, 2)}


def memory(talker: Talker, clients: int = 40, turns: int = 6) -> Figures:
    """What the handler's memory grows by, for each attached client and for each turn that runs."""
    streams: list[Stream] = []

    def grown(count: int, attach: str) -> float:
        before = _rss(talker.process.pid)
        for _ in range(count):
            fields = {"attach": attach} if attach else {"prompt": fake({"text": TEXT, "wait": "memory"})}
            streams.append(talker.open("operator", "", **fields))
            streams[-1].until("text")
        return (_rss(talker.process.pid) - before) / count

    try:
        grown(1, "")  # the first one loads what all of them use
        turn = streams[0].turn
        grown(5, turn)
        return {"chat_client_kb": round(grown(clients, turn), 1), "chat_turn_kb": round(grown(turns, ""), 1)}
    finally:
        talker.model.release("memory")
        for stream in streams:
            stream.rest()
            stream.close()


def _rss(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return float(line.split()[1])
    raise AssertionError(pid)


def crowd(talker: Talker, clients: int = 20) -> Figures:
    """Clients on one turn, one of them reading 1 KB a second; all are to be complete."""
    answer = "0123456789abcdefghijklm\n" * 300
    complete: list[str] = []

    def watch(turn: str) -> None:
        with talker.open(attach=turn) as stream:
            complete.append(answer_text(stream.rest()))

    with talker.open(prompt=fake({"text": answer, "wait": "crowd"})) as slow:
        threads = [threading.Thread(target=watch, args=(slow.turn,)) for _ in range(clients - 1)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        began = time.perf_counter()
        talker.model.release("crowd")
        for thread in threads:
            thread.join()
        taken = time.perf_counter() - began
        raw = b""
        while piece := slow.response.read(1024):
            raw += piece
            time.sleep(1 if len(raw) < 8 * 1024 else 0)
    assert complete == [answer] * (clients - 1)
    whole = answer_text([json.loads(line) for line in raw.splitlines()]) == answer
    return {"chat_crowd_seconds": round(taken, 2), "chat_slow_complete": float(whole)}


def measure(directory: Path, count: int = 12) -> Figures:
    """Return every figure; needs the real claude. About a minute."""
    model = Model()
    talker = Talker(directory, model, chat="max_turns_at_once = 16")
    try:
        found = first_text(talker, directory, count) | delta_added(talker, directory, count)
        return found | throughput(talker) | translation() | memory(talker) | crowd(talker)
    finally:
        talker.stop()
        model.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o711)
        for figure, value in measure(Path(name)).items():
            print(f"{TITLES[figure]:<70} {value:>10}")
