"""Compares texts with those in a file of tests/data, which a person reads when they change."""

import os
from collections.abc import Iterable

from .documents import ROOT


def check_record(name: str, text: str) -> None:
    """Fail unless a file has this text. BREAKGLASS_RECORD=1 writes it first; `git diff` then shows what changed."""
    record = ROOT / name
    if os.environ.get("BREAKGLASS_RECORD") == "1":
        record.write_text(text, encoding="utf-8")
    assert text.splitlines() == record.read_text(encoding="utf-8").splitlines()


def check_cases(name: str, cases: Iterable[tuple[str, Iterable[object]]]) -> None:
    """Compare what is said of each case, one line each, with a file."""
    check_record(name, "\n".join("\n    ".join([case, *map(str, said)]) for case, said in cases) + "\n")
