"""The functions on which the tables of faults depend."""

import pytest

from breakglass.base.findings import error, ok

from ..support.doctor import Setup, found


def test_the_worst_finding_of_a_code_is_returned() -> None:
    """A place that is ok hides no other one that is not; a code that is missing fails, and names the others."""
    bad = error("VM b", "one", "It is broken.", "fix it")
    assert found([ok("VM a", "one", "It is well."), bad, ok("VM c", "one", "It is well.")], "one") == bad
    with pytest.raises(AssertionError, match="It is broken"):
        found([bad], "two")


@pytest.mark.slow
def test_a_run_is_the_command(setup: Setup) -> None:
    """It has the arguments, the environment, the handler's user and the exit code of a `breakglass doctor`."""
    report = setup.doctor("--vm", "devvm", places=[])
    assert (report.code, report.findings, report.stderr) == (0, [], "")
    report = setup.doctor("--unknown")
    assert (report.code, "--unknown" in report.stderr) == (2, True)
