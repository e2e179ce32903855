"""Takes the README's pictures from the demo, in five minutes: `python -m tests.bench.pictures DIRECTORY`. Needs Pillow.

`desk.png` is a frozen disk, as a desk sees it, with claude's proposal. `night.png` is the walk of a panicked guest on
a phone: what is wrong, the question, the wait, the return. `arc.webp` and `arc-dark.webp` move: a night on a phone,
from the message of an alert to the login prompt. Their clock counts the seconds since the message.
"""

import importlib
import json
import os
import re
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from playwright.sync_api import Browser, Page, ViewportSize

from breakglass.notify.messages import Message, verdict_message

from ..support.browser import chromium
from ..support.page_chat import ask_claude

Image = importlib.import_module("PIL.Image")  # not locked, because only this script needs it
LINK = re.compile(r"http://\S+#key=\S+")
PHONE, DESK = ViewportSize(width=360, height=740), ViewportSize(width=1280, height=800)
FRAME_WIDTH, FRAME_HEIGHT, GAP = 270, 555, 8
VERDICT = "[data-headline]:is([data-tone=bad], [data-tone=warn])"

CLOCK_HEIGHT = 32
CLOCK = """<style>body {{ margin: 0; background: #111; color: #fff; font: 600 17px/{height}px sans-serif }}
p {{ margin: 0; text-align: center }} img {{ display: block; width: 360px }}</style>
<p>{seconds} s after the alert</p><img src="data:image/png;base64,{picture}">"""
LOCK_SCREEN = """<style>:root {{ color-scheme: light dark }}
body {{ margin: 0; padding: 120px 16px; background: light-dark(#c8d1dc, #20262d); font: 16px/1.4 sans-serif }}
article {{ padding: 14px 16px; border-radius: 18px; background: light-dark(#fff, #343b44); overflow-wrap: anywhere }}
h1 {{ margin: 0 0 4px; font-size: 17px }} p {{ margin: 0 }}</style>
<article><h1>{title}</h1><p>{text}</p></article>"""


