"""The documents say what is so: their examples run, their tables match the program, their links lead somewhere."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from breakglass.base.findings import ConfigError
from breakglass.base.verbs import ALLOWABLE
from breakglass.config.load import parse
from breakglass.config.model import Address
from breakglass.config.model_api import ModelApi
from breakglass.proxmox.outcome import HTTP_STATUS, REACHED

from ..support.documents import commands, settings
from ..support.rows import each_row
from ..support.service import Service, new_secret, new_ssh_key

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [*sorted(ROOT.glob("[A-Z]*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "tests/model/README.md"]
pytestmark = pytest.mark.shared("world", "sshd", "service")


def rows(document: Path) -> Iterator[list[str]]:
    """Yield the cells of every table row."""
    for line in document.read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


# --- the examples ---


def paste(service: Service, script: str) -> dict[str, Any]:
    """Run a script as a person who has the command and a key, and types the key when asked; return the answer."""
    secret = service.secrets["operator"]
    environment = {
        **os.environ,
        "BREAKGLASS_URL": f"http://127.0.0.1:{service.port}",
        "BREAKGLASS_SECRET": secret,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = ["bash", "-euo", "pipefail", "-c", script]
    ran = subprocess.run(
        command, env=environment, input=f"{secret}\n", capture_output=True, text=True, timeout=120, check=True
    )
    answer: dict[str, Any] = json.loads(ran.stdout)
    return answer


@pytest.mark.all
@pytest.mark.real("sshd", "curl")
def test_the_recipe_power_cycles_a_vm(service: Service) -> None:
    """The recipe of docs/requests.md, word for word, is a signed request that a running handler answers with done."""
    [choose, send] = commands("docs/requests.md", "Signing")
    body = '{"verb":"cycle","vm":"devvm","reason":"it hangs; “ü” and 100% of it"}'
    choose = choose.replace("8080", str(service.port)).replace(
        '{"verb":"reset","vm":"devvm","reason":"hung since 02:50"}', body
    )
    assert body in choose
    answer = paste(service, choose + send)
    assert (answer["outcome"], answer["reached"], answer["by"]) == ("done", True, "operator")
    assert service.pve("history").json["jobs"][0]["why"] == json.loads(body)["reason"]


@pytest.mark.real("curl", "sshd")
def test_the_readmes_two_lines_reset_a_vm(service: Service) -> None:
    """The request that the README shows, with the command `breakglass sign`, is answered with done."""
    [send] = commands("README.md", "Verbs")
    answer = paste(service, send)
    assert (answer["verb"], answer["outcome"], answer["reached"]) == ("reset", "done", True)


def test_the_example_configuration_is_good() -> None:
    """The example in docs/configuration.md has no problem, and it has callers, a pinned VM, an alert and chat."""
    files = {f"/run/secrets/{name}": new_secret() for name in ("operator", "dashboard", "session")}
    files |= {f"/run/secrets/{name}": new_ssh_key() for name in ("pve_power", "guest")}
    files["/run/secrets/alertmanager"] = "bgt_" + "t" * 43
    files["/run/secrets/claude"] = "ANTHROPIC_API_KEY=x"
    [example] = settings("docs/configuration.md", "An example")
    config = parse(example, files.__getitem__)
    assert config.problems == ()
    assert [caller.name for caller in config.callers] == ["operator", "dashboard", "alertmanager"]
    assert [alert.vm for alert in config.alerts] == ["devvm"]
    assert config.callers[0].allow == set(ALLOWABLE)
    assert config.chat is not None
    assert config.chat.api == ModelApi("ANTHROPIC_API_KEY", "x")
    devvm = config.vms["devvm"]
    assert devvm.hosts == (config.hosts["pve1"],)
    assert len(devvm.host.host_keys) == 2
    assert devvm.host.key == files["/run/secrets/pve_power"].strip()
    assert devvm.guest == Address("claude", "192.0.2.20")
    assert devvm.guest_key == files["/run/secrets/guest"].strip()


# --- the tables ---


def test_every_outcome_has_its_code() -> None:
    """The table of outcomes gives the HTTP code and the `reached` that the handler gives."""
    table = rows(ROOT / "docs/api.md")
    listed = {row[0].strip("`"): row[1:3] for row in table if len(row) == 4 and row[1].isdigit()}
    assert listed == {
        outcome: [str(code), json.dumps(REACHED.get(outcome, True))] for outcome, code in HTTP_STATUS.items()
    }


INSIDE = {"job-unknown"}  # it becomes `"job": null`


def test_every_verdict_code_is_documented() -> None:
    """Each code of the host agent and of the connection is in api.md. tests/unit/test_docs_text.py has the runbook."""
    connection = [ROOT / f"handler/proxmox/{name}.py" for name in ("channel", "connect")]
    text = "".join(path.read_text(encoding="utf-8") for path in [*(ROOT / "agents/pve").rglob("*.py"), *connection])
    codes = set(re.findall(r'\b(?:(?:refusal|failure|Verdict|Unreached)\(\s*|cause, why = )"([a-z-]+)"', text)) - INSIDE
    assert {"stranded", "last-differs", "host-key-differs", "agent-failed"} <= codes
    document = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    assert [code for code in sorted(codes) if not re.search(rf"(?<![\w-]){code}(?![\w-])", document)] == []


TABLES = ("[callers.a]", "[hosts.a]", "[vms.a]", "[sessions]", "[chat]", "[metrics]", "[[alerts]]")


def test_every_setting_is_documented() -> None:
    """Each key that the configuration accepts, as its own hint lists them, is in the table of configuration.md."""
    with pytest.raises(ConfigError) as caught:
        parse("[zzz]\n" + "".join(f"{table}\nzzz = 1\n" for table in TABLES), str)
    hints = [each.fix for each in caught.value.problems if each.code == "unknown-setting"]
    keys = {key for hint in hints for key in hint.removeprefix("use one of ").partition(", or ")[0].split(", ")}
    assert len(hints) == 8
    cells = " ".join(row[0] for row in rows(ROOT / "docs/configuration.md") if len(row) == 2)
    assert keys - set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", cells)))) == set()


# --- what is referred to ---


def slugs(document: Path) -> set[str]:
    """Return the names under which the headings of a document can be linked to."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_row("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: Path) -> None:
    """A relative link or picture names a file of the repository, and its anchor a heading there."""
    text = document.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'\bsrc="([^"]+)"', text):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.is_file(), link
        assert not anchor or anchor in slugs(target), link


def test_every_test_that_is_named_exists() -> None:
    """A claim that names its test, or a file of the repository, names one that is there."""
    known = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for name in re.findall(r"\btest_\w+\b(?!\.py)", text):
            assert f"def {name}(" in known, name
        for path in re.findall(r"\b(?:tests|handler|agents|docs)/[\w/]+\.\w+", text):
            assert (ROOT / path).is_file(), path
