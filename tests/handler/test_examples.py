"""docs/examples: a request and its answer of each kind. Every answer to a test's request follows the same schema."""

import json
import re
from pathlib import Path

from breakglass.proxmox.outcome import HTTP_STATUS

from ..support.contract import OPENAPI, check_answer, find_faults
from ..support.rows import each_row

NAMES = {"attached": "done", "history": "done", "lines": "done"}  # the outcome, if it is not the name


@each_row("path", sorted((OPENAPI.parent / "examples").glob("*.json")))
def test_an_example_is_what_the_contract_says(path: Path) -> None:
    """The request and the answer follow docs/openapi.yaml. The outcome is that of the name, with its HTTP code."""
    text = path.read_text(encoding="utf-8")
    example = json.loads(text)
    assert find_faults({"$ref": "#/components/schemas/Request"}, example["request"]["body"]) == []
    lines = example.get("lines", ())
    kind = "application/x-ndjson" if lines else "application/json"
    body = "".join(f"{json.dumps(line)}\n" for line in lines or [example["body"]])
    check_answer("POST", "/pve", example["status"], {"content-type": kind}, body.encode())
    last = lines[-1] if lines else example["body"]
    name = NAMES.get(path.stem, path.stem)
    if "error" in last:
        assert (last["error"]["code"], example["status"]) == (name, 401)
    else:
        assert (last["outcome"], example["status"]) == (name, HTTP_STATUS[name])
        assert last["attached"] == (path.stem in ("attached", "id-reused"))
    assert not re.search(r"whsec_|/tmp/|/root/", text)
