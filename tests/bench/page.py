"""What the page costs on loopback: its first load, its first usable button, a word's way onto it, a long transcript.

`page_figures` measures; by itself: `python -m tests.bench_page`.
"""

import json
import re
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, expect

from ..support.browser import Stage, Visit, chromium
from ..support.page_chat import ended, show_chat
from ..support.talk import fake

Figures = dict[str, float]

TITLES = {
    "page_first_load_bytes": "page: bytes over the wire for the first load",
    "page_first_button_ms": "page: from the address to the first usable button, ms",
    "page_token_ms": "page: from a word's leaving the handler to its being on the page, median, ms (wanted: under 30)",
    "page_token_worst_ms": "page: the same, worst",
    "page_answer_task_ms": "page: its longest pause while 22 KB come in 900 deltas, ms (wanted: at most 50)",
    "page_longest_task_ms": "page: its longest pause while 2,000 lines come in at once, ms",
    "page_swallowed_ms": "page: from a reload to the kept page, on a network that swallows everything, ms",
    "page_heap_mib": "page: memory after a transcript of 2,000 lines, MiB",
    "page_replay_ms": "page: that transcript and two turns before it, from its tab's press to its last line, ms",
    "page_replay_task_ms": "page: its longest pause meanwhile, ms (wanted: under 50)",
}
WORDS = "".join(f"word {n} of the answer, " for n in range(60))
ANSWER = """## The disk of this VM

Its request queue is **dead**, and none completes: see the lines of `virtio0` below.

- 3 requests in flight for 11 minutes
- no other VM on `local-zfs` waits

| disk | oldest request |
|---|---|
| devvm virtio0 | 11 min |

```
zpool status -x
```

"""
TASKS = """() => { window.tasks = [0]; new PerformanceObserver(list =>
    window.tasks.push(...list.getEntries().map(each => each.duration))).observe({type: "longtask"}); }"""
SEEN = """() => { window.seen = []; const box = document.getElementById("transcript"); new MutationObserver(() => {
    const length = box.querySelector(".answer")?.textContent.length ?? 0;
    window.seen.push([performance.timeOrigin + performance.now(), length]);
}).observe(box, {childList: true, characterData: true, subtree: true}); }"""
TEXT = re.compile(rb'"type":"text".*?"text":"(.*?)"')


def page_figures(directory: Path, loads: int = 5) -> Figures:
    """Measure one Chromium before one handler. Needs claude for those of the conversation."""
    with chromium() as browser:
        stage = Stage(directory, browser)
        try:
            return {**_loads(stage, loads), **_swallowed(stage), **_transcript(stage)}
        finally:
            stage.close()


def _loads(stage: Stage, count: int) -> Figures:
    sizes, times = [], []
    for _ in range(count):
        visit = Visit(stage, service_workers="block")
        client = visit.context.new_cdp_session(visit.page)
        client.send("Network.enable")
        seen: list[float] = []
        client.on("Network.loadingFinished", lambda event, seen=seen: seen.append(event["encodedDataLength"]))
        began = time.perf_counter()
        visit.page.goto(stage.url)
        visit.page.wait_for_selector("#outcome[data-phase=locked]")
        sizes.append(sum(seen))
        visit.page.goto("about:blank")
        began = time.perf_counter()
        visit.open()
        times.append((time.perf_counter() - began) * 1000)
        visit.close()
    return {
        "page_first_load_bytes": statistics.median(sizes),
        "page_first_button_ms": round(statistics.median(times), 1),
    }


def _swallowed(stage: Stage) -> Figures:
    visit = Visit(stage)
    page = visit.open()
    page.evaluate("() => navigator.serviceWorker.ready.then(() => true)")
    stage.wire.swallow()
    began = time.perf_counter()
    page.reload(wait_until="commit")
    page.wait_for_selector("#outcome[data-phase=locked]")
    took = (time.perf_counter() - began) * 1000
    stage.wire.mend()
    visit.close()
    return {"page_swallowed_ms": round(took)}


def _transcript(stage: Stage) -> Figures:
    visit = Visit(stage)
    page = visit.open()
    show_chat(page)
    page.evaluate(SEEN)
    stage.wire.record = []
    _turn(page, fake({"text": WORDS, "pace": 0.02}), 1)
    seen = page.evaluate("() => window.seen")
    length, ways = 0, []
    for gone, data in stage.wire.record:
        for words in TEXT.findall(data):
            length += len(words)
            there = next(at for at, drawn in seen if drawn >= length - 1)  # a space at the end is not drawn
            ways.append(there - gone * 1000)
    stage.wire.record = None
    page.evaluate(TASKS)
    _turn(page, fake({"text": (ANSWER * 80)[:22_000], "pace": 0.01}), 2)
    answer = max(page.evaluate("() => window.tasks.splice(0, Infinity, 0)"))
    _turn(page, fake({"text": "".join(f"{n} {'word ' * 8}\n" for n in range(2_000))}), 3)
    longest = max(page.evaluate("() => window.tasks"))
    client = visit.context.new_cdp_session(page)
    client.send("HeapProfiler.collectGarbage")
    client.send("Performance.enable")
    metrics = {each["name"]: each["value"] for each in client.send("Performance.getMetrics")["metrics"]}
    replayed = _replay(visit)
    visit.close()
    return {
        "page_token_ms": round(statistics.median(ways), 1),
        "page_token_worst_ms": round(max(ways), 1),
        "page_answer_task_ms": round(answer),
        "page_longest_task_ms": round(longest),
        "page_heap_mib": round(metrics["JSHeapUsedSize"] / 2**20, 1),
        **replayed,
    }


def _replay(visit: Visit) -> Figures:
    """Open the page again: what was said comes from the handler's logs."""
    page = visit.open()
    page.evaluate(TASKS)
    began = time.perf_counter()
    show_chat(page)
    expect(page.locator("#transcript")).to_contain_text("1999 word")
    took = time.perf_counter() - began
    return {
        "page_replay_ms": round(took * 1000, 1),
        "page_replay_task_ms": round(max(page.evaluate("() => window.tasks"))),
    }


def _turn(page: Page, prompt: str, count: int) -> None:
    page.fill("#prompt", prompt)
    page.click("#send")
    ended(page, count)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as place:
        found = page_figures(Path(place))
    for name, title in TITLES.items():
        print(f"{title:<100}  {found[name]:>10}")
    print(json.dumps(found))
