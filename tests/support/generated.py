"""Writes the parts of other files that repeat agents/pve/words.py and the parser: `python -m tests.support.generated`.

In a document, the part is the table with a known first row; in the page, the lines between two comments; in the API's
schema, its version. docs/cli.md is written as a whole.
"""

import argparse
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from breakglass.agents.pve.words import ANYWAY, MUTATING, VERBS, VERSION
from breakglass.base.verbs import READS
from breakglass.base.verbs import VERBS as OFFERED
from breakglass.cli.commands import make_parser
from breakglass.cli.output import EXIT_CODES

ROOT = Path(__file__).parent.parent.parent
_BLOCK = re.compile(r"(?<=// ---- written by ./dev generate from agents/pve/words.py\n).*?(?=// ---- end\n)", re.DOTALL)
_YES = {True: "yes", False: "no"}


def make_files() -> dict[Path, str]:
    """Return the correct text of each of the files by its path."""
    readme, brief = "README.md", "agents/breakglass.md"
    api, agent, schema = "docs/api.md", "docs/host-agent.md", "docs/openapi.yaml"
    page = "static_site/state/verbs.js"
    files = {name: (ROOT / name).read_text(encoding="utf-8") for name in (readme, api, agent, schema, brief, page)}
    for name, first, rows in (
        (
            readme,
            "verb | label | consequence",
            [(name, verb.label, verb.consequence) for name, verb in OFFERED.items()],
        ),
        (api, "verb | changes power | job | allowed by | bearer token | goes with", list(_requests())),
        (agent, "VERB | deadline in seconds | with a `--read-only` key", list(_lines_on_host())),
        (brief, "command | does", list(_commands_of_claude())),
    ):
        files[name] = _with_table(files[name], first, rows)
    files[schema] = re.sub(r"(?<=\n  version: ).*", VERSION, files[schema], count=1)
    files[page], count = _BLOCK.subn(lambda _: _of_page(), files[page])
    assert count == 1
    files["docs/cli.md"] = _of_commands()
    return {ROOT / name: text for name, text in files.items()}


def _with_table(text: str, first: str, rows: Iterable[tuple[str, ...]]) -> str:
    """Return the text with these rows in the table that begins with this row. The first cell of each row is code."""
    body = "".join(f"| `{name}` | {' | '.join(cells)} |\n".replace("|  |", "| |") for name, *cells in rows)
    made, count = re.subn(rf"(?<=\| {re.escape(first)} \|\n)(\|[-|]+\n)(?:\|.*\n)*", rf"\1{body}", text)
    assert count == 1, first
    return made


def _requests() -> Iterable[tuple[str, ...]]:
    for name, verb in OFFERED.items():
        words, allowed_by = ", ".join(f"`{word}`" for word in verb.goes_with), f"`{verb.allowed_by or name}`"
        yield name, _YES[verb.mutating], _YES[verb.is_job], allowed_by, _YES[name in READS], words


def _lines_on_host() -> Iterable[tuple[str, ...]]:
    for name, verb in VERBS.items():
        on_key = "exit 16" if verb.mutating else "exit 10" if verb.needs_signature else "yes"
        yield name, f"{verb.deadline:g}" if verb.deadline else "", on_key


def _commands_of_claude() -> Iterable[tuple[str, ...]]:
    for name in READS:
        yield f"pve {name}", VERBS[name].consequence + f" Takes at most {VERBS[name].deadline:g} s."
    yield "pve job id=ID", VERBS["job"].consequence
    yield "`, `".join(f"pve {name}" for name in MUTATING), "Asks for that verb; see below."


def _of_page() -> str:
    """Return the page's tables. The verbs that change power come first, in the page's order."""
    power = sorted(MUTATING)
    verbs: dict[str, object] = {}
    for name in (*power, *READS, *OFFERED):
        verb = VERBS[name]
        costs = "Unsaved work in the VM" if verb.loses_work else "Nothing"
        takes = "Seconds" + (f"; at most {verb.deadline / 60:g} min" if verb.deadline >= 60 else "")
        more = {"does": verb.does, "costs": costs, "takes": takes, "stages": verb.stages[1:]}
        verbs[name] = {"label": verb.label} | (more if verb.mutating else {})
    return (
        "\n/** @type {Record<string, Verb>} */\n"
        + _script("VERBS", verbs)
        + "\n/** The possible cost of overriding each refusal, by its code. @type {Record<string, string>} */\n"
        + _script("ANYWAY", ANYWAY)
        + "\n/** The power verbs in their order on the page, which never changes. */\n"
        + f"export const POWER = {json.dumps(power)};\n\n"
    )


def _of_commands() -> str:
    """Return docs/cli.md, which has each command with its arguments."""
    codes = re.findall(r"^  (\d+)  +(.+(?:\n {7}.+)*)", EXIT_CODES, re.MULTILINE)
    rows = "".join(f"| {code} | {' '.join(words.split())} |\n" for code, words in codes)
    head = "Every command of `breakglass`, with its arguments. `./dev generate` writes this page from the program."
    commands = "".join(_of_command(make_parser(), ""))
    return f"# The command line\n\n{head}\n\n{commands}## Exit codes\n\n| code | means |\n|---|---|\n{rows}"


def _of_command(parser: argparse.ArgumentParser, what: str) -> Iterable[str]:
    """Yield the section of a command, or the sections of its subcommands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, below in action.choices.items():
                yield from _of_command(below, helps.get(name, ""))
            return
    rows = "".join(
        f"| `{_form(action)}` | {action.help or ''} |\n".replace("|  |", "| |")
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction)
    )
    sentence = what[:1].upper() + what[1:] + "."
    yield f"## {parser.prog}\n\n{sentence}\n\n" + (f"| argument | means |\n|---|---|\n{rows}\n" if rows else "")


def _form(action: argparse.Action) -> str:
    """Return an argument as a person types it."""
    value = str(action.metavar or "") or "\\|".join(action.choices or [action.dest.upper()])
    value = "" if action.nargs == 0 else f"[{value}]" if action.nargs in ("?", "*") else value
    return f"{', '.join(action.option_strings)} {value}".strip()


def _script(name: str, table: Mapping[str, object]) -> str:
    lines = "".join(f"\t{json.dumps(key)}: {json.dumps(value)},\n" for key, value in table.items())
    return f"export const {name} = {{\n\t__proto__: /** @type {{any}} */ (null),\n{lines}}};\n"


if __name__ == "__main__":
    for path, text in make_files().items():
        path.write_text(text, encoding="utf-8")
