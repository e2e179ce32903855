"""Takes the README's pictures from the demo, in three minutes: `python -m tests.bench.pictures DIRECTORY`.

`desk.png` is a frozen disk, as a desk sees it, with claude's proposal. `night.png` is the walk of a wedged QEMU on a
phone: what is wrong, the question, the stop, the return. If Pillow is installed, the pictures get a palette, which is a
third of the bytes.
"""

import importlib
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, ViewportSize

from ..support.browser import chromium
from ..support.page_chat import ask_claude

LINK = re.compile(r"http://\S+#key=\S+")
PHONE, DESK = ViewportSize(width=360, height=740), ViewportSize(width=1280, height=800)
FRAME_WIDTH, FRAME_HEIGHT, GAP = 270, 555, 8
VERDICT = "[data-headline]:is([data-tone=bad], [data-tone=warn])"


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
    with demo("qemu-wedged", "--no-chat") as link:
        page = browser.new_page(viewport=PHONE, color_scheme="light", has_touch=True)
        page.goto(link)
        page.wait_for_selector(f"{VERDICT} >> text=QEMU hangs", timeout=60_000)
        page.wait_for_selector("#cures code")
        frames = [page.screenshot()]
        page.click("[data-verb=cycle]")
        page.wait_for_selector("[data-confirm][aria-disabled=false]")
        frames.append(page.screenshot())
        page.click("[data-confirm]")
        page.wait_for_selector("[data-outcome] >> text=/stop.* [5-9] s,/s", timeout=120_000)
        frames.append(page.screenshot())
        page.wait_for_selector("[data-outcome] >> text=/done.* [5-9] s of/s", timeout=240_000)
        frames.append(page.screenshot())
        page.close()
    join(browser, frames, path)


def join(browser: Browser, frames: list[bytes], path: Path) -> None:
    page: Page = browser.new_page(
        viewport={"width": len(frames) * (FRAME_WIDTH + GAP), "height": FRAME_HEIGHT}, device_scale_factor=1
    )
    images = "".join(f'<img src="data:image/png;base64,{b64encode(frame).decode()}">' for frame in frames)
    style = (
        f"body{{margin:0;display:flex;gap:{GAP}px;background:#777}}img{{width:{FRAME_WIDTH}px;height:{FRAME_HEIGHT}px}}"
    )
    page.set_content(f"<style>{style}</style>{images}")
    page.screenshot(path=path)
    page.close()


def reduce_colours(path: Path) -> None:
    """Replace a picture's colours by its 256 main ones, if Pillow is installed."""
    try:
        image = importlib.import_module("PIL.Image")
    except ImportError:
        return
    image.open(path).convert("RGB").quantize(256, dither=0).save(path, optimize=True)


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    with chromium() as browser:
        take_desk(browser, directory / "desk.png")
        take_night(browser, directory / "night.png")
    for name in ("desk.png", "night.png"):
        reduce_colours(directory / name)
