"""Compares the handler's answers with docs/openapi.yaml, field by field.

A client must ignore fields that it does not know. Here an unknown field is an error, so that each one is described.
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
    """Return docs/openapi.yaml as an object that is shared, so a test must not change it."""
    found: Schema = yaml.load(OPENAPI.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return found


@cache
def _closed() -> Schema:
    """Return the schemas, changed so that no object accepts unlisted fields and no list of values accepts others."""
    closed: Schema = json.loads(json.dumps(read_contract()["components"]["schemas"]))
    for each in _parts(closed):
        if "properties" in each:
            each.setdefault("additionalProperties", False)
        if "x-extensible-enum" in each:
            each["enum"] = [*each["x-extensible-enum"], *([None] if "null" in each["type"] else [])]
    for name, schema in closed.items():  # a closed object would refuse the field that its `allOf` adds
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
    """Return a validator for a schema, which is given as JSON."""
    return Draft202012Validator({**json.loads(schema), "components": {"schemas": _closed()}})


def find_faults(schema: Schema, value: object) -> list[str]:
    """Return the places where a value breaks a schema. A line is compared with the schema of its type."""
    named = _closed().get(str(schema.get("$ref", "")).removeprefix(_OBJECTS), schema)
    if "discriminator" in named and isinstance(value, dict):
        mapping = named["discriminator"]["mapping"]
        if value.get("type") not in mapping:
            return [f"no line has the type {value.get('type')!r}"]
        schema = {"$ref": mapping[value["type"]]}
    found = _validator(json.dumps(schema)).iter_errors(value)
    return [f"{'.'.join(map(str, each.absolute_path)) or 'the value'}: {each.message[:300]}" for each in found]


def check_answer(method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Fail unless the contract describes this answer. Paths outside the contract are the page's files."""
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
    """Yield an answer's object, or the object of each of its lines. The last line may be incomplete."""
    if kind == "application/x-ndjson":
        yield from map(json.loads, body[: body.rfind(b"\n") + 1].splitlines())
    else:
        yield json.loads(body)


def _responses(method: str, path: str) -> Schema | None:
    """Return a route's answers by code and content type, or None for a path that is not part of the API.

    A method that the route does not have gets 405, and GET can get the 404 of the page's files.
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
