"""The rules that keep the layout what it is: read from the sources, so that no import has to happen to break one."""

import ast
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from agents.pve import words
from handler.verbs import ALLOWABLE, ANYWAY, VERBS

ROOT = Path(__file__).parent.parent
HANDLER = {path.name: path for path in (ROOT / "handler").glob("*.py")}
ROUTES = {f"routes/{path.name}": path for path in (ROOT / "handler/routes").glob("*.py")}
COMMANDS = {f"commands/{path.name}": path for path in (ROOT / "handler/commands").glob("*.py")}
EVERYTHING = {**HANDLER, **ROUTES, **COMMANDS}
AGENT = {path.name: path for path in (ROOT / "agents/pve").glob("*.py")}
PURE = (
    "errors",
    "config",
    "settings",
    "tables",
    "callers",
    "vms",
    "chat_table",
    "signing",
    "challenge",
    "verbs",
    "outcomes",
    "bodies",
    "messages",
    "patience",
    "senders",
    "rules",
    "alerts",
    "examples",
    "sessions",
    "events",
    "failures",
    "brief",
    "sshfiles",
)
IMPURE = ("asyncio", "asyncssh", "starlette", "uvicorn", "subprocess", "socket", "threading", "logging")
CLOCKS_AND_DICE = ("time", "os", "random", "secrets", "uuid")
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), path.name)


def imported(node: ast.AST) -> Iterator[str]:
    """Yield the dotted name of each thing that is imported anywhere under a node; relative ones begin with a dot."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        if isinstance(child, ast.ImportFrom):
            module = "." * child.level + (child.module or "")
            yield from (f"{module}.{alias.name}".replace("..", ".") for alias in child.names)


def functions(node: ast.AST) -> Iterator[FUNCTION]:
    return (child for child in ast.walk(node) if isinstance(child, FUNCTION))


def places(source: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """Yield each statement of a module with the name of the function or class that it is."""
    for node in source.body:
        yield getattr(node, "name", "top level"), node


def attributes(node: ast.AST) -> set[str]:
    return {child.attr for child in ast.walk(node) if isinstance(child, ast.Attribute)}


def names(node: ast.AST) -> set[str]:
    return {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}


# --- 1: pure modules ---


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_do_no_io(name: str) -> None:
    """A pure module imports no library that does I/O, and of ours only what is pure too."""
    for module in imported(tree(HANDLER[f"{name}.py"])):
        first, _, rest = module.partition(".")
        assert first not in IMPURE
        assert first or rest.partition(".")[0] in PURE
        assert first not in ("handler", "agents")


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_are_given_their_time_and_chance(name: str) -> None:
    """A pure module reads no clock, no environment, no file and no random number: they are arguments."""
    source = tree(HANDLER[f"{name}.py"])
    assert {module.partition(".")[0] for module in imported(source)}.isdisjoint(CLOCKS_AND_DICE)
    assert attributes(source).isdisjoint({"now", "utcnow", "today", "environ", "getenv", "read_text", "read_bytes"})
    assert names(source).isdisjoint({"open", "print", "input"})


# --- 2: one list of verbs ---


def test_the_host_agent_knows_the_same_verbs() -> None:
    """The agent's verbs are the handler's, beside the three that only the handler itself says."""
    assert set(words.VERBS) - set(VERBS) == {"job", "ping", "session"}
    assert set(VERBS) <= set(words.VERBS)
    assert len(set(words.VERBS)) == len(words.VERBS)


def test_the_host_agent_agrees_on_what_a_verb_does() -> None:
    """Which verbs change power is the same on both sides; what can be lifted is a refusal of such verbs alone."""
    assert {name for name, verb in VERBS.items() if verb.mutating} == set(words.MUTATING)
    assert {verb for override in ANYWAY.values() for verb in override.verbs} <= set(words.MUTATING)


def test_a_verb_says_what_it_is() -> None:
    """Each verb stands under its own name; what can be allowed is the verbs, and chat."""
    assert {name: verb.name for name, verb in VERBS.items()} == {name: name for name in VERBS}
    assert all(verb.label and verb.consequence.endswith(".") for verb in VERBS.values())
    assert {name for name, verb in VERBS.items() if verb.is_job} == {*words.MUTATING, "forensics"}
    assert set(ALLOWABLE) == {*VERBS, "chat"}


class Buttons(HTMLParser):
    """Collects the attributes of every element that names a verb, and the words that it begins with."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.labels: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if "data-verb" in dict(attrs):
            self.found.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        if len(self.labels) < len(self.found):
            self.labels.append(data.strip())


def test_the_page_has_the_same_verbs() -> None:
    """The page has one button for each of the six verbs under its label, and asks before those that change power."""
    page = Buttons()
    page.feed((ROOT / "static_site/index.html").read_text(encoding="utf-8"))
    six = {name: f"{verb.label}{'…' * verb.mutating}" for name, verb in VERBS.items() if name != "history"}
    assert {str(button["data-verb"]): label for button, label in zip(page.found, page.labels, strict=True)} == six
    assert len(page.found) == len(six)
    assert {button["data-verb"] for button in page.found if "data-consequence" in button} == set(words.MUTATING)


def test_the_page_offers_what_can_be_lifted() -> None:
    """The page has one button for the one refusal that can be lifted, and says the same of what that can cost."""
    page = (ROOT / "static_site/index.html").read_text(encoding="utf-8")
    found = re.findall(r'id="anyway" value="([^"]+)"\s+data-cost="([^"]+)"', page)
    assert found == [(code, override.cost) for code, override in ANYWAY.items()]


# --- 3: one place each ---


def test_one_seam_knows_asyncssh() -> None:
    """Only the connection and its opening import the SSH library: one seam is the whole of its failures."""
    found = {name for name, path in EVERYTHING.items() if any(m.startswith("asyncssh") for m in imported(tree(path)))}
    assert found == {"link.py", "connecting.py"}


def test_one_file_prints() -> None:
    """Only the commands' output prints; everything else says what it has to say to its caller or to the audit."""
    assert {name for name, path in EVERYTHING.items() if "print" in names(tree(path))} == {"commands/output.py"}


# --- 4: the demo is apart ---


def test_nothing_imports_the_demo() -> None:
    """The demo is loaded by the command of its name and by nothing else, so that production has none of it."""
    found: dict[str, list[str]] = {}
    for path in [*EVERYTHING.values(), *AGENT.values(), ROOT / "agents/bundle.py"]:
        for place, node in places(tree(path)):
            found |= {f"{path.name}:{place}": [module] for module in imported(node) if "demo" in module.split(".")}
    assert found == {"demo.py:top level": [".demo.run.run"]}


# --- the host agent ---


@pytest.mark.parametrize("name", sorted(AGENT))
def test_the_agent_loads_nothing_later(name: str) -> None:
    """The agent imports everything when it starts: what is loaded later would come from a disk that may hang."""
    source = tree(AGENT[name])
    assert [module for function in functions(source) for module in imported(function)] == []
    assert (names(source) | attributes(source)).isdisjoint({"importlib", "import_module", "__import__"})
