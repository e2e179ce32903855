"""Draws an installed page's pictures from static_site/icon.svg. After a change: `python -m tests.support.icons`."""

from pathlib import Path

from playwright.sync_api import Browser

from .browser import chromium

SITE = Path(__file__).parent.parent.parent / "static_site"
ROUND = 'rx="112"'
PICTURES = {  # name: its side, and whether its corners are round; iOS and Android cut the corners of the others
    "icon-180.png": (180, False),
    "icon-192.png": (192, True),
    "icon-512.png": (512, True),
    "icon-maskable-512.png": (512, False),
}


def svg_of(name: str) -> str:
    """Return the drawing from which a picture is made."""
    drawing = (SITE / "icon.svg").read_text(encoding="utf-8")
    assert ROUND in drawing
    return drawing if PICTURES[name][1] else drawing.replace(ROUND, "")


def draw(browser: Browser, name: str) -> bytes:
    """Return a picture as PNG."""
    side = PICTURES[name][0]
    page = browser.new_page(viewport={"width": side, "height": side})
    page.set_content(f"<style>body {{ margin: 0 }} svg {{ display: block }}</style>{svg_of(name)}")
    picture = page.screenshot(omit_background=True)
    page.close()
    return picture


if __name__ == "__main__":
    with chromium() as started:
        for each in PICTURES:
            (SITE / each).write_bytes(draw(started, each))
