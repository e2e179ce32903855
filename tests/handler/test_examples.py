"""docs/examples: a request and its answer of each kind, recorded from the demo's host and a real handler.

`BREAKGLASS_RECORD=1 pytest tests/handler/test_examples.py` writes them again.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from breakglass.demo.proxmox.world import World

from ..support.contract import OPENAPI, find_faults, read_contract
from ..support.pve_host import HOPELESS, configure
from ..support.rows import each_row
from ..support.service import Reply, Service
from ..support.sshd import Sshd

pytestmark = [pytest.mark.real("sshd", "qemu"), pytest.mark.shared("world", "sshd", "service")]

EXAMPLES = OPENAPI.parent / "examples"
# The values that an example is about. Of every other value, only the type is compared.
TELLING = (
    *("type", "verb", "vm", "by", "outcome", "reached", "exit_code", "rejected", "attached", "anyway", "state"),
    *("stage", "code", "advice", "stream", "duplicate", "suppressed", "ignored"),
)
OUTPUT = ("stdout", "text", "output")
SCHEMAS = read_contract()["components"]["schemas"]
# An older example may lack these fields.
NEW = {name for each in ("Answer", "Job") for name in {*SCHEMAS[each]["properties"]} - {*SCHEMAS[each]["required"]}}
Example = dict[str, Any]


class Recorder:
    """Sends requests, and keeps each as an example with its answer, without values that only this machine has."""

    def __init__(self, service: Service, sshd: Sshd, world: World) -> None:
        self._service = service
        self._local = {
            f"http://127.0.0.1:{service.port}/": "https://rescue.example.org/",
            f"127.0.0.1:{sshd.port}": "192.0.2.10:22",
            f"ssh -p {sshd.port} ": "ssh ",
            "127.0.0.1": "192.0.2.10",
            str(world.root): "",
        }

    def send(self, body: Example, msg_id: str, headers: dict[str, str] | None = None, at: int | None = None) -> Example:
        data = json.dumps(body).encode()
        all_headers = {**self._service.signed(data, msg_id=msg_id, at=at), **(headers or {})}
        reply = self._service.send("POST", "/pve", data, all_headers)
        return self._example(all_headers, body, reply)

    def _example(self, headers: dict[str, str], body: Example, reply: Reply) -> Example:
        request = {"method": "POST", "path": "/pve", "headers": headers, "body": body}
        is_stream = "ndjson" in reply.headers["content-type"]
        answer = {"lines": list(shortened(reply.lines))} if is_stream else {"body": reply.json}
        text = json.dumps({"request": request, "status": reply.status, **answer})
        for local, general in self._local.items():
            text = text.replace(local, general)
        found: Example = json.loads(text, object_pairs_hook=with_short_texts)
        return found


def with_short_texts(pairs: list[tuple[str, Any]]) -> Example:
    """Return an object in which long texts are cut, which are this machine's evidence and a picture."""
    found = dict(pairs)
    for key in OUTPUT:
        if str(found.get(key)).startswith("== "):
            found[key] = found[key].partition("\n")[0] + "\n…"
    if found.get("screen_png"):
        found["screen_png"] = found["screen_png"][:40] + "…"
    return found


def shortened(lines: list[Example]) -> Iterator[Example]:
    """Yield the lines of a stream without pings, and with only the first three lines of output."""
    left = 3
    for line in lines:
        left -= line["type"] == "output"
        if line["type"] != "ping" and (line["type"] != "output" or left >= 0):
            yield line


def record(service: Service, sshd: Sshd, world: World) -> dict[str, Example]:
    """Return the examples by their names."""
    send = Recorder(service, sshd, world).send
    lines, address = {"accept": "application/x-ndjson"}, f"http://127.0.0.1:{service.port}/"
    found = {
        "done": send({"verb": "status", "vm": "devvm", "to": address}, "msg_example_status"),
        "rejected": send({"verb": "status", "vm": "typo"}, "msg_example_rejected"),
        "stale-timestamp": send({"verb": "status"}, "msg_example_late", at=int(time.time()) - 4000),
        "running": send({"verb": "cycle", "reason": "hung since 02:50"}, "msg_example_cycle", {"prefer": "wait=0"}),
        "busy": send({"verb": "reset"}, "msg_example_busy"),
        "attached": send({"verb": "cycle", "again": True}, "msg_example_cycle", {"prefer": "wait=90"}),
        "id-reused": send({"verb": "reset"}, "msg_example_cycle"),
        "lines": send({"verb": "reset"}, "msg_example_reset", lines),
    }
    configure(world, HOPELESS["iso"][0])
    found["refused"] = send({"verb": "cycle"}, "msg_example_refused")
    found["history"] = send({"verb": "history", "job": "msg_example_reset"}, "msg_example_history")
    sshd.stop()
    try:
        service.not_answering()
        found["unknown"] = send({"verb": "reset", "again": True}, "msg_example_reset")
        found["unreached"] = send({"verb": "reset"}, "msg_example_new")
    finally:
        sshd.start()
    return found


def without_new(value: Any, kept: Any) -> Any:
    """Return a value without the fields that an example lacks because they are newer."""
    if not (isinstance(value, dict) and isinstance(kept, dict)):
        return value
    fields = {key: each for key, each in value.items() if key in kept or key not in NEW}
    return {key: without_new(each, kept.get(key)) for key, each in fields.items()}


def shape(value: Any, name: str = "") -> Any:
    """Return a value in which parts that differ between runs are replaced by their types."""
    if isinstance(value, dict):
        return {key: shape(each, key) for key, each in value.items()}
    if isinstance(value, list):
        shapes = [shape(each) for each in value]
        return [each for number, each in enumerate(shapes) if each not in shapes[:number]]
    if name in TELLING or value is None:
        return value
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


@pytest.mark.all
def test_the_examples_are_what_the_demo_answers(service: Service, sshd: Sshd, world: World) -> None:
    """Each file in docs/examples has the fields, the types and the important values of a current answer."""
    service.answering()
    recorded = record(service, sshd, world)
    if os.environ.get("BREAKGLASS_RECORD") == "1":
        for name, example in recorded.items():
            (EXAMPLES / f"{name}.json").write_text(json.dumps(example, indent=1, ensure_ascii=False) + "\n")
    kept = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in EXAMPLES.glob("*.json")}
    assert set(recorded) == set(kept)
    for name, example in recorded.items():
        assert shape(without_new(example, kept[name])) == shape(kept[name]), name


@pytest.mark.quick
@each_row("path", sorted(EXAMPLES.glob("*.json")))
def test_an_example_is_what_the_schema_says(path: Path) -> None:
    """The body of each request and each answer follow docs/openapi.yaml."""
    example = json.loads(path.read_text(encoding="utf-8"))
    schemas: Callable[[str], dict[str, str]] = lambda name: {"$ref": f"#/components/schemas/{name}"}  # noqa: E731
    assert find_faults(schemas("Request"), example["request"]["body"]) == []
    for line in example.get("lines", ()):
        assert find_faults(schemas("Line"), line) == []
    if "body" in example:
        name = "Error" if "error" in example["body"] else "Answer"
        assert find_faults(schemas(name), example["body"]) == []
    assert not re.search(r"whsec_|/tmp/|/root/", path.read_text(encoding="utf-8"))
