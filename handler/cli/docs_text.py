"""Documents for a terminal: Markdown as plain text, and the lines of a document about one code. Pure."""

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping

_MARGIN = "    "  # indent of a command, and of a cell below its row's name
_SHORT_NAME = 20  # columns; if the name of a row is longer, its text begins on the next line
_ITEM = re.compile(r"( *)([-*]|\d+\.) +(.*)")
_HEADING = re.compile(r"(#+) (.+)")
_LINK = re.compile(r"\[((?:[^\]`]|`[^`]*`)+)\]\(([^)\s]+)\)")
_CODE = re.compile(r"`[^`]+`")
_NO_BREAK = "\xa0"
_CELL_END = re.compile(r"(?<!\\)\|")
_UNDERLINES = {1: "=", 2: "-"}


def render(text: str, width: int = 80) -> str:
    """Return Markdown as plain text of at most `width` columns. Only commands may have longer lines."""
    shown, was_item = "", False
    for block in filter(None, _split(text)):
        is_item = _ITEM.fullmatch(block[0]) is not None
        gap = "\n" if is_item and was_item else "\n\n"
        shown, was_item = f"{shown}{gap if shown else ''}{_render_block(block, width)}", is_item
    return f"{shown}\n"


def _split(text: str) -> Iterator[list[str]]:
    """Yield the lines of each heading, paragraph, list item, table and fenced block."""
    block: list[str] = []
    fence = ""
    for line in text.splitlines():
        bare = line.strip()
        is_new = not block or bare.startswith(("```", "#")) or _ITEM.fullmatch(line) is not None
        is_new = is_new or bare.startswith("|") != block[-1].lstrip().startswith("|") or block[0].startswith("#")
        if fence:
            block.append(line)
            fence = "" if bare == fence else fence
        elif bare and not is_new and block[0].strip()[:3] != "```":
            block.append(line)
        else:
            yield from [block] if block else []
            block = [line] if bare else []
            fence = "```" if bare.startswith("```") else ""
    yield block


def _render_block(block: list[str], width: int) -> str:
    first = block[0]
    indent = first[: len(first) - len(first.lstrip())]
    if first.strip().startswith("```"):
        return "\n".join(f"{_MARGIN}{line}".rstrip() for line in block[1:-1])
    if first.strip().startswith("|"):
        return _render_table(block, width)
    if heading := _HEADING.fullmatch(first):
        title = plain(heading[2])
        return f"{title}\n{_UNDERLINES.get(len(heading[1]), '.') * len(title)}"
    if item := _ITEM.fullmatch(first):
        marker = f"{item[1]}{item[2]} "
        return _wrap(plain(" ".join([item[3], *(line.strip() for line in block[1:])])), marker, width)
    return _wrap(plain(" ".join(line.strip() for line in block)), indent, width)


def _render_table(block: list[str], width: int) -> str:
    """Return each row as a list item. The row's name is followed by the other cells with their columns' names."""
    names, _, *rows = [[plain(cell) for cell in cells_of(line)] for line in block]
    for row in rows:
        row[0] = row[0].replace("`", "")
    short = max((len(row[0]) for row in rows if len(row[0]) <= _SHORT_NAME), default=0) if len(names) == 2 else 0
    labels = names[1:] if len(names) > 2 else [""]
    shown = []
    for first, *others in rows:
        cells = [f"{label}: {cell}" if label else cell for label, cell in zip(labels, others, strict=False) if cell]
        margin = " " * (short + 2) if short else _MARGIN
        if len(first) <= short and cells:
            shown.append(_wrap(cells[0], first.ljust(short) + "  ", width))
        else:
            shown += [_wrap(first, "", width), *(_wrap(cell, margin, width) for cell in cells)]
    return "\n".join(shown)


def cells_of(line: str) -> list[str]:
    """Return the cells of a table row, as Markdown."""
    return [cell.strip() for cell in _CELL_END.split(line.strip()[1:-1])]


