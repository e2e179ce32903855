"""The `[metrics]` table: its own token, and each mistake in it disables the metrics, and nothing else."""

import pytest

from breakglass.auth.signing import verify_bearer
from breakglass.base.errors import Unauthorized
from breakglass.config.load import parse

from ..support.rows import each_row, read_rows
from .test_config import GOOD, problems, read

TOKEN, OTHER = "bgt_" + "m" * 43, "bgt_" + "n" * 43
SENDER = f'[callers.sender]\ntoken = "{OTHER}"\nallow = ["forensics"]\n'
FAULTS = read_rows("wrong_settings.yaml", token=TOKEN, other=OTHER)["metrics"]


def test_a_token_opens_the_metrics_and_no_verb() -> None:
    """Each token of a list, in the table or in a file, belongs to the one reader, who may do nothing else.

    Metrics are disabled by default, and that is no problem.
    """
    assert (read(GOOD).metrics, read(GOOD).problems) == ((), ())
    text = f'{GOOD}[metrics]\ntoken = "{TOKEN}"\ntoken_file = "/run/secrets/metrics"\n'
    config = parse(text, {"/run/secrets/metrics": OTHER}.__getitem__)
    assert config.problems == ()
    for token in (TOKEN, OTHER):
        reader, _ = verify_bearer(config.metrics, token)
        assert reader.refusal("status", "devvm", 0.0) is not None
        with pytest.raises(Unauthorized):
            verify_bearer(config.callers, token)


@each_row(("table", "words"), FAULTS.values())
def test_a_mistake_switches_the_metrics_off(table: str, words: str) -> None:
    """One problem with its place is reported; the callers, the sender among them, are as before."""
    text = table + SENDER + GOOD if table.startswith("metrics =") else GOOD + SENDER + table
    [problem] = problems(text)
    assert f"{problem.place}: {problem.sentence}".startswith(words)
    assert problem.fix
    config = read(text)
    assert config.metrics == ()
    assert {caller.name for caller in config.callers} == {"operator", "sender"}
