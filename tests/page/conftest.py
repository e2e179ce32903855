"""The page at an https address, where a browser keeps keys."""

from collections.abc import Iterator

import pytest

from ..support.browser import Stage, Visit, over_https


@pytest.fixture(scope="module")
def bound(stage: Stage, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """The stage behind a proxy with TLS, with a handler of the module's own."""
    with over_https(stage, request.module.__name__.rpartition(".")[2]) as bound:
        yield bound


@pytest.fixture
def person(stage: Stage, bound: Stage) -> Iterator[Visit]:
    """An operator whose browser takes the proxy's certificate for any name."""
    stage.settle()
    bound.service.answering()
    visit = Visit(bound, ignore_https_errors=True)
    yield visit
    visit.close()