@contextmanager
def demo(scenario: str, *options: str) -> Iterator[str]:
    """Run the demo with a fault; give the page's link, with the key in it."""
    command = [str(Path(sys.executable).parent / "breakglass"), "demo", "--scenario", scenario, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield next(found[0] for line in process.stdout if (found := LINK.search(line)))
        finally:
            process.terminate()


def take_desk(browser: Browser, path: Path) -> None:
    """Take the desk's picture: the verdict, the console, and claude's proposal beside them."""
    with demo("disk-frozen") as link:
        page = browser.new_page(viewport=DESK, color_scheme="dark")
        page.goto(link)
        page.wait_for_selector(f"{VERDICT} >> text=disk frozen", timeout=60_000)
        page.wait_for_selector(":is(#glass img, #console-text .piece)")
        page.wait_for_selector("#link-claude[data-tone=good]")
        ask_claude(page, "Why does it not answer?")
        page.wait_for_selector("[data-proposal] button", timeout=120_000)
        page.wait_for_selector("#stop-turn", state="hidden", timeout=120_000)
        page.evaluate("() => document.activeElement.blur()")
        page.screenshot(path=path)
        page.close()


def take_night(browser: Browser, path: Path) -> None:
    """Take the four pictures of the walk, side by side."""
    with demo("guest-panicked", "--no-chat") as link:
        page = browser.new_page(viewport=PHONE, color_scheme="light", has_touch=True)
        page.goto(link)
        page.wait_for_selector("#console-text >> text=Kernel panic", timeout=60_000)
        frames = [page.screenshot()]
        page.click("[data-verb=reset]")
        page.wait_for_selector("[data-confirm][aria-disabled=false]")
        frames.append(page.screenshot())
        page.click("[data-confirm]")
        page.wait_for_selector("[data-headline] >> text=Coming back", timeout=60_000)
        frames.append(page.screenshot())
        page.wait_for_selector("[data-headline] >> text=Back:", timeout=120_000)
        page.wait_for_selector("#console-text >> text=login:")
        frames.append(page.screenshot())
        page.close()
    join(frames, path)


def take_arc(browser: Browser, path: Path, scheme: Literal["light", "dark"]) -> None:
    """Take the moving picture: the message, what it links to, the verdict, the question, the way back, the prompt."""
    with demo("guest-panicked", "--no-chat") as link, TemporaryDirectory() as directory:
        frames = Frames()
        message = compose_message(link, Path(directory))
        page = browser.new_page(viewport=PHONE, color_scheme=scheme, has_touch=True)
        text = escape(f"{message.text} {message.guest}")
        page.set_content(LOCK_SCREEN.format(title=escape(message.title), text=text))
        frames.take(page, 4)
        page.goto(f"{link}&{message.link.partition('#')[2]}")
        page.wait_for_selector("text=its last words >> visible=true")
        frames.take(page, 4)
        page.click("[data-show=vm]")
        page.wait_for_selector("#console-text >> text=Kernel panic", timeout=60_000)
        frames.take(page, 3)
        page.click("[data-verb=reset]")
        page.wait_for_selector("[data-confirm][aria-disabled=false]")
        frames.take(page, 2)
        page.click("[data-confirm]")
        while not page.query_selector("[data-headline] >> text=Back:"):
            frames.take(page, 0.6)
            page.wait_for_timeout(1500)
        page.wait_for_selector("#console-text >> text=login:")
        frames.take(page, 5)
        page.close()
    frames.write(browser, path, scheme)


def compose_message(link: str, directory: Path) -> Message:
    """Return the message that an alert about the demo's VM sends to a receiver that wants the guest's words."""
    url, _, secret = link.partition("/#key=")
    (directory / "secret").touch(0o600)
    (directory / "secret").write_text(secret)
    environment = {**os.environ, "BREAKGLASS_URL": url, "BREAKGLASS_SECRET_FILE": str(directory / "secret")}

    def call(*words: str) -> dict[str, Any]:
        command = [str(Path(sys.executable).parent / "breakglass"), "call", *words, "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, check=True)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    job = call("forensics")["id"]
    found = call("history", "--job", job)["job"]
    return verdict_message("devvm", job, {**found, "started": "03:00".rjust(16)}, [f"{url}/"])


@dataclass
class Frames:
    """The frames of a moving picture, each with the time of the clock and with its own duration, in seconds."""

    began: float = field(default_factory=time.monotonic)
    taken: list[tuple[bytes, float, float]] = field(default_factory=list)

    def take(self, page: Page, seconds: float) -> None:
        """Take one frame of a page; a frame like the last one only makes that one longer."""
        picture = page.screenshot()
        if self.taken and self.taken[-1][0] == picture:
            picture, at, before = self.taken.pop()
            self.taken.append((picture, at, before + seconds))
        else:
            self.taken.append((picture, time.monotonic() - self.began, seconds))

    def write(self, browser: Browser, path: Path, scheme: Literal["light", "dark"]) -> None:
        """Put the clock above each frame, and write them as an animation without end."""
        page = browser.new_page(viewport={"width": 360, "height": 740 + CLOCK_HEIGHT}, color_scheme=scheme)
        images = []
        for picture, at, _ in self.taken:
            page.set_content(CLOCK.format(seconds=int(at), picture=b64encode(picture).decode(), height=CLOCK_HEIGHT))
            images.append(Image.open(BytesIO(page.screenshot())).convert("RGB"))
        page.close()
        durations = [int(1000 * seconds) for _, _, seconds in self.taken]
        images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0, quality=80, method=6)


def join(frames: list[bytes], path: Path) -> None:
    whole = Image.new("RGB", (len(frames) * (FRAME_WIDTH + GAP), FRAME_HEIGHT), "#777")
    for n, frame in enumerate(frames):
        image = Image.open(BytesIO(frame)).convert("RGB").resize((FRAME_WIDTH, FRAME_HEIGHT))
        whole.paste(image, (n * (FRAME_WIDTH + GAP), 0))
    whole.save(path)


def reduce_colours(path: Path) -> None:
    """Replace a picture's colours by its 256 main ones, which leaves a third of the bytes."""
    Image.open(path).convert("RGB").quantize(256, dither=0).save(path, optimize=True)


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    with chromium() as browser:
        take_desk(browser, directory / "desk.png")
        take_night(browser, directory / "night.png")
        take_arc(browser, directory / "arc.webp", "light")
        take_arc(browser, directory / "arc-dark.webp", "dark")
    for name in ("desk.png", "night.png"):
        reduce_colours(directory / name)
