"""A table of rows and one test of them: one claim is one case, and its report names each row that fails."""

import functools
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are one more package
from _pytest.mark.structures import ParameterSet

Test = TypeVar("Test", bound=Callable[..., Any])


def each_row(names: str | tuple[str, ...], rows: Iterable[Any]) -> Callable[[Test], Test]:
    """Run the test for each row, as `parametrize` would, but as one case. Each row has its own part of tmp_path."""
    listed = names.replace(" ", "").split(",") if isinstance(names, str) else list(names)
    table = [dict(zip(listed, _values(row, len(listed)), strict=True)) for row in rows]

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        def run(**fixtures: Any) -> None:
            failures = []
            for number, row in enumerate(table):
                own = dict(fixtures)
                if isinstance(path := own.get("tmp_path"), Path):
                    own["tmp_path"] = path / str(number)
                    own["tmp_path"].mkdir()
                try:
                    _run(test, own | row)
                except (Exception, pytest.fail.Exception) as failure:
                    failure.add_note(f"row {number}: {row!r:.2000}")
                    failures.append(failure)
            if failures:
                raise BaseExceptionGroup(f"{len(failures)} of {len(table)} rows", failures)

        signature = inspect.signature(test)
        kept = [value for name, value in signature.parameters.items() if name not in listed]
        run.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
        assert table, "a table without a row proves nothing"
        return run  # type: ignore[return-value]

    return decorate


def _values(row: Any, count: int) -> tuple[Any, ...]:
    if isinstance(row, ParameterSet):
        assert not row.marks, "a row with a mark is a case of its own"
        return tuple(row.values)
    return (row,) if count == 1 else tuple(row)


def _run(test: Callable[..., Any], arguments: dict[str, Any]) -> None:
    if isinstance(patch := arguments.get("monkeypatch"), pytest.MonkeyPatch):
        with patch.context() as own:
            test(**arguments | {"monkeypatch": own})
    else:
        test(**arguments)


def read_rows(file: str, /, **texts: str) -> Any:
    """Return the tables of a YAML file in tests/data. In each text, `@name@` is replaced by the text of that name."""

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: fill(each) for key, each in value.items()}
        if isinstance(value, list):
            return [fill(each) for each in value]
        for name, text in texts.items() if isinstance(value, str) else ():
            value = value.replace(f"@{name}@", text)
        return value

    return fill(yaml.safe_load((Path(__file__).parent.parent / "data" / file).read_text("utf-8")))
