"""Writes the parts of other files that repeat agents/pve/words.py and the parser: `python -m tests.support.generated`.

In a document, the part is the table with a known first row; in the page, the lines between two comments; in the API's
schema, its version. docs/cli.md, the man page and the completions are written as a whole.
"""

import argparse
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import shtab

from breakglass.agents.pve.words import ANYWAY, MUTATING, VERBS, VERSION
from breakglass.base.verbs import READS
from breakglass.base.verbs import VERBS as OFFERED
from breakglass.cli.commands import make_parser
from breakglass.cli.docs import COMPLETIONS
from breakglass.cli.output import EXIT_CODES

ROOT = Path(__file__).parent.parent.parent
SHELL = "handler/cli/shell"
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
    files[f"{SHELL}/breakglass.1"] = _manual()
    for shell, name in COMPLETIONS.items():
        files[f"{SHELL}/{name}"] = shtab.complete(_with_short_texts(make_parser()), shell)
    return {ROOT / name: text for name, text in files.items()}


def _with_short_texts(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Remove the descriptions, in place of which a completion then shows what the overview says."""
    parser.description = None
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _with_short_texts(below)
    return parser


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
    rows = "".join(f"| {code} | {words} |\n" for code, words in _exit_codes())
    head = "Every command of `breakglass`, with its arguments. `./dev generate` writes this page from the program."
    body = ""
    for name, sentence, arguments in _commands(make_parser(), ""):
        table = "".join(f"| `{form}` | {means} |\n".replace("|  |", "| |") for form, means in arguments)
        body += f"## {name}\n\n{sentence}\n\n" + (f"| argument | means |\n|---|---|\n{table}\n" if table else "")
    return f"# The command line\n\n{head}\n\n{body}## Exit codes\n\n| code | means |\n|---|---|\n{rows}"


def _manual() -> str:
    """Return breakglass(1)."""
    head, *_, tail = make_parser().format_help().partition(EXIT_CODES)[0].strip().split("\n\n", 1)[1].rsplit("\n\n", 1)
    page = f'.TH BREAKGLASS 1 "" "Breakglass {VERSION}" ""\n.SH NAME\nbreakglass \\- power verbs for a hung VM\n'
    page += ".SH SYNOPSIS\n.B breakglass\nCOMMAND \\&...\n"
    page += f".SH DESCRIPTION\n.nf\n{_roff(head)}\n.fi\n.PP\n{_roff(tail)}\n.SH COMMANDS\n"
    for name, sentence, arguments in _commands(make_parser(), ""):
        items = "".join(f".TP\n.B {_roff(form)}\n{_roff(means)}\n" for form, means in arguments)
        page += f".SS {_roff(name)}\n{_roff(sentence)}\n{items}"
    codes = "".join(f".TP\n.B {code}\n{_roff(means)}\n" for code, means in _exit_codes())
    return f"{page}.SH EXIT STATUS\n{codes}"


def _roff(text: str) -> str:
    """Return a text for man(1), whose lines may not begin with a point or an apostrophe."""
    text = text.replace("\\|", "|").replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^(?=[.'])", r"\\&", text, flags=re.MULTILINE)


def _exit_codes() -> list[tuple[str, str]]:
    codes = re.findall(r"^  (\d+)  +(.+(?:\n {7}.+)*)", EXIT_CODES, re.MULTILINE)
    return [(code, " ".join(words.split())) for code, words in codes]


def _commands(parser: argparse.ArgumentParser, what: str) -> Iterable[tuple[str, str, list[tuple[str, str]]]]:
    """Yield the name of each command, a sentence about it, and its arguments. A short form has those of `call`."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, below in action.choices.items():
                if not below.get_default("is_short"):
                    yield from _commands(below, helps.get(name, ""))
            return
    shown = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    yield parser.prog, f"{what[:1].upper()}{what[1:]}.", [(_form(action), action.help or "") for action in shown]


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
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
