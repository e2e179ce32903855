"""Renders a report as Markdown, or as one HTML file that prints and has its pictures inside. Pure.

Hosts, guests and callers have written much of it, so each character that has a meaning in either form is escaped.
"""

import re
from collections.abc import Iterable
from html import escape

from .night import Block

_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~!&]|(?<=:)/(?=/)|(?<=www)\.)", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/]+=*", re.ASCII)
_HEAD = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="content-security-policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Breakglass: report</title>
<style>
body { font: 16px/1.4 sans-serif; color: #000; background: #fff; max-width: 48em; margin: 1em auto; padding: 0 1em }
li, p { overflow-wrap: anywhere } pre { white-space: pre-wrap; overflow-wrap: anywhere } img { max-width: 100% }
@page { size: A4; margin: 14mm } figure { margin: 1em 0; break-inside: avoid }
</style>
"""


def render_markdown(blocks: Iterable[Block]) -> str:
    """Return the report as Markdown. A picture is its caption alone."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    if block.kind == "log":  # Markdown interprets nothing in an indented block
        return "\n".join(f"    {line}" for line in block.lines)
    lines = [_MARKUP.sub(r"\\\1", line) for line in block.lines]
    marks = {"title": "# ", "heading": "## ", "list": "- "}
    return "\n".join(marks.get(block.kind, "") + line for line in lines)


def render_html(blocks: Iterable[Block]) -> str:
    """Return the report as an HTML file, which loads nothing."""
    return _HEAD + "\n".join(_html(block) for block in blocks) + "\n</html>\n"


def _html(block: Block) -> str:
    lines = [escape(line) for line in block.lines]
    if block.kind == "list":
        return "<ul>\n" + "\n".join(f"<li>{line}" for line in lines) + "\n</ul>"
    if block.kind == "picture":
        png = block.png if _BASE64.fullmatch(block.png) else ""
        return f'<figure><img alt="" src="data:image/png;base64,{png}"><figcaption>{lines[0]}</figcaption></figure>'
    tag = {"title": "h1", "heading": "h2", "log": "pre"}.get(block.kind, "p")
    return f"<{tag}>" + "\n".join(lines) + f"</{tag}>"