def _wrap(text: str, begin: str, width: int) -> str:
    """Wrap text to `width` columns. The first line follows `begin`. Code between backticks is not broken."""
    whole = _CODE.sub(lambda code: code[0].replace(" ", _NO_BREAK), text)
    wrapper = textwrap.TextWrapper(width, begin, " " * len(begin), break_long_words=False, break_on_hyphens=False)
    return wrapper.fill(whole).replace(_NO_BREAK, " ").rstrip()


def plain(text: str) -> str:
    """Return a line of Markdown without its markup. A link becomes its text and the name of its document."""
    return _LINK.sub(_words_of_link, text).replace("**", "*").replace("\\|", "|")


def _words_of_link(link: re.Match[str]) -> str:
    words, target = link[1], link[2]
    if target.startswith("https://"):
        return f"{words} <{target}>"
    name = target.partition("#")[0].removesuffix(".md")
    return words if not name or "/" in name or words == name else f"{words} (docs {name})"


# --- One section, and the lines about a code ---


def section_with(words: str, text: str) -> str:
    """Return the first section whose heading has these words, with the sections below it; empty if none has."""
    found, depth, is_fenced = list[str](), 0, False
    for line in text.splitlines():
        is_fenced ^= line.lstrip().startswith("```")
        heading = None if is_fenced else _HEADING.fullmatch(line)
        if heading and depth and len(heading[1]) <= depth:
            break
        if heading and not depth and words.lower() in heading[2].lower():
            depth = len(heading[1])
        found += [line] * bool(depth)
    return "\n".join(found)


def lines_about(code: str, documents: Mapping[str, str]) -> str:
    """Return what the first document that explains a code says about it, as Markdown; empty if no document does.

    The result has every table row about the code, every section whose heading names the code, and every section of that
    document to which one of these rows links.
    """
    for column in (0, 1):  # the second column has the codes of doctor, and those of errors
        for name, text in documents.items():
            if found := "".join(_about(code, column, text)):
                return f"{found}The whole page: `breakglass docs {name}`\n"
    return ""


def _about(code: str, column: int, text: str) -> Iterator[str]:
    """Yield the parts of a document that are about a code, each with its heading."""
    sections = dict(_sections(text))
    is_named = re.compile(rf"(?<![\w-]){re.escape(code)}(?![\w-])").search
    linked = {heading for heading in sections if is_named(heading)} if column == 0 else set()
    for heading, lines in sections.items():
        rows = list(_rows_about(code, column, lines))
        if rows and heading not in linked:
            yield f"## {heading}\n\n" + "\n".join(rows) + "\n\n"
        targets = {target for row in rows for _, target in _LINK.findall(row)}
        linked |= {other for other in sections if f"#{slug(other)}" in targets and other != heading}
    for heading, lines in sections.items():
        if heading in linked:
            yield f"## {heading}\n" + "\n".join(lines).rstrip() + "\n\n"


def _sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the heading and the lines of each section, without those of the sections below it."""
    heading, lines, is_fenced = "", list[str](), False
    for line in text.splitlines():
        is_fenced ^= line.lstrip().startswith("```")
        found = None if is_fenced else _HEADING.fullmatch(line)
        if found:
            yield heading, lines
            heading, lines = found[2], []
        else:
            lines.append(line)
    yield heading, lines


def _rows_about(code: str, column: int, lines: Iterable[str]) -> Iterator[str]:
    """Yield the table rows whose cell in this column names the code, after the table's first two lines."""
    table: list[str] = []
    was_found = False
    for line in lines:
        if not line.startswith("|"):
            table, was_found = [], False
            continue
        table.append(line)
        cells = cells_of(line)
        if len(table) > 2 and column < len(cells) and f"`{code}`" in cells[column]:
            yield from [] if was_found else ["", *table[:2]]
            was_found = True
            yield line


def slug(heading: str) -> str:
    """Return the anchor of a heading, for links."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
