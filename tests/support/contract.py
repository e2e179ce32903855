"""docs/openapi.yaml as a judge: whether an answer of the handler is one that it describes, field by field.

A client has to ignore what it does not know. Here an unknown field is an error, so that none is left undescribed.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # its stubs are one more package
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # its stubs are one more package

OPENAPI = Path(__file__).parent.parent.parent / "docs/openapi.yaml"
_ALERT = "/alert/"
_OBJECTS = "#/components/schemas/"

Schema = dict[str, Any]


@cache
def read_contract() -> Schema:
    """Return docs/openapi.yaml; other tests change no part of it."""
    found: Schema = yaml.safe_load(OPENAPI.read_text(encoding="utf-8"))
    return found


@cache
def _closed() -> Schema:
    """Return the schemas, with no object open for fields that it does not list, and no list of values for others."""
    closed: Schema = json.loads(json.dumps(read_contract()["components"]["schemas"]))
    for each in _parts(closed):
        if "properties" in each:
            each.setdefault("additionalProperties", False)
        if "x-extensible-enum" in each:
            each["enum"] = [*each["x-extensible-enum"], *([None] if "null" in each["type"] else [])]
    for name, schema in closed.items():  # `allOf` of a named object and a field, which a closed object would refuse
        if "allOf" in schema:
            named, more = schema["allOf"]
            base = closed[named["$ref"].removeprefix(_OBJECTS)]
            closed[name] = {**base, "properties": base["properties"] | more["properties"]}
            closed[name]["required"] = base["required"] + more["required"]
    return closed


def _parts(schema: object) -> Iterator[Schema]:
    if isinstance(schema, dict):
        yield schema
    for each in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _parts(each)


@cache
def _validator(schema: str) -> Draft202012Validator:
    """Return what compares a value with a schema, which is given as JSON."""
    return Draft202012Validator({**json.loads(schema), "components": {"schemas": _closed()}})


def find_faults(schema: Schema, value: object) -> list[str]:
    """Return where a value is not what a schema says; of lines, the schema of the line's own type is compared."""
    named = _closed().get(str(schema.get("$ref", "")).removeprefix(_OBJECTS), schema)
    if "discriminator" in named and isinstance(value, dict):
        mapping = named["discriminator"]["mapping"]
        if value.get("type") not in mapping:
            return [f"no line has the type {value.get('type')!r}"]
        schema = {"$ref": mapping[value["type"]]}
    found = _validator(json.dumps(schema)).iter_errors(value)
    return [f"{'.'.join(map(str, each.absolute_path)) or 'the value'}: {each.message[:300]}" for each in found]


def check_answer(method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Fail unless an answer is one that the contract describes; other paths are the page's files."""
    path = path.partition("?")[0]
    responses = _responses(method, f"{_ALERT}{{source}}" if path.startswith(_ALERT) else path)
    kind = headers.get("content-type", "").partition(";")[0]
    if responses is None or method == "HEAD" or not body:
        return
    what = f"{method} {path} answered {status} as {kind}"
    assert kind in responses.get(str(status), {}), f"{what}, which docs/openapi.yaml lacks"
    schema = responses[str(status)][kind].get("schema")
    for line in _values(kind, body) if schema else ():
        faults = find_faults(schema, line)
        assert faults == [], f"{what}, and docs/openapi.yaml says otherwise: {faults}\n{line}"


def _values(kind: str, body: bytes) -> Iterator[object]:
    """Yield the object of an answer, or each of its lines; the last one may be cut."""
    if kind == "application/x-ndjson":
        yield from map(json.loads, body[: body.rfind(b"\n") + 1].splitlines())
    else:
        yield json.loads(body)


def _responses(method: str, path: str) -> Schema | None:
    """Return what a route answers with, by the code and the content type; None for a path that the API does not have.

    Another method than the route's own gets 405, and GET can get the 404 of the page's files.
    """
    routes = read_contract()["paths"].get(path)
    if routes is None:
        return None
    shared = read_contract()["components"]["responses"]
    if method.lower() not in routes:
        return dict.fromkeys(("404", "405"), shared["Error"]["content"])
    responses = routes[method.lower()]["responses"].items()
    return {
        code: (shared[each["$ref"].rpartition("/")[2]] if "$ref" in each else each).get("content", {})
        for code, each in responses
    }
